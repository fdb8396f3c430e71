"""The JSON Schemas describe what is written, and say no to what is not read."""

import json

import pytest
from jsonschema_rs import Draft202012Validator

from bench.journal import lines_of
from bench.migration import SCHEMA
from conftest import ROOT
from tests.json_schema import FOLDER, schemas

RUNS = sorted(path.parent for path in (ROOT / "results").glob("reference*/**/run.json"))


def validator(name) -> Draft202012Validator:
    """Return a validator by a committed schema; raises an error if that is no schema."""
    return Draft202012Validator(json.loads((FOLDER / f"{name}-{SCHEMA}.schema.json").read_text()))


def journal_lines(folder) -> list[dict]:
    return [json.loads(line) for line in lines_of(folder, "utf-8")]


def test_the_committed_schemas_are_those_of_the_code() -> None:
    """To mend this, run `python -m tests.json_schema`."""
    assert {path.name: path.read_text() for path in FOLDER.glob("*.schema.json")} == schemas()


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_the_committed_runs_are_valid(folder) -> None:
    validator("run").validate(json.loads((folder / "run.json").read_text()))
    journal = validator("journal")
    for line in journal_lines(folder):
        journal.validate(line)


@pytest.mark.parametrize("damage", ["schema", "seed", "arms", "threads"])
def test_a_run_with_a_missing_or_wrong_field_is_invalid(damage) -> None:
    content = json.loads((ROOT / "results" / "reference" / "run.json").read_text())
    run = validator("run")
    assert run.is_valid(content)
    assert not run.is_valid({key: value for key, value in content.items() if key != damage})
    assert not run.is_valid(content | {damage: "wrong"})


def test_each_kind_of_record_is_refused_with_another_key_or_without_one_of_its_own() -> None:
    journal = validator("journal")
    first_of_kind = {}
    for line in journal_lines(ROOT / "results" / "reference"):
        first_of_kind.setdefault(line["kind"], line)
    assert len(first_of_kind) > 8
    for line in first_of_kind.values():
        assert not journal.is_valid(line | {"more": 1})
        # Some kinds have no fields of their own, and runs of earlier versions have no links.
        for key in [key for key in line if key not in ("kind", "link")][:1]:
            assert not journal.is_valid({name: value for name, value in line.items() if name != key})
    assert not journal.is_valid({"kind": "unheard-of"})
