"""Go on with a run that was interrupted or killed."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from bench.records import BlockEnd, Choice, End, Failure, LoadSearch, Proof, Resume, end_of_finished
from bench.run_info import RunInfo
from bench.suite.arms import Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.engine.context import Tally
    from bench.records import Record
    from bench.suite.schedule import Block

# Number and cases of each block that was measured to its end.
Finished: TypeAlias = AbstractSet[tuple[int, tuple[str, ...]]]


def difference(before: RunInfo, now: RunInfo) -> str | None:
    """Return the name of a field in which a run and its continuation differ, or None.

    What follows from the moment of the start may differ, and the size of an environment: interpreters write caches.
    """
    before, now = _lasting(before), _lasting(now)
    return next(
        (field.name for field in fields(RunInfo) if getattr(before, field.name) != getattr(now, field.name)), None
    )


def _lasting(info: RunInfo) -> RunInfo:
    return replace(
        info,
        command=(),
        started="",
        advice=(),
        # No arm sees those that are not handed on.
        variables=info.variables and replace(info.variables, dropped=()),
        machine=replace(info.machine, load=None, memory_bytes=None),
        environments={name: replace(environment, bytes=None) for name, environment in info.environments.items()},
    )


def finished_blocks(records: Sequence[Record]) -> Finished:
    return {(record.block, record.cases) for record in records if isinstance(record, BlockEnd)}


def is_prepared(records: Sequence[Record]) -> bool:
    """Return whether a run has begun with its blocks."""
    return end_of_finished(records) > 0


def is_finished(block: Block, finished: Finished) -> bool:
    return (block.number, block.cases) in finished


def spent_ns(records: Sequence[Record]) -> int:
    """Return how long a run has measured; of a start that was killed, only its blocks are known."""
    spent = 0
    for record in records:
        match record:
            case Resume():
                spent = record.spent_ns
            case End():
                spent = record.wall_ns
            case BlockEnd():
                spent += record.wall_ns
    return spent


def restore(tally: Tally, records: Sequence[Record]) -> None:
    """Fill a tally, except for the oracle, with what the proof pass and the finished blocks have found."""
    # What follows belongs to a block that is measured again.
    for record in records[: end_of_finished(records)]:
        if isinstance(record, Proof):
            tally.labels[record.arm, record.case] = np.array(list(map(int, record.labels)), dtype=np.int64)
            known_bytes = tally.memory_bytes.get((record.arm, 0), 0)
            tally.memory_bytes[record.arm, 0] = max(known_bytes, record.memory_bytes or 0)
        elif isinstance(record, Choice):
            tally.splits[record.arm, record.case] = Split(record.streams, record.threads)
        elif isinstance(record, LoadSearch):
            tally.rates[record.arm, record.case] = record.rate
        elif isinstance(record, Failure):
            place = record.arm, record.case
            if record.skipped:
                tally.unsupported.add(place)
            if record.block is None:
                tally.labels.pop(place, None)
            else:
                tally.failed_blocks[place] += 1
