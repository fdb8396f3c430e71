"""The work that every tool times: one inference, as it is or slowed down by a known share.

As a script it times itself the naive way, or just works, for tools that time whole processes.
"""

from __future__ import annotations

import argparse
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backends.protocol import InferenceSpec
from backends.registry import open_backend
from bench.clock import now_ns
from bench.machine.facts import usable_cores
from bench.worker.timing import delayed
from models import data
from models.data import standardise
from models.weights import checkpoint_path, load_weights
from models.zoo import CNN_SMALL

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH_SIZE, BATCHES, WARM_UP = 64, 8, 10
THREADS = usable_cores()  # before a framework binds this thread, and with it all that is asked later, to one core


def work(delay: float) -> Callable[[], object]:
    """Return one inference of a batch by eager PyTorch, each call of another batch."""
    images = standardise(CNN_SMALL, data.load("synthetic").test_images[: BATCH_SIZE * BATCHES])
    weights = load_weights(checkpoint_path(CNN_SMALL), CNN_SMALL)
    deployment = InferenceSpec(CNN_SMALL, weights, "eager", "fp32", BATCH_SIZE, images[:BATCH_SIZE])
    session = open_backend("pytorch", THREADS).inference(deployment)
    batches = cycle([session.prepare(batch) for batch in np.split(images, BATCHES)])
    step, batches = delayed(session.step, batches, delay, wait=0.0)
    for _ in range(WARM_UP):
        step(next(batches))
    return lambda: step(next(batches))


def mean_ns(call: Callable[[], object], seconds: float) -> float:
    """Return the mean time of a call, as a loop with a stopwatch gives it."""
    calls, start = 0, now_ns()
    while now_ns() - start < seconds * 1e9:
        call()
        calls += 1
    return (now_ns() - start) / calls


def main() -> None:
    """Work so many times, or time both ways one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--calls", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--output", type=Path)
    wanted = parser.parse_args()
    if wanted.calls:
        call = work(wanted.delay)
        for _ in range(wanted.calls):
            call()
    else:
        base, slow = (mean_ns(work(delay), wanted.seconds) for delay in (0.0, wanted.delay))
        wanted.output.write_text(str(slow / base), encoding="utf-8")


if __name__ == "__main__":
    main()
