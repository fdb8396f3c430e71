"""Test the harness itself: equal arms must show no difference, injected slowdowns their size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.analysis.gates import MAX_OVERHEAD_NS
from bench.analysis.run import harness_share, idle_share
from bench.analysis.speedups import speedups
from bench.clock import MAX_RESOLUTION_NS, now_ns, timer_resolution_ns

if TYPE_CHECKING:
    from bench.analysis.run import Run
    from bench.analysis.speedups import Speedup
    from bench.clock import Clock

# From this injected slowdown on, the interval must exclude 1.
MIN_DETECTED_SLOWDOWN = 0.05
# Of a core.
MAX_IDLE_SHARE, MAX_HARNESS_SHARE = 0.01, 0.05


@dataclass(frozen=True)
class Trial:
    what: str
    found: str
    wanted: str
    passed: bool


def trials(run: Run, clock: Clock = now_ns) -> list[Trial]:
    """Evaluate a run of the suite: timer, overhead, idle CPU, A/A comparisons, injected slowdowns."""
    step_ns, overhead_ns = timer_resolution_ns(clock), run.overhead_ns
    return [
        Trial("Timer resolution", f"{step_ns} ns", f"at most {MAX_RESOLUTION_NS} ns", 0 < step_ns <= MAX_RESOLUTION_NS),
        Trial(
            "Harness overhead in a timed call",
            "not measured" if overhead_ns is None else f"{overhead_ns:.0f} ns",
            f"at most {MAX_OVERHEAD_NS} ns",
            overhead_ns is not None and overhead_ns <= MAX_OVERHEAD_NS,
        ),
        _share("CPU time of idle workers", idle_share(run), MAX_IDLE_SHARE),
        _share("CPU time of the orchestrator while it measures", harness_share(run), MAX_HARNESS_SHARE),
        *(_recovery(run, row) for row in sorted(speedups(run), key=lambda row: not row.pair.arm.replica)),
    ]


def _share(what: str, share: float | None, limit: float) -> Trial:
    found = "not measured" if share is None else f"{share:.2%} of a core"
    return Trial(what, found, f"at most {limit:.0%}", share is not None and share <= limit)


def _recovery(run: Run, row: Speedup) -> Trial:
    """Check that the known ratio, 1 for the A/A arm, lies inside the interval."""
    arm, interval = row.pair.arm, row.interval
    truth, must_exclude_1 = 1 / (1 + arm.delay), arm.delay >= MIN_DETECTED_SLOWDOWN
    what = f"{'A/A' if arm.replica else f'Slowed down by {arm.delay:.0%}'}, {row.pair.case.label}"
    confidence = f"{(run.preset.confidence or 0) * 100:g} %"
    wanted = f"{truth:.3f} inside the {confidence} interval" + (", 1 outside" if must_exclude_1 else "")
    if interval is None or row.speedup is None:
        return Trial(what, row.verdict.reason or "no interval", wanted, passed=False)
    found = f"{row.speedup:.4f} ({interval.low:.3f} to {interval.high:.3f})"
    found += f", off by {abs(math.log(row.speedup / truth)):.2%}"
    if interval.excludes(1):
        found += ", distinguishable from 1"
    elif not arm.replica:
        found += ", not distinguishable from 1"
    passed = not interval.excludes(truth) and (interval.excludes(1) or not must_exclude_1)
    return Trial(what, found, wanted, passed)
