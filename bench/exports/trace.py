"""The schedule of a run as trace events, which Perfetto and other viewers of Chrome traces show."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING, Any

from bench.records import BlockEnd, LoadRun, Slice, TrainedEpoch, Turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.analysis.run import Run

PROCESS, PHASES = 1, 0


def to_trace(run: Run) -> dict[str, str]:
    """Return one file: a row for each arm, a bar for each of its turns, and the phases of each block.

    The journal has the order and the duration of turns, and the durations of a block's phases. So turns follow each
    other, and what is left of a block's time is shared equally between them.
    """
    arms = {arm.id: number for number, arm in enumerate(run.arms, PHASES + 1)}
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": PROCESS, "tid": PHASES, "args": {"name": run.info.suite.name}},
        _thread_name(PHASES, "blocks"),
        *(_thread_name(number, name) for name, number in arms.items()),
    ]
    blocks = defaultdict[tuple[int, str], list[Turn]](list)
    for record in run.records:
        if isinstance(record, Slice | TrainedEpoch | LoadRun):
            blocks[record.block, _group(run, record)].append(record)
    ends = {(end.block, case): end for end in run.of(BlockEnd) for case in end.cases}
    start_ns = 0.0
    for turns in blocks.values():
        start_ns = _add_block(events, turns, ends.get((turns[0].block, turns[0].case)), start_ns, arms)
    content = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"started": run.info.started}}
    return {"trace.json": json.dumps(content, allow_nan=False) + "\n"}


def _group(run: Run, turn: Turn) -> str:
    """Return the key of the cases that one process of an arm serves in turn."""
    return "\n".join(next(case.group for case in run.cases if case.id == turn.case))


def _add_block(
    events: list[dict[str, Any]],
    turns: Sequence[Turn],
    end: BlockEnd | None,
    start_ns: float,
    arms: dict[str, int],
) -> float:
    """Add the events of a block that starts at this time; return when it ends."""
    number, bars = turns[0].block, list(_bars(turns))
    now_ns, pause_ns = start_ns, 0.0
    if end:
        for name, duration_ns in (("start processes", end.build_ns), ("warm up", end.warm_up_ns)):
            events.append(_bar(f"block {number}: {name}", PHASES, now_ns, duration_ns, {"block": number}))
            now_ns += duration_ns
        pause_ns = max(0.0, (end.turns_ns - sum(duration_ns for _, duration_ns in bars)) / len(bars))
    first_ns = now_ns
    for turn, duration_ns in bars:
        about = {"case": turn.case, "block": number, "round": turn.round, "position": turn.position}
        events.append(_bar(turn.arm, arms[turn.arm], now_ns, duration_ns, about))
        now_ns += duration_ns + pause_ns
    events.append(_bar(f"block {number}: turns", PHASES, first_ns, now_ns - first_ns, {"block": number}))
    return now_ns


def _bars(turns: Sequence[Turn]) -> Iterator[tuple[Turn, int]]:
    """Yield what each arm did, with its duration, in order: in a round of training, the arms alternate in parts."""
    for _, group in groupby(turns, lambda turn: (turn.case, turn.round)):
        arms = list(group)
        parts = [(turn.parts_ns if isinstance(turn, TrainedEpoch) else ()) or (turn.wall_ns,) for turn in arms]
        for durations_ns in zip_longest(*parts):
            for turn, duration_ns in zip(arms, durations_ns, strict=True):
                if duration_ns is not None:
                    yield turn, duration_ns


def _bar(name: str, row: int, start_ns: float, duration_ns: float, about: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name, "ph": "X", "ts": start_ns / 1e3, "dur": duration_ns / 1e3, "pid": PROCESS, "tid": row,
        "args": about,
    }  # fmt: skip


def _thread_name(row: int, name: str) -> dict[str, Any]:
    return {"name": "thread_name", "ph": "M", "pid": PROCESS, "tid": row, "args": {"name": name}}
