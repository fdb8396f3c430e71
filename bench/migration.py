"""Runs of earlier schemas: their files are read as if they had the current one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from bench.codec import CodecError

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = 2

Content: TypeAlias = "dict[str, Any]"


class Migration(NamedTuple):
    """From a schema to the next one: for run.json, and for a record of the journal, which may be left out (None)."""

    description: Callable[[Content], Content]
    record: Callable[[Content], Content | None]


def schema_of(description: Any) -> int:
    """Return the schema of the content of a run.json; raises CodecError for one that this version can't read."""
    schema = description.get("schema") if isinstance(description, dict) else None
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise CodecError(
            f"has schema {schema!r}, but this version reads the schemas 1 to {SCHEMA}; use the version that measured it"
        )
    return schema


def current_description(content: Any) -> Any:
    """Return the content of a run.json with the current schema; raises CodecError if that is not possible."""
    for schema in range(schema_of(content), SCHEMA):
        content = _attempt(STEPS[schema].description, content)
    return content


def current_records(content: Any, schema: int) -> list[Any]:
    """Return what a line of a journal with a `schema` is with the current one: its content, or nothing."""
    contents = [content]
    for number in range(schema, SCHEMA):
        attempted = [_attempt(STEPS[number].record, older) for older in contents]
        contents = [newer for newer in attempted if newer is not None]
    return contents


def _attempt(step: Callable[[Content], Any], content: Any) -> Any:
    try:
        return step(content)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise CodecError(f"is not that of an earlier schema ({type(error).__name__}: {error})") from error


def _describe_groups(run: Content) -> Content:
    """From schema 1: all arms took part in each block, which had one case, and all processes had the same settings."""
    cases = [_case_without_precision(block["case"]) for block in run["schedule"]]
    orders = [block["rounds"] for block in run["schedule"]]
    return run | {
        "schema": 2,
        "pairs": [pair | {"case": _case_without_precision(pair["case"])} for pair in run["pairs"]],
        "ladders": [],
        "lineups": {case: rounds[0] for case, rounds in zip(cases, orders, strict=True)},
        "schedule": [
            {
                "number": block["number"],
                "cases": [case],
                "start": rounds[0],
                "rounds": [{"case": case, "number": number, "order": order} for number, order in enumerate(rounds)],
            }
            for block, case, rounds in zip(run["schedule"], cases, orders, strict=True)
        ],
        "settings": {"bound": run["settings"]},
        "stacks": {
            name: stack | {"baselines": [stack["baseline"]] if stack["baseline"] else []}
            for name, stack in run["stacks"].items()
        },
        "environments": {name: item | {"bytes": None} for name, item in run["environments"].items()},
    }


def _record_groups(record: Content) -> Content | None:
    """From schema 1: an arm was one process, and the starts in blocks, which are not alone, were stored as well."""
    if "case" in record:
        record = record | {"case": _case_without_precision(record["case"])}
    if record["kind"] == "start":
        kept = ("kind", "arm", "case", "import_ns", "build_ns", "first_call_ns")
        return {name: record[name] for name in kept} | {"cached": False} if record["block"] is None else None
    if record["kind"] == "slice":
        record = record | {"counts": [len(record["samples_ns"])], "walls_ns": [record["wall_ns"]]}
        del record["wall_ns"]
    return record


def _case_without_precision(case: str) -> str:
    if not case.endswith("/fp32"):
        raise CodecError(f"has the case {case!r}, and all of schema 1 end with /fp32")
    return case.removesuffix("/fp32")


# By the schema that they lead away from.
STEPS = {1: Migration(_describe_groups, _record_groups)}
