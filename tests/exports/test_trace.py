"""The schedule as trace events: in the order of the journal, without overlap."""

import itertools
import json
from dataclasses import replace

import pytest

from bench.exports.trace import to_trace
from bench.records import BlockEnd, Slice, TrainedEpoch
from tests.analysis.recorded_run import AA, BLOCKS, CASE, COMPILE, EAGER, JIT, ROUNDS, inference_run, training_run


def bars(run) -> list:
    content = json.loads(to_trace(run)["trace.json"])
    return [event for event in content["traceEvents"] if event["ph"] == "X"]


def test_every_turn_is_a_bar_in_the_row_of_its_arm(tmp_path) -> None:
    run = inference_run(tmp_path / "run").read()
    content = json.loads(to_trace(run)["trace.json"])
    rows = {event["args"]["name"]: event["tid"] for event in content["traceEvents"] if event["name"] == "thread_name"}
    assert list(rows) == ["blocks", EAGER.id, AA.id, COMPILE.id, JIT.id]
    turns = [event for event in bars(run) if event["tid"] != rows["blocks"]]
    assert len(turns) == 4 * BLOCKS * ROUNDS
    assert {(event["name"], event["tid"]) for event in turns} == {(name, rows[name]) for name in list(rows)[1:]}
    # Those of the Trace Event Format for a complete event, times in microseconds.
    for event in turns:
        assert event.keys() == {"name", "ph", "ts", "dur", "pid", "tid", "args"}
        assert event["dur"] == 1000
        assert event["args"].keys() == {"case", "block", "round", "position"}


def test_turns_follow_each_other_after_the_phases_of_their_block(tmp_path) -> None:
    builder = inference_run(tmp_path / "run")
    order = sorted(
        (record for record in builder.records if isinstance(record, Slice) and record.block <= 2),
        key=lambda record: (record.block, record.round),
    )
    others = [record for record in builder.records if not isinstance(record, Slice)]
    turns_ns = 12 * 10**6 + 12 * 500
    ends = [BlockEnd(block, (CASE.id,), 0, 7000, 3000, turns_ns) for block in (1, 2)]
    builder.records = [*others, *order, *ends]
    events = bars(builder.read())
    assert [event["name"] for event in events[:2]] == ["block 1: start processes", "block 1: warm up"]
    turns = [event for event in events if event["tid"] and event["args"]["block"] == 1]
    assert turns[0]["ts"] == 10
    assert [turn["name"] for turn in turns[:4]] == [EAGER.id, AA.id, COMPILE.id, JIT.id]
    gaps = [later["ts"] - turn["ts"] - turn["dur"] for turn, later in itertools.pairwise(turns)]
    assert gaps == [pytest.approx(0.5)] * 11
    second = next(event for event in events if event["name"] == "block 2: start processes")
    assert second["ts"] == pytest.approx(10 + turns_ns / 1e3)


def test_epochs_of_training_are_turns(tmp_path) -> None:
    events = bars(training_run(tmp_path / "run").read())
    assert {event["dur"] for event in events if event["args"].get("round") == 0} >= {12_012_000}


def test_the_parts_of_epochs_alternate(tmp_path) -> None:
    builder = training_run(tmp_path / "run")
    builder.remove(lambda record: not isinstance(record, TrainedEpoch) or (record.block, record.round) != (1, 1))
    names = [record.arm for record in builder.records]
    for name, parts in zip(names, ((2, 4), (3,), (5, 7)), strict=True):
        parts_ns = tuple(part * 1000 for part in parts)
        builder.change(TrainedEpoch, lambda turn, of=name: turn.arm == of, wall_ns=sum(parts_ns), parts_ns=parts_ns)
    turns = [(event["name"], event["ts"], event["dur"]) for event in bars(builder.read()) if event["tid"]]
    assert turns == [
        (names[0], 0, 2), (names[1], 2, 3), (names[2], 5, 5), (names[0], 10, 4), (names[2], 14, 7),
    ]  # fmt: skip


def test_cases_that_share_processes_share_a_block(tmp_path) -> None:
    builder = inference_run(tmp_path / "run")
    other = replace(CASE, batch_size=64)
    builder.records += [replace(record, case=other.id) for record in builder.records if isinstance(record, Slice)]
    builder.describe(cases=(CASE, other), lineups={CASE.id: builder.info.lineups[CASE.id], other.id: (EAGER.id,)})
    builder.remove(lambda record: isinstance(record, Slice) and record.case == other.id and record.arm != EAGER.id)
    phases = [event["name"] for event in bars(builder.read()) if not event["tid"]]
    assert phases == [f"block {block}: turns" for block in range(1, BLOCKS + 1)]
