"""Accuracy and speed across precisions: what a lower one gains, and what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.analysis.speedups import accuracy_fault
from bench.analysis.stats import mcnemar_p
from bench.suite.arms import DEFAULT_SETTINGS, Pair

if TYPE_CHECKING:
    from bench.analysis.gates import Estimate
    from bench.analysis.run import Run
    from bench.suite.arms import Arm, Case


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
