"""Measure many arms for hours of simulated time, to see that memory and descriptors stay flat.

    python -m tests.experiments.soak [ARMS]

The blocks, the timed loop, the backend that does nothing and the journal are the real ones. The clock is not: each call
takes ten simulated milliseconds. There are no processes, as a thousand of them would not fit into memory.
"""

from __future__ import annotations

import gc
import pathlib
import sys
import tempfile
import tracemalloc
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count, repeat
from pathlib import Path
from unittest.mock import patch

import numpy as np

from backends.null import NullSession
from bench.engine import block as module
from bench.engine.block import InferenceBlock
from bench.engine.context import RunContext, Tally
from bench.journal import Journal, read_journal
from bench.records import BlockEnd, Failure, Slice
from bench.suite.arms import Arm
from bench.suite.plan import make_plan
from bench.suite.schedule import Block, Round
from bench.worker.messages import Build, BuildReply, Predict, PredictReply, ProofReply, Prove, RunSlice, SliceReply
from bench.worker.timing import time_slice
from models.data import DataSet
from tests.engine.conftest import ONE, PRESET, SUITE, FakeGroup

CALL_NS, SLICE_NS, ROUNDS, ARMS_OF_A_BLOCK, IMAGES = 10_000_000, 1_000_000_000, 20, 50, 12


@dataclass(frozen=True)
class Soak:
    """What a soak has measured; `memory` and `descriptors` are those after each block."""

    samples: int
    simulated_s: float
    failures: int
    memory: tuple[int, ...]
    descriptors: tuple[int, ...]


def null_group(clock: count[int]) -> FakeGroup:
    session, logits = NullSession(1), np.zeros((IMAGES, 10), np.float32)

    def predict(request: Predict) -> PredictReply:
        np.save(request.file, logits)
        return PredictReply(IMAGES)

    def run_slice(request: RunSlice) -> SliceReply:
        now = clock.__next__
        timing = time_slice(session.step, repeat(logits), request.budget_ns, 0, clock=now, cpu_clock=now)
        return SliceReply(timing.samples_ns, timing.wall_ns, timing.wall_ns, 0)

    return FakeGroup(
        {
            Build: lambda _: BuildReply(1, 2, 3),
            Predict: predict,
            RunSlice: run_slice,
            Prove: lambda _: ProofReply("fp32", 1, (), {}, 1),
        }
    )


def soak(folder: Path, arms: int) -> Soak:
    """Measure so many arms, a few of them in each block."""
    # Half of the readings are the starts of calls, half are the ends.
    clock = count(0, CALL_NS)
    every = [Arm("null", "constant", settings=f"s{number}") for number in range(arms)]
    preset = replace(PRESET, rounds=ROUNDS, slice_ns=SLICE_NS, warm_up_limit_ns=10 * SLICE_NS)
    plan = replace(make_plan(SUITE, preset, seed=1, threads=1), arms=tuple(every))
    none = np.zeros((IMAGES, 28, 28), np.uint8), np.zeros(IMAGES, np.uint8)
    (folder / "logs").mkdir()
    (folder / "scratch").mkdir()
    context = RunContext(plan, DataSet("none", "digest", *none, *none), folder, folder / "scratch", {})
    memory, descriptors = [], []
    with ExitStack() as stack:
        for name, value in {
            "start_group": lambda *_: null_group(clock),
            "build_sessions": lambda *_, **__: None,
            "core_sets": lambda *_: [(0,)],
            "wait_until_idle": lambda *_: None,
            "now_ns": clock.__next__,
        }.items():
            stack.enter_context(patch.object(module, name, value))
        stack.enter_context(
            patch.object(module.counters, "quiet_core_sets", lambda sizes: {size: [0] for size in sizes})
        )
        tally = Tally(stack.enter_context(Journal(folder)))
        tally.oracle[ONE.model] = np.zeros((IMAGES, 10))
        tally.labels |= {(arm.id, ONE.id): np.zeros(IMAGES, np.int64) for arm in every}
        # As in a worker: the collection before each slice has little to traverse.
        gc.freeze()
        stack.callback(gc.unfreeze)
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for number, first in enumerate(range(0, arms, ARMS_OF_A_BLOCK), 1):
            order = tuple(arm.id for arm in every[first : first + ARMS_OF_A_BLOCK])
            rounds = tuple(Round(ONE.id, turn, order) for turn in range(ROUNDS))
            InferenceBlock(context, tally, Block(number, (ONE.id,), order, rounds)).measure()
            gc.collect()
            memory.append(traced_bytes())
            descriptors.append(len(list(Path("/proc/self/fd").iterdir())))
    records = read_journal(folder)
    return Soak(
        samples=sum(len(record.samples_ns) for record in records if isinstance(record, Slice)),
        simulated_s=sum(record.wall_ns for record in records if isinstance(record, BlockEnd)) / 1e9,
        failures=sum(isinstance(record, Failure) for record in records),
        memory=tuple(memory),
        descriptors=tuple(descriptors),
    )


def traced_bytes() -> int:
    # The interpreter's table of interned strings, which pathlib fills, grows in few large steps and is no leak.
    interned = tracemalloc.Filter(inclusive=False, filename_pattern=pathlib.__file__)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([interned]).traces)


def main(arms: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        found = soak(Path(name), arms)
    sys.stdout.write(
        f"{arms:,} arms, {found.samples:,} samples, {found.simulated_s / 3600:.1f} simulated hours, "
        f"{found.failures} failures; memory after the first block {found.memory[0]:,} bytes, "
        f"after the last {found.memory[-1]:,}; descriptors {sorted(set(found.descriptors))}\n"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
