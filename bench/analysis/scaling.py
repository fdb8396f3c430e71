"""How arms scale in a sweep: with the batch size, and with the numbers of threads and of workers."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from bench.analysis.gates import estimate_of
from bench.analysis.latency import AS_IT_WAS
from bench.analysis.speedups import failed_blocks_faults
from bench.analysis.stats import Interval
from bench.analysis.training import scaling_faults
from bench.suite.arms import BEST_THREADS, QUERY_SAMPLES, STRONG, WEAK, Case, threads_label, workers_label

if TYPE_CHECKING:
    from bench.analysis.gates import Estimate
    from bench.analysis.latency import Rule
    from bench.analysis.run import Run
    from bench.suite.arms import Arm

BATCH_SIZE, THREADS, WORKERS = "batch_size", "threads", "workers"
# With fewer values it is no sweep.
MIN_VALUES = {BATCH_SIZE: 3, THREADS: 2, WORKERS: 2}


@dataclass(frozen=True)
class Point:
    """An arm on one case of a sweep.

    `gain` is its throughput in images/s relative to that on the sweep's first case, paired by block; None on the first,
    and for an arm that was not measured there. `faults` are why it must not be used.
    """

    case: Case
    latency_ns: float
    images_per_s: float
    gain: Estimate | None
    faults: tuple[str, ...] = ()

    @property
    def efficiency(self) -> float | None:
        """Return the throughput of a group of workers, as a share of as many times that of one."""
        if self.gain is None or not self.case.workers:
            return None
        return self.gain.speedup / self.case.workers

    @property
    def efficiency_interval(self) -> Interval | None:
        if self.gain is None or self.gain.ratio_interval is None or not self.case.workers:
            return None
        interval = self.gain.ratio_interval
        return Interval(interval.low / self.case.workers, interval.high / self.case.workers)


@dataclass(frozen=True)
class Curve:
    """An arm's points, in the order of the sweep."""

    arm: Arm
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Sweep:
    """Cases that differ only in `over`, and the arms that were measured on at least two of them."""

    over: str
    cases: tuple[Case, ...]
    curves: tuple[Curve, ...]

    @property
    def label(self) -> str:
        """Return what the cases have in common."""
        # The first case of workers has one, which does not scale.
        case = self.cases[-1]
        common = threads_label(case.threads) if self.over == BATCH_SIZE else f"batch {case.batch_size}"
        # First what tells two sweeps apart: a narrow plot cuts the end off.
        way, whose = {STRONG: ("strong scaling", " for all workers"), WEAK: ("weak scaling", " for each worker")}.get(
            case.scaling, ("", "")
        )
        return ", ".join(filter(None, (way, case.model, case.scenario, f"{common}{whose}")))

    @property
    def places(self) -> list[float]:
        """Return the places on a numeric axis; best threads have none."""
        return [place for case in self.cases if math.isfinite(place := value(case, self.over))]

    def heading(self, case: Case) -> str:
        if self.over == WORKERS:
            return workers_label(case.workers)
        return str(case.batch_size) if self.over == BATCH_SIZE else threads_label(case.threads)


def sweeps(run: Run) -> list[Sweep]:
    """Return the run's sweeps, those over the batch size first."""
    if any(case.workers for case in run.cases):
        return _sweeps_over_workers(run)
    groups = defaultdict[tuple[str, Case], list[Case]](list)
    for over in (BATCH_SIZE, THREADS):
        # Throughput is not the inverse of a percentile.
        for case in (case for case in run.cases if case.scenario not in QUERY_SAMPLES):
            alike = replace(case, batch_size=0) if over == BATCH_SIZE else replace(case, threads=0)
            groups[over, alike].append(case)
    candidates = [
        _sweep(run, over, sorted(cases, key=lambda case: value(case, over)))
        for (over, _), cases in groups.items()
        if len(cases) >= MIN_VALUES[over]
    ]
    return [sweep for sweep in candidates if sweep.curves]


def _sweeps_over_workers(run: Run) -> list[Sweep]:
    """Return a sweep for each way of scaling; both start with one worker."""
    groups = defaultdict[tuple[Case, str], list[Case]](list)
    for case in run.cases:
        for way in [case.scaling] if case.scaling else dict.fromkeys(other.scaling for other in run.cases):
            if way:
                groups[replace(case, workers=0, scaling=""), way].append(case)
    candidates = [_sweep(run, WORKERS, cases) for cases in groups.values() if len(cases) >= MIN_VALUES[WORKERS]]
    return [sweep for sweep in candidates if sweep.curves]


def value(case: Case, over: str) -> float:
    """Return the place of a case on the axis of a sweep; best threads are the last."""
    if over == WORKERS:
        return case.workers
    if over == BATCH_SIZE:
        return case.batch_size
    return math.inf if case.threads == BEST_THREADS else case.threads


def _sweep(run: Run, over: str, cases: list[Case]) -> Sweep:
    curves = (Curve(arm, _points(run, arm, cases)) for arm in run.participants(cases[0]) if not arm.replica)
    return Sweep(over, tuple(cases), tuple(curve for curve in curves if len(curve.points) > 1))


def _points(run: Run, arm: Arm, cases: list[Case]) -> tuple[Point, ...]:
    # One rule for all points, so that their ratios compare alike.
    rule = AS_IT_WAS if any(run.rule_of(case) == AS_IT_WAS for case in cases) else None
    first = _times_per_image_ns(run, arm, cases[0], rule)
    points = []
    for case in cases:
        times = _times_per_image_ns(run, arm, case, rule)
        if times:
            gains = [math.log(first[block] / times[block]) for block in sorted(first.keys() & times.keys())]
            typical = median(times.values())
            gain = estimate_of(gains, run.preset.confidence) if gains and case != cases[0] else None
            lost = failed_blocks_faults(run, {place.label: (arm, place) for place in (cases[0], case)})
            faults = (*scaling_faults(run, arm, case), *lost)
            points.append(Point(case, typical * run.images_per_turn(case), 1e9 / typical, gain, faults))
    return tuple(points)


def _times_per_image_ns(run: Run, arm: Arm, case: Case, rule: Rule | None) -> dict[int, float]:
    images = run.images_per_turn(case)
    return {block: latency / images for block, latency in run.block_latencies_ns(arm, case, rule).items()}
