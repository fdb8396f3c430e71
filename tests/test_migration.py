"""A run of schema 1: the project's first reference run, up to its second block on each case."""

import csv
import gzip
import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from bench.analysis.run import Run
from bench.codec import CodecError
from bench.journal import COMPRESSED, JOURNAL, RUN, read_journal
from bench.migration import SCHEMA, STEPS, current_description, current_records, schema_of
from bench.records import Check, Evidence, Overhead, Parity, Proof, Slice, Start
from bench.report.run_report import write_report
from bench.run_info import read_run
from models.errors import UserError

RECORDED = Path(__file__).parent / "report" / "schema1"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(RECORDED, tmp_path / "run")


@pytest.fixture(scope="module")
def stored():
    """Return the content of run.json and of the journal's lines, as they are on disk."""
    with gzip.open(RECORDED / COMPRESSED, "rt") as lines:
        return json.loads((RECORDED / RUN).read_text()), [json.loads(line) for line in lines]


def test_every_earlier_schema_has_a_step_to_the_next_one() -> None:
    assert list(STEPS) == list(range(1, SCHEMA))


def test_the_description_says_what_it_said(folder, stored) -> None:
    info, (run, _) = read_run(folder), stored
    assert info.schema == SCHEMA
    assert [(arm.id, arm.precision, arm.settings) for arm in info.arms][1] == ("pytorch/eager@A/A", "fp32", "bound")
    assert [case.id for case in info.cases] == ["cnn-small/latency/b1", "cnn-small/latency/b64"]
    assert [(case.id, set(info.lineups[case.id])) for case in info.cases] == [
        (case.id, {arm.id for arm in info.arms}) for case in info.cases
    ]
    for block, before in zip(info.schedule, run["schedule"], strict=True):
        assert [f"{case}/fp32" for case in block.cases] == [before["case"]]
        assert [list(turn.order) for turn in block.rounds] == before["rounds"]
        assert [turn.number for turn in block.rounds] == [0, 1, 2]
        assert {f"{turn.case}/fp32" for turn in block.rounds} == {before["case"]}
    assert (info.stacks["ipex"].baselines, info.stacks["pytorch"].baselines) == (("pytorch",), ())
    assert info.settings == {"bound": run["settings"]}
    assert info.environments["ipex"].bytes is None


def test_no_sample_is_lost_and_only_starts_in_blocks_are_left_out(folder, stored) -> None:
    records, (_, lines) = read_journal(folder), stored
    kept = [line for line in lines if line["kind"] != "start" or line["block"] is None]
    kinds = {"overhead": Overhead, "start": Start, "proof": Proof, "parity": Parity, "check": Check, "slice": Slice}
    assert [type(record) for record in records] == [kinds.get(line["kind"], Evidence) for line in kept]
    for record, line in zip(records, kept, strict=True):
        if isinstance(record, Slice):
            assert record.samples_ns == tuple(line["samples_ns"])
            assert (record.counts, record.walls_ns) == ((len(record.samples_ns),), (line["wall_ns"],))
            assert f"{record.case}/fp32" == line["case"]
    proof = next(record for record in records if isinstance(record, Proof))
    assert (proof.accuracy, proof.memory_bytes, proof.saved_bytes) == (0.9178, None, None)


def test_it_can_be_reported(folder) -> None:
    write_report(folder, Console(file=io.StringIO(), width=80))
    with (folder / "arms.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 12
    assert {(row["status"], row["blocks"], row["saved_bytes"], row["instructions"]) for row in rows} == {
        ("measured", "2", "", "")
    }
    assert "the run did not end" in (folder / "report.md").read_text()
    assert len(Run(folder).of(Slice)) == 2 * 2 * 3 * 6


def test_the_current_schema_is_left_as_it_is() -> None:
    description, record = {"schema": SCHEMA, "other": []}, {"kind": "start", "block": 1}
    assert current_description(description) is description
    assert current_records(record, schema_of(description)) == [record]
    assert current_records(None, SCHEMA) == [None]


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, 99, -1, True, "1", None, 1.0])
def test_another_schema_is_refused(folder, schema) -> None:
    (folder / RUN).write_text(json.dumps({"schema": schema}))
    with pytest.raises(UserError, match=f"has schema {schema!r}, but this version reads the schemas 1 to {SCHEMA}; "):
        read_run(folder)


@pytest.mark.parametrize(
    "changes", [{"schedule": 1}, {"schedule": [{}]}, {"pairs": [[]]}, {"settings": 1}, {"stacks": {"a": 1}}]
)
def test_a_damaged_description_of_an_earlier_schema_is_refused(folder, stored, changes) -> None:
    (folder / RUN).write_text(json.dumps(stored[0] | changes))
    with pytest.raises(UserError, match=r"run\.json: ") as caught:
        read_run(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["null", "[]", "1", "{}", '"start"', '{"kind":"start"}', '{"kind":"end","case":"c"}'])
def test_a_damaged_line_of_an_earlier_schema_is_refused(folder, line) -> None:
    (folder / COMPRESSED).unlink()
    (folder / JOURNAL).write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"journal\.jsonl, line 1: ") as caught:
        read_journal(folder)
    assert "\n" not in str(caught.value)


def test_a_case_that_the_earlier_schema_did_not_have_is_refused() -> None:
    with pytest.raises(CodecError, match="'cnn-small/latency/b1/bf16'"):
        current_records({"kind": "check", "case": "cnn-small/latency/b1/bf16"}, 1)
