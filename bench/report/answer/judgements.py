"""Whether each stack is worth it: the stacks judged by their fastest stock counterparts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.analysis import gates
from bench.analysis.speedups import speedups
from bench.suite.arms import Pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.analysis.gates import Estimate
    from bench.analysis.run import Run
    from bench.analysis.speedups import Speedup
    from bench.suite.arms import Arm, Case

WORTH, NOT_WORTH, UNSETTLED = "worth it", "not worth it", "not settled"
SOME = "worth it in part"
# The environment with the newest stock frameworks.
LATEST = "latest"


@dataclass(frozen=True)
class Outcome:
    """A stack on a case: its comparison with the fastest of its stock variants.

    `faster_stock` is a stock arm of another framework that is faster than the stack, with the ratio.
    """

    row: Speedup
    faster_stock: tuple[Arm, Estimate] | None

    @property
    def case(self) -> Case:
        return self.row.pair.case

    @property
    def word(self) -> str:
        match self.row.verdict.word:
            case gates.FASTER:
                return WORTH
            case gates.SLOWER | gates.EQUIVALENT:
                return NOT_WORTH
            case _:
                return UNSETTLED

    @property
    def size(self) -> str:
        return f"{self.row.speedup:.2f}x" if self.row.speedup else "no ratio"


@dataclass(frozen=True)
class Judgement:
    """A stack on every case in which it was compared with a stock one.

    An `alternative` is not one of Intel's stacks, which the question is about.
    """

    stack: str
    arm: Arm
    outcomes: tuple[Outcome, ...]
    alternative: bool = False

    @property
    def word(self) -> str:
        words = {outcome.word for outcome in self.outcomes}
        if WORTH in words:
            return WORTH if len(words) == 1 else SOME
        return UNSETTLED if UNSETTLED in words else NOT_WORTH

    def having(self, word: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.word == word]


def judgements(run: Run, *, upgrades: bool = False) -> list[Judgement]:
    """Return a judgement of each stack that has baselines, or of each newer version of a stock one, the best first.

    Alternatives to Intel's stacks come after these.

    A stack is judged by the arm that the suite named before measuring, or else by the first one in fp32.
    """
    rows = [row for row in speedups(run) if not row.pair.arm.replica and run.is_vanilla(row.pair.baseline)]
    judged = []
    for stack, info in run.info.stacks.items():
        own = [row for row in rows if row.pair.arm.stack == stack]
        if not info.baselines or (info.environment == LATEST) != upgrades or not own:
            continue
        named = [row.pair.arm for row in own if row.pair.candidate]
        arm = (named or [row.pair.arm for row in own if row.pair.arm.precision == "fp32"] or [own[0].pair.arm])[0]
        hardest = [_hardest([row for row in own if (row.pair.arm, row.pair.case) == (arm, case)]) for case in run.cases]
        outcomes = [Outcome(row, _faster_stock(run, row)) for row in hardest if row]
        judged.append(Judgement(stack, arm, tuple(outcomes), info.intel is False and not upgrades))

    def rank(judgement: Judgement) -> tuple[bool, int, bool, float]:
        smallest = min(outcome.row.speedup or 0.0 for outcome in judgement.outcomes)
        beaten = any(outcome.faster_stock for outcome in judgement.outcomes)
        place = [WORTH, SOME, UNSETTLED, NOT_WORTH].index(judgement.word)
        return judgement.alternative, place, beaten, -smallest

    return sorted(judged, key=rank)


def _hardest(rows: Sequence[Speedup]) -> Speedup | None:
    """Return the comparison of an arm on a case with its fastest baseline."""
    measured = [row for row in rows if row.estimate]
    smallest = min(measured, key=lambda row: row.estimate.log_speedup if row.estimate else math.inf, default=None)
    return next((row for row in rows if row.primary), smallest) or next(iter(rows), None)


def _faster_stock(run: Run, row: Speedup) -> tuple[Arm, Estimate] | None:
    """Return the fastest stock arm of another framework if it is faster than the arm, with the ratio."""
    arm, case = row.pair.arm, row.pair.case
    compared = run.info.stacks[arm.stack].baselines
    others = [
        other
        for other in run.participants(case)
        if run.is_vanilla(other) and other.stack not in compared and other.precision == arm.precision
        if run.typical_latency_ns(other, case)
    ]
    fastest = min(others, key=lambda other: run.typical_latency_ns(other, case) or math.inf, default=None)
    estimate = run.estimate(Pair(fastest, arm, case)) if fastest else None
    faster = estimate and estimate.ratio_interval and estimate.ratio_interval.low > 1
    return (fastest, estimate) if fastest and estimate and faster else None


def summary_rows(run: Run) -> list[tuple[Judgement, Outcome]]:
    """Return the rows of the plot over all cases: each case's stacks, then each case's upgrades."""
    judged = [*judgements(run), *judgements(run, upgrades=True)]
    return [
        (judgement, outcome)
        for case in run.cases
        for judgement in judged
        for outcome in judgement.outcomes
        if outcome.case == case and outcome.row.speedup
    ]
