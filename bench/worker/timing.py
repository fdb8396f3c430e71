"""The timed loops."""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass
from itertools import islice, pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

from bench.clock import cpu_ns, now_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.clock import Clock


LOSS_PARTS = 20


@dataclass(frozen=True)
class Timing:
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
    lead_in_ns: int = 0,
) -> Timing:
    """Time calls of `step` on successive batches until `budget_ns` have passed, at least one.

    The first `lead_in` calls are not timed, nor those in the first `lead_in_ns`: they refill the caches after another
    process used the cores. Nor are the calls before `begin_ns`, when all workers of a group start to time. The garbage
    collector is off throughout.
    """
    samples: list[int] = []
    gc.collect()
    gc.disable()
    try:
        lead_in_end = clock() + lead_in_ns
        for batch in islice(batches, lead_in):
            step(batch)
        while clock() < max(lead_in_end, begin_ns):
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
    """Return a step and batches that busy-wait after each call, for two fractions of the time of the call.

    The fraction `delay` is timed with the call. If `wait` is larger, the rest of it passes before the next batch is
    yielded, untimed. So arms with the same `wait` start their calls at the same rate and do the same bookkeeping; they
    differ only by `delay`. If both are 0, `step` and `batches` are returned unchanged.
    """
    if not (delay or wait):
        return step, batches
    end_ns = 0

    def delayed_step(batch: Any) -> Any:
        nonlocal end_ns
        before = clock()
        result = step(batch)
        spent_ns = clock() - before
        timed_ns, total_ns = int(spent_ns * delay), int(spent_ns * max(delay, wait))
        begin = clock()
        end_ns = begin + total_ns
        _busy_wait(begin + timed_ns, clock)
        return result

    def delayed_batches() -> Iterator[Any]:
        for batch in batches:
            _busy_wait(end_ns, clock)
            yield batch

    return delayed_step, delayed_batches()


def _busy_wait(end_ns: int, clock: Clock) -> None:
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
    """Time submissions of successive batches until `budget_ns` have passed, at least one; then drain the pipeline.

    The first `lead_in` submissions fill the pipeline; after that, each returns when a batch is done. A sample is the
    time from one return to the next, so that neither filling nor draining is timed.
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
    """Wall and CPU time of an epoch up to now, the part of the wall time spent waiting for batches, and the mean loss.

    `losses` are the mean losses of LOSS_PARTS equal parts of its steps, or of each step if there are fewer.
    """

    wall_ns: int
    cpu_ns: int
    wait_ns: int
    images: int
    loss: float
    losses: tuple[float, ...]


class TimedEpoch:
    """An epoch, trained in one or several parts. The time between the parts does not count."""

    def __init__(
        self,
        step: Callable[[Any, Any, float], float],
        batches: Iterator[tuple[Any, Any]],
        settle: Callable[[], object] = lambda: None,
        clock: Clock = now_ns,
        cpu_clock: Clock = cpu_ns,
    ) -> None:
        """Prepare an epoch of calls of `step`. The images are shuffled when the first of the `batches` is asked for.

        Threads make batches in advance. `settle` waits for those in work: after a part, nothing would time them.
        """
        gc.collect()
        self._step, self._batches, self._settle = step, batches, settle
        self._clock, self._cpu_clock = clock, cpu_clock
        self._wall_ns = self._cpu_ns = self._wait_ns = 0
        self._images, self._losses = list[int](), list[float]()

    def train(self, learning_rates: Sequence[float]) -> EpochTiming:
        """Time one step per learning rate, until the last one's loss is known; return the timing of all parts.

        Raises DivergedError at the first loss that is not finite.
        """
        cpu_before, start = self._cpu_clock(), self._clock()
        for rate in learning_rates:
            before = self._clock()
            inputs, labels = next(self._batches)
            self._wait_ns += self._clock() - before
            loss = self._step(inputs, labels, rate)
            if not math.isfinite(loss):
                raise DivergedError(f"diverged: the loss of step {len(self._losses) + 1} of the epoch is {loss}")
            self._images.append(len(labels))
            self._losses.append(loss)
        before = self._clock()
        self._settle()
        end = self._clock()
        self._wait_ns += end - before
        self._wall_ns += end - start
        self._cpu_ns += self._cpu_clock() - cpu_before
        images, losses = self._images, self._losses
        steps = range(0, len(losses) + 1, max(1, len(losses) // LOSS_PARTS))
        return EpochTiming(
            wall_ns=self._wall_ns,
            cpu_ns=self._cpu_ns,
            wait_ns=self._wait_ns,
            images=sum(images),
            loss=fmean(losses, images),
            losses=tuple(fmean(losses[first:last], images[first:last]) for first, last in pairwise(steps)),
        )


class DivergedError(Exception):
    """A training whose loss or logits are not finite."""


def is_steady(medians: Sequence[float], tolerance: float = 0.05, slices: int = 3) -> bool:
    """Return whether the best of the last `slices` medians lies within `tolerance` of the best of those before.

    A process that warms up becomes faster throughout. A shared machine is slower for moments, which the best of several
    slices does not show.
    """
    if len(medians) < 2 * slices:
        return False
    best = min(medians[-slices:]), min(medians[-2 * slices : -slices])
    return max(best) <= min(best) * (1 + tolerance)
