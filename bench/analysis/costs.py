"""The costs of an arm besides latency: start-up, memory, disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.analysis.run import Run
    from bench.records import Start
    from bench.suite.arms import Arm, Case


@dataclass(frozen=True)
class Cost:
    """Costs of an arm; times in ns, None if not measured.

    `start` is the start of a process alone on the machine with empty compile caches; `convert_ns` is the conversion of
    its files before that, 0 if it needs none; `restart_ns` is import, build and first call with filled caches.
    `memory_bytes` is the peak resident set of all its processes together, `installed_bytes` the size of its
    environment, `saved_bytes` that of the model as a user would ship it. `break_even_images` is the number of images
    after which a faster arm makes up for a longer start than that of its first baseline: zero if it starts no slower,
    infinite if it is no faster.
    """

    start: Start | None
    convert_ns: int
    cold_start_ns: int | None
    restart_ns: int | None
    memory_bytes: int | None
    installed_bytes: int | None
    saved_bytes: int | None
    break_even_images: float | None


def cost(run: Run, arm: Arm, case: Case) -> Cost:
    """Return the costs of an arm on a case; its start is that on the first case of the same model and scenario."""
    proof = run.proof(arm, case)
    environment = run.info.environments.get(run.info.stacks[arm.stack].environment)
    start, restart = (_start(run, arm, case, cached=cached) for cached in (False, True))
    if restart is None and not arm_compiles(run, arm):
        restart = start
    return Cost(
        start=start,
        convert_ns=_convert_ns(run, arm, case),
        cold_start_ns=_cold_start_ns(run, arm, case),
        restart_ns=restart.total_ns if restart else None,
        memory_bytes=proof.memory_bytes if proof else None,
        installed_bytes=environment.bytes if environment else None,
        saved_bytes=proof.saved_bytes if proof else None,
        break_even_images=_break_even_images(run, arm, case),
    )


def arm_compiles(run: Run, arm: Arm) -> bool:
    """Return whether an arm fills a compile cache that makes its restart faster than its start."""
    stack = run.info.stacks[arm.stack]
    variant = (stack.variants or {}).get(arm.variant)
    if variant is None or variant.compiles is None:
        # Runs that did not record it of a variant: there, exactly the variants of this name compile.
        return stack.compiles and "compile" in arm.variant
    return variant.compiles


def _start(run: Run, arm: Arm, case: Case, *, cached: bool) -> Start | None:
    """Return the first start of an arm's process in the proof pass; a replica has its original's."""
    starts = (
        start
        for other in run.cases
        if other.group == case.group
        for start in run.starts.get((arm.original.id, other.id), [])
    )
    return next((start for start in starts if start.cached == cached), None)


def _convert_ns(run: Run, arm: Arm, case: Case) -> int:
    conversion = run.conversions.get((arm.original.id, case.model))
    return conversion.convert_ns if conversion else 0


def _cold_start_ns(run: Run, arm: Arm, case: Case) -> int | None:
    """Return the time from the weights to the first answer: convert, import, build, first call."""
    start = _start(run, arm, case, cached=False)
    return None if start is None else _convert_ns(run, arm, case) + start.total_ns


def _break_even_images(run: Run, arm: Arm, case: Case) -> float | None:
    baseline = next((pair.baseline for pair in run.pairs if pair.arm == arm and pair.case == case), None)
    if baseline is None or arm.replica:
        return None
    start, baseline_start = _cold_start_ns(run, arm, case), _cold_start_ns(run, baseline, case)
    latency, baseline_latency = run.typical_latency_ns(arm, case), run.typical_latency_ns(baseline, case)
    if start is None or baseline_start is None or latency is None or baseline_latency is None:
        return None
    gain = (baseline_latency - latency) / case.batch_size
    return max(0.0, (start - baseline_start) / gain) if gain > 0 else float("inf")
