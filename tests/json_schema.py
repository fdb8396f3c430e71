"""Make the JSON Schemas of a run's files from their dataclasses: `python -m tests.json_schema` writes docs/schema/."""

from __future__ import annotations

import inspect
import json
import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from bench.codec import MAX_INT, MIN_INT
from bench.exports.outputs import OUTPUT_SCHEMA, OUTPUTS
from bench.migration import SCHEMA
from bench.records import KINDS, LINK
from bench.run_info import RunInfo

FOLDER = Path(__file__).parents[1] / "docs" / "schema"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
PLAIN: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer", "minimum": MIN_INT, "maximum": MAX_INT},
    float: {"type": "number"},
    str: {"type": "string"},
}


def schemas() -> dict[str, str]:
    """Return the text of each schema by the name of its file, which has the version of the format."""
    run_definitions: dict[str, Any] = {}
    run = object_schema(RunInfo, run_definitions)
    run["properties"]["schema"] = {"const": SCHEMA}
    definitions: dict[str, Any] = {}
    records = [record_schema(name, kind, definitions) for name, kind in KINDS.items()]
    contents = {
        f"run-{SCHEMA}.schema.json": {"title": "run.json", **run, "$defs": run_definitions},
        f"output-{OUTPUT_SCHEMA}.schema.json": {"title": "what a command prints with --json", **output_schema()},
        f"journal-{SCHEMA}.schema.json": {"title": "a line of journal.jsonl", "oneOf": records, "$defs": definitions},
    }
    return {name: json.dumps({"$schema": DIALECT, **content}, indent=1) + "\n" for name, content in contents.items()}


def record_schema(name: str, kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a line of the journal: no other keys than those of its kind are read."""
    schema = object_schema(kind, definitions)
    ends = {LINK: {"type": "string", "pattern": "^[0-9a-f]{32}$"}}
    return {
        "title": name,
        **schema,
        "properties": {"kind": {"const": name}} | schema["properties"] | ends,
        "required": ["kind", *schema["required"]],
        "additionalProperties": False,
    }


def output_schema() -> dict[str, Any]:
    """Return the schema of what commands print: the version, the command, its exit status, and its own fields."""
    definitions: dict[str, Any] = {}
    commands: dict[type, list[str]] = {}
    for command, kind in OUTPUTS.items():
        commands.setdefault(kind, []).append(command)
    variants = []
    for kind, names in commands.items():
        schema = object_schema(kind, definitions)
        head = {"schema": {"const": OUTPUT_SCHEMA}, "command": {"enum": names}, "status": {"enum": [0, 1]}}
        variants.append(
            {
                "title": f"bench {', '.join(names)}",
                **schema,
                "properties": head | schema["properties"],
                "required": [*head, *schema["required"]],
            }
        )
    return {"oneOf": variants, "$defs": definitions}


def object_schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a dataclass; those of the dataclasses in its fields are added to `definitions`."""
    hints = get_type_hints(kind)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for field in fields(kind):
        if "flat" in field.metadata:
            inner = object_schema(hints[field.name], definitions)
            properties |= inner["properties"]
            required += inner["required"]
        else:
            properties[field.name] = value_schema(hints[field.name], definitions)
            required += [field.name] if field.default is field.default_factory is MISSING else []
    text = inspect.getdoc(kind) or ""
    # A dataclass without a docstring has its signature instead.
    described = {} if text.startswith(f"{kind.__name__}(") else {"description": text}
    return {**described, "type": "object", "properties": properties, "required": required}


def value_schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        name = hint.__name__
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = object_schema(hint, definitions)
        return {"$ref": f"#/$defs/{name}"}
    if hint in PLAIN:
        return PLAIN[hint]
    if origin in (Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if item is type(None) else value_schema(item, definitions)
                          for item in arguments]}  # fmt: skip
    if origin is tuple and arguments[-1] is ...:
        return {"type": "array", "items": value_schema(arguments[0], definitions)}
    if origin is tuple:
        items = [value_schema(item, definitions) for item in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin is dict:
        return {"type": "object", "additionalProperties": value_schema(arguments[1], definitions)}
    raise TypeError(f"{hint!r} has no JSON Schema")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file, content in schemas().items():
        (FOLDER / file).write_text(content, encoding="utf-8")
