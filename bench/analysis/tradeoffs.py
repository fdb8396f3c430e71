"""Set accuracy beside speed, across precisions: what a lower one gives, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.analysis.stats import mcnemar_p
from bench.suite.arms import DEFAULT_SETTINGS, Pair

if TYPE_CHECKING:
    from bench.analysis.gates import Estimate
    from bench.analysis.speedups import Run
    from bench.suite.arms import Arm, Case


@dataclass(frozen=True)
class Tradeoff:
    """An arm's accuracy and its speed beside those of the fastest vanilla arm in fp32.

    `lost` and `won` count the images that only fp32, and that only this arm, classifies correctly; `p_value` is
    McNemar's. `fault` says why its accuracy is not enough.
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
    """Return a row for each measured arm of a case, fastest first; none when all are of one precision."""
    arms = [arm for arm in run.lineup(case) if _counts(run, arm, case)]
    against = _fastest_vanilla(run, arms, case)
    if against is None or len({arm.precision for arm in arms}) == 1:
        return []
    rows = [row for arm in arms if (row := _tradeoff(run, arm, against, case))]
    return sorted(rows, key=lambda row: -row.estimate.log_speedup if row.estimate else 0.0)


def _counts(run: Run, arm: Arm, case: Case) -> bool:
    usual = not arm.replica and arm.settings == DEFAULT_SETTINGS
    return usual and bool(run.turns.get((arm.id, case.id)))


def _fastest_vanilla(run: Run, arms: list[Arm], case: Case) -> Arm | None:
    vanilla = [arm for arm in arms if arm.precision == "fp32" and run.is_vanilla(arm)]
    return min(vanilla, key=lambda arm: run.typical_latency_ns(arm, case) or 0.0, default=None)


def _tradeoff(run: Run, arm: Arm, against: Arm, case: Case) -> Tradeoff | None:
    proof, reference = run.proof(arm, case), run.references.get(case.model)
    if proof is None or reference is None:
        return None
    triples = list(zip(proof.labels, reference.labels, reference.truth, strict=True))
    lost = sum(theirs == truth != ours for ours, theirs, truth in triples)
    won = sum(ours == truth != theirs for ours, theirs, truth in triples)
    return Tradeoff(
        arm=arm,
        against=against,
        estimate=run.estimate(Pair(arm, against, case)) if arm != against else None,
        accuracy=proof.accuracy,
        relative_accuracy=proof.accuracy / reference.accuracy,
        lost=lost,
        won=won,
        p_value=mcnemar_p(lost, won),
        fault=run.accuracy_fault(arm, case),
    )
