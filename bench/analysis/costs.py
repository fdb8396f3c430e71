"""What a gain costs besides latency: start-up, memory, disk, and accuracy at a lower precision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.analysis.speedups import accuracy_fault
from bench.analysis.stats import mcnemar_p
from bench.suite.arms import DEFAULT_SETTINGS, QUERY_SAMPLES, Pair

if TYPE_CHECKING:
    from bench.analysis.gates import Estimate
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
    # The images that a percentile of the latencies stands for are not known.
    if baseline is None or arm.replica or case.scenario in QUERY_SAMPLES:
        return None
    start, baseline_start = _cold_start_ns(run, arm, case), _cold_start_ns(run, baseline, case)
    latency, baseline_latency = run.typical_latency_ns(arm, case), run.typical_latency_ns(baseline, case)
    if start is None or baseline_start is None or latency is None or baseline_latency is None:
        return None
    gain = (baseline_latency - latency) / case.batch_size
    return max(0.0, (start - baseline_start) / gain) if gain > 0 else float("inf")


@dataclass(frozen=True)
class Tradeoff:
    """An arm's accuracy and speed compared with the fastest vanilla arm in fp32, `against`.

    `lost` and `won` count the images that only the oracle, and only this arm, classifies correctly; `p_value` is
    McNemar's. `fault` says why its accuracy is too low.
    """

    arm: Arm
    against: Arm
    estimate: Estimate | None
    accuracy: float
    relative_accuracy: float
    lost: int
    won: int
    p_value: float
    fault: str | None


def tradeoffs(run: Run, case: Case) -> list[Tradeoff]:
    """Return a row for each measured arm of a case, fastest first; none if all have the same precision."""
    arms = [
        arm
        for arm in run.participants(case)
        if not arm.replica and arm.settings == DEFAULT_SETTINGS and run.turns.get((arm.id, case.id))
    ]
    vanilla = [arm for arm in arms if arm.precision == "fp32" and run.is_vanilla(arm)]
    if not vanilla or len({arm.precision for arm in arms}) == 1:
        return []
    fastest = min(vanilla, key=lambda arm: run.typical_latency_ns(arm, case) or 0.0)
    rows = [row for arm in arms if (row := _tradeoff(run, arm, fastest, case))]
    return sorted(rows, key=lambda row: -row.estimate.log_speedup if row.estimate else 0.0)


def _tradeoff(run: Run, arm: Arm, against: Arm, case: Case) -> Tradeoff | None:
    proof, reference = run.full_proof(arm, case), run.references.get(case.model)
    if proof is None or reference is None:
        return None
    triples = list(zip(proof.labels, reference.labels, reference.truth, strict=False))
    lost = sum(oracle == truth != label for label, oracle, truth in triples)
    won = sum(label == truth != oracle for label, oracle, truth in triples)
    return Tradeoff(
        arm=arm,
        against=against,
        estimate=run.estimate(Pair(arm, against, case)) if arm != against else None,
        accuracy=proof.accuracy,
        relative_accuracy=proof.accuracy / reference.accuracy if reference.accuracy else math.nan,
        lost=lost,
        won=won,
        p_value=mcnemar_p(lost, won),
        fault=accuracy_fault(run, arm, case),
    )
