"""The work that every tool times: one inference, unchanged or slowed down by a known share.

As a script it times itself with a naive loop or, for tools that time processes, only does the work.
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
# Read before a framework binds this thread to one core.
THREADS = usable_cores()


def work(delay: float) -> Callable[[], object]:
    """Return a function that runs one inference with eager PyTorch, each time on another batch."""
    images = standardise(CNN_SMALL, data.load("synthetic").test_images[: BATCH_SIZE * BATCHES])
    weights = load_weights(checkpoint_path(CNN_SMALL), CNN_SMALL)
    spec = InferenceSpec(CNN_SMALL, weights, "eager", "fp32", BATCH_SIZE, images[:BATCH_SIZE])
    session = open_backend("pytorch", THREADS).inference(spec)
    batches = cycle([session.prepare(batch) for batch in np.split(images, BATCHES)])
    step, batches = delayed(session.step, batches, delay, wait=0.0)
    for _ in range(WARM_UP):
        step(next(batches))
    return lambda: step(next(batches))


def mean_ns(call: Callable[[], object], seconds: float) -> float:
    calls, start = 0, now_ns()
    while now_ns() - start < seconds * 1e9:
        call()
        calls += 1
    return (now_ns() - start) / calls


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--calls", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.calls:
        call = work(arguments.delay)
        for _ in range(arguments.calls):
            call()
    else:
        base, slow = (mean_ns(work(delay), arguments.seconds) for delay in (0.0, arguments.delay))
        arguments.output.write_text(str(slow / base), encoding="utf-8")


if __name__ == "__main__":
    main()
