"""How arms scale in a sweep: with the batch size, and with the number of threads."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from bench.analysis.run import estimate_of
from bench.suite.arms import Case, threads_label

if TYPE_CHECKING:
    from bench.analysis.gates import Estimate
    from bench.analysis.speedups import Run
    from bench.suite.arms import Arm

BATCH_SIZE, THREADS = "batch_size", "threads"
LEAST = {BATCH_SIZE: 3, THREADS: 2}  # as many values make a sweep


@dataclass(frozen=True)
class Point:
    """An arm on one case of a sweep.

    `gain` is its rate in images/s over that on the sweep's first case, paired by block; None on the first, and for an
    arm that was not measured there.
    """

    case: Case
    latency_ns: float
    images_per_s: float
    gain: Estimate | None


@dataclass(frozen=True)
class Curve:
    """An arm's points, in the order of what is swept."""

    arm: Arm
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Sweep:
    """Cases that differ in one thing, `over`, and every arm that was measured on at least two of them."""

    over: str
    cases: tuple[Case, ...]
    curves: tuple[Curve, ...]

    @property
    def label(self) -> str:
        """Return what the cases have in common."""
        case = self.cases[0]
        same = {BATCH_SIZE: f"batch {case.batch_size}", THREADS: threads_label(case.threads)}
        del same[self.over]
        return ", ".join(filter(None, (case.model, case.scenario, *same.values())))

    def heading(self, case: Case) -> str:
        """Return what a case is among the others: its batch size, or its threads."""
        return str(case.batch_size) if self.over == BATCH_SIZE else threads_label(case.threads)


def sweeps(run: Run) -> list[Sweep]:
    """Return the run's sweeps, those over the batch size first."""
    found = [_sweep(run, over, cases) for over in (BATCH_SIZE, THREADS) for cases in _groups(run, over)]
    return [each for each in found if each.curves]


def _groups(run: Run, over: str) -> list[list[Case]]:
    """Return the cases that differ in nothing else."""
    groups = defaultdict[Case, list[Case]](list)
    for case in run.cases:
        alike = replace(case, batch_size=0) if over == BATCH_SIZE else replace(case, threads=0)
        groups[alike].append(case)
    return [sorted(cases, key=lambda case: value(case, over)) for cases in groups.values() if len(cases) >= LEAST[over]]


def value(case: Case, over: str) -> int:
    """Return what a case is in a sweep."""
    return int(getattr(case, over))


def _sweep(run: Run, over: str, cases: list[Case]) -> Sweep:
    curves = (Curve(arm, _points(run, arm, cases)) for arm in run.lineup(cases[0]) if not arm.replica)
    return Sweep(over, tuple(cases), tuple(curve for curve in curves if len(curve.points) > 1))


def _points(run: Run, arm: Arm, cases: list[Case]) -> tuple[Point, ...]:
    first = _times_per_image_ns(run, arm, cases[0])
    points = []
    for case in cases:
        times = _times_per_image_ns(run, arm, case)
        if times:
            gains = [math.log(first[block] / times[block]) for block in sorted(first.keys() & times.keys())]
            typical = median(times.values())
            gain = estimate_of(gains, run.preset.confidence) if gains and case != cases[0] else None
            points.append(Point(case, typical * run.images_per_turn(case), 1e9 / typical, gain))
    return tuple(points)


def _times_per_image_ns(run: Run, arm: Arm, case: Case) -> dict[int, float]:
    """Return {block: median over its rounds of the time per image}."""
    images = run.images_per_turn(case)
    return {block: latency / images for block, latency in run.block_latencies_ns(arm, case).items()}
