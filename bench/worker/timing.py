"""The timed loops."""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from bench.clock import cpu_ns, now_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.clock import Clock


@dataclass(frozen=True)
class Timing:
    """The raw durations of one slice's iterations, and wall and CPU time of the slice; all in ns."""

    samples_ns: tuple[int, ...]
    wall_ns: int
    cpu_ns: int


def time_slice(
    step: Callable[[Any], Any],
    batches: Iterator[Any],
    budget_ns: int,
    lead_in: int,
    clock: Clock = now_ns,
    cpu_clock: Clock = cpu_ns,
    begin_ns: int = 0,
) -> Timing:
    """Call `step` on successive batches until `budget_ns` have passed; at least once.

    The first `lead_in` calls refill caches after another process had the cores; they are not timed. Nor are those until
    `begin_ns`, the moment at which all members of a team begin. The garbage collector waits until the slice is over.
    """
    samples: list[int] = []
    gc.collect()
    gc.disable()
    try:
        for batch in islice(batches, lead_in):
            step(batch)
        while begin_ns and clock() < begin_ns:
            step(next(batches))
        cpu_before = cpu_clock()
        before = end = clock()
        deadline = before + budget_ns
        while not samples or end < deadline:
            batch = next(batches)
            start = clock()
            step(batch)
            end = clock()
            samples.append(end - start)
        cpu_after = cpu_clock()
    finally:
        gc.enable()
    return Timing(tuple(samples), end - before, cpu_after - cpu_before)


def delayed(
    step: Callable[[Any], Any], batches: Iterator[Any], delay: float, wait: float, clock: Clock = now_ns
) -> tuple[Callable[[Any], Any], Iterator[Any]]:
    """Return a step and batches that keep busy after each call for the larger of two shares of its time.

    The share `delay` belongs to the call and is timed with it; what `wait` has beyond it passes before the next batch
    is there. Arms of one `wait` begin each call alike, however much of it is timed, and do the same bookkeeping in it:
    they differ by `delay` of the call's own time. Without either share both are returned as they are.
    """
    if not (delay or wait):
        return step, batches
    end_ns = 0

    def slower(batch: Any) -> Any:
        nonlocal end_ns
        before = clock()
        result = step(batch)
        spent = clock() - before
        timed, whole = int(spent * delay), int(spent * max(delay, wait))
        begin = clock()
        end_ns = begin + whole
        _keep_busy(begin + timed, clock)
        return result

    def late() -> Iterator[Any]:
        for batch in batches:
            _keep_busy(end_ns, clock)
            yield batch

    return slower, late()


def _keep_busy(end_ns: int, clock: Clock) -> None:
    while clock() < end_ns:
        pass


def time_pipeline(
    submit: Callable[[Any], Any],
    drain: Callable[[], Any],
    batches: Iterator[Any],
    budget_ns: int,
    lead_in: int,
    clock: Clock = now_ns,
    cpu_clock: Clock = cpu_ns,
) -> Timing:
    """Submit successive batches until `budget_ns` have passed, at least one; drain what is left after that.

    The first `lead_in` fill the pipeline; from then on a submission returns when a batch is done. A sample is the time
    from one return to the next: none is begun before the pipeline is full, none ends in its emptying.
    """
    samples: list[int] = []
    gc.collect()
    gc.disable()
    try:
        for batch in islice(batches, lead_in):
            submit(batch)
        cpu_before = cpu_clock()
        before = end = clock()
        deadline = before + budget_ns
        while not samples or end < deadline:
            start = end
            submit(next(batches))
            end = clock()
            samples.append(end - start)
        cpu_after = cpu_clock()
        drain()
    finally:
        gc.enable()
    return Timing(tuple(samples), end - before, cpu_after - cpu_before)


@dataclass(frozen=True)
class EpochTiming:
    """One epoch's wall and CPU time and the time in which it waited for its next batch, in ns; its mean loss."""

    wall_ns: int
    cpu_ns: int
    wait_ns: int
    images: int
    loss: float


def time_epoch(
    step: Callable[[Any, Any, float], float],
    begin: Callable[[], Iterator[tuple[Any, Any]]],
    learning_rates: Sequence[float],
    clock: Clock = now_ns,
    cpu_clock: Clock = cpu_ns,
) -> EpochTiming:
    """Take one step on each batch; timed from before the images are shuffled until the last step's loss is known.

    `begin` shuffles and returns the batches. Raises DivergedError at the first loss that is no finite number.
    """
    gc.collect()
    wait_ns, images, total = 0, 0, 0.0
    cpu_before, start = cpu_clock(), clock()
    batches = begin()
    for index, rate in enumerate(learning_rates):
        before = clock()
        inputs, labels = next(batches)
        wait_ns += clock() - before
        loss = step(inputs, labels, rate)
        if not math.isfinite(loss):
            raise DivergedError(f"diverged: the loss of step {index + 1} of {len(learning_rates)} is {loss}")
        images += len(labels)
        total += loss * len(labels)
    end = clock()
    return EpochTiming(end - start, cpu_clock() - cpu_before, wait_ns, images, total / images)


class DivergedError(Exception):
    """A training whose loss is no finite number any more."""


def is_level(medians: Sequence[float], tolerance: float = 0.05, slices: int = 3) -> bool:
    """Tell whether the last `slices` medians lie within `tolerance` of each other: the steady state."""
    last = medians[-slices:]
    return len(last) == slices and max(last) <= min(last) * (1 + tolerance)
