"""Prove the instrument: what it says of equal arms, and of differences that are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backends.registry import stacks
from bench.analysis.gates import MAX_OVERHEAD_NS
from bench.clock import MAX_RESOLUTION_NS, now_ns, timer_resolution_ns
from bench.report.summary import interval_text
from bench.report.tables import harness_share, idle_share
from bench.suite.arms import LATENCY, Arm
from bench.suite.environments import is_installed
from bench.suite.suite import Suite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.analysis.speedups import Run, Speedup
    from bench.clock import Clock

DELAYS = (0.02, 0.05, 0.20)
MUST_BE_TOLD = 0.20  # a slow-down that is not told from none fails
BATCH_SIZES = (1, 64)
OWN = Arm("oracle", "numpy")  # needs no environment but the harness's
MAX_IDLE_SHARE, MAX_HARNESS_SHARE = 0.01, 0.05


@dataclass(frozen=True)
class Trial:
    """One thing that must hold for the instrument to be believed."""

    what: str
    found: str
    wanted: str
    passed: bool


def default_arm(stack: str) -> Arm:
    """Return the arm that is measured against itself: a stack's first that answers, or the harness's own."""
    if stack == OWN.stack:
        return OWN
    variants = stacks()[stack].variants.items()
    return Arm(stack, next(name for name, each in variants if not (each.trains or each.asynchronous)))


def default_stack() -> str:
    """Return the first vanilla stack whose environment is there, or the harness's own."""
    public = [stack for stack in stacks().values() if not stack.internal and not stack.baselines]
    return next((stack.name for stack in public if is_installed(stack)), OWN.stack)


def make_suite(arm: Arm, threads: Sequence[int]) -> Suite:
    """Return the suite: an arm, itself again, and itself slowed down by known shares."""
    return replace(
        equal_suite(arm, threads),
        summary=f"{arm.label} against itself, and against itself slowed down; all keep busy between calls",
        arm_patterns=(arm, *(replace(arm, delay=delay) for delay in DELAYS)),
        wait=max(DELAYS),
    )


def equal_suite(arm: Arm, threads: Sequence[int]) -> Suite:
    """Return the suite of an arm and itself again."""
    return Suite(
        name="selftest",
        summary=f"{arm.label} against itself",
        scenarios=(LATENCY,),
        models=("cnn-small",),
        batch_sizes=BATCH_SIZES,
        precisions=("fp32",),
        arm_patterns=(arm,),
        baselines=(arm,),
        primary=(),
        threads=tuple(threads) if len(threads) > 1 else (),
    )


def trials(run: Run, clock: Clock = now_ns) -> list[Trial]:
    """Judge a run of the suite."""
    rows = run.speedups
    return [
        _resolution(clock),
        _overhead(run),
        _share("CPU that idle workers burned", idle_share(run), MAX_IDLE_SHARE),
        _share("CPU that the orchestrator burned meanwhile", harness_share(run), MAX_HARNESS_SHARE),
        *(_recovery(run, row) for row in rows if row.pair.arm.replica),
        *(_recovery(run, row) for row in rows if not row.pair.arm.replica),
    ]


def _resolution(clock: Clock) -> Trial:
    """Judge the least step of the clock that differs from none."""
    least = timer_resolution_ns(clock)
    return Trial("Timer resolution", f"{least} ns", f"at most {MAX_RESOLUTION_NS} ns", 0 < least <= MAX_RESOLUTION_NS)


def _overhead(run: Run) -> Trial:
    typical = run.overhead_ns
    found = f"{typical:.0f} ns" if typical is not None else "not measured"
    passed = typical is not None and typical <= MAX_OVERHEAD_NS
    return Trial("Harness overhead in a timed call", found, f"at most {MAX_OVERHEAD_NS} ns", passed)


def _share(what: str, share: float | None, most: float) -> Trial:
    found = "not measured" if share is None else f"{share:.2%} of a core"
    return Trial(what, found, f"at most {most:.0%}", share is not None and share <= most)


def _recovery(run: Run, row: Speedup) -> Trial:
    """Judge whether the known ratio lies inside the interval: 1 of an arm and itself."""
    arm, truth = row.pair.arm, 1 / (1 + row.pair.arm.delay)
    what = "A/A" if arm.replica else f"Slowed down by {arm.delay:.0%}"
    confidence = f"{(run.preset.confidence or 0) * 100:g} %"
    wanted = f"{truth:.3f} inside the {confidence} interval" + (", 1 outside" if arm.delay >= MUST_BE_TOLD else "")
    if row.interval is None or row.speedup is None:
        return Trial(f"{what}, {row.pair.case.label}", row.verdict.reason or "no interval", wanted, passed=False)
    apart = ", told from 1" if row.interval.excludes(1) else "" if arm.replica else ", not told from 1"
    missed = arm.delay >= MUST_BE_TOLD and not row.interval.excludes(1)
    found = f"{row.speedup:.4f} ({interval_text(row.interval)}), off by {abs(math.log(row.speedup / truth)):.2%}{apart}"
    return Trial(f"{what}, {row.pair.case.label}", found, wanted, not row.interval.excludes(truth) and not missed)
