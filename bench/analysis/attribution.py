"""Where a gain comes from: ladders of arms, each of which changes one thing in the arm before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from bench.analysis.latency import AS_IT_WAS, AT_REST
from bench.analysis.speedups import speedups
from bench.suite.arms import Pair

if TYPE_CHECKING:
    from bench.analysis.gates import Estimate
    from bench.analysis.latency import Rule
    from bench.analysis.run import Run
    from bench.analysis.speedups import Speedup
    from bench.run_info import LadderInfo, StepInfo
    from bench.suite.arms import Arm, Case

# A smaller total gain is not divided into parts.
MIN_GAIN = math.log1p(0.02)


@dataclass(frozen=True)
class Rung:
    """A measured step of a ladder.

    `step` is the speedup over the rung below, `total` that over the lowest; both None on the lowest.
    """

    name: str
    arm: Arm
    step: Estimate | None
    total: Estimate | None


@dataclass(frozen=True)
class Attribution:
    """A ladder on one case; if only arms of one of its stacks were measured, its name says so.

    `extension` compares the highest Intel arm in fp32 with the fastest vanilla arm: the extension's own contribution.
    All its figures follow `rule`, so that they fit each other. `missing` are the steps that were not measured.
    """

    name: str
    case: Case
    rule: Rule
    rungs: tuple[Rung, ...]
    extension: Speedup | None
    missing: tuple[str, ...]

    @property
    def arms(self) -> list[Arm]:
        """Return the measured arms, lowest first."""
        return [rung.arm for rung in self.rungs]

    @property
    def fp32_total(self) -> Estimate | None:
        """Return the total gain up to the Intel arm of `extension`, without lower precisions."""
        arm = self.extension.pair.arm if self.extension else None
        return next((rung.total for rung in self.rungs if rung.arm == arm), None)

    @property
    def own(self) -> Estimate | None:
        """Return the extension's contribution, by the ladder's rule."""
        if self.extension is None:
            return None
        return self.extension.at_rest if self.rule == AT_REST else self.extension.as_it_was

    @property
    def share(self) -> float | None:
        """Return the extension's share of the total gain on the log scale; None if there is no gain to attribute."""
        if self.own is None or (total := self.fp32_total) is None or total.log_speedup <= MIN_GAIN:
            return None
        return self.own.log_speedup / total.log_speedup


def attributions(run: Run) -> list[Attribution]:
    """Return every ladder of the run, on each case in which at least two of its rungs were measured.

    A ladder that is a prefix of another one is left out, unless the two report different extension speedups.
    """
    candidates = [_attribution(run, ladder, case) for ladder in run.info.ladders for case in run.cases]
    return [
        candidate
        for candidate in candidates
        if len(candidate.rungs) > 1 and _longest_continuation(candidate, candidates) is candidate
    ]


def _longest_continuation(start: Attribution, candidates: list[Attribution]) -> Attribution:
    """Return the longest ladder that starts with the same arms and reports the same extension; the first of equals."""
    continuations = [
        candidate
        for candidate in candidates
        if candidate.case == start.case
        and candidate.arms[: len(start.arms)] == start.arms
        and start.extension in (None, candidate.extension)
    ]
    return max(continuations, key=lambda candidate: len(candidate.arms))


def _attribution(run: Run, ladder: LadderInfo, case: Case) -> Attribution:
    participants = {arm.id: arm for arm in run.participants(case)}
    arms: list[Arm] = []
    names: list[str] = []
    missing: list[str] = []
    # Steps not measured since the last rung: the next rung's step includes their change.
    skipped: list[str] = []
    for step in ladder.steps:
        if not run.turns.get((step.arm, case.id)):
            skipped.append(step.name)
            missing.append(step.name)
            continue
        arm = participants[step.arm]
        names.append(" + ".join([*(skipped if arms else ()), _name_of(run, step, arm, case)]))
        arms.append(arm)
        skipped.clear()
    pairs = [
        *(Pair(arm, below, case) for below, arm in pairwise(arms)),
        *(Pair(arm, arms[0], case) for arm in arms[1:]),
    ]
    extension = _extension(run, arms, case)
    rules = {*map(run.rule_of_pair, pairs), *((extension.rule,) if extension else ())}
    rule = AS_IT_WAS if AS_IT_WAS in rules else AT_REST
    rungs = [
        Rung(
            name=name,
            arm=arm,
            step=run.estimate(Pair(arm, below, case), rule) if below else None,
            total=run.estimate(Pair(arm, arms[0], case), rule) if below else None,
        )
        for name, arm, below in zip(names, arms, [None, *arms], strict=False)
    ]
    # An arm that was not measured is known by its id only, which starts with the stack.
    planned, measured = {step.arm.partition("/")[0] for step in ladder.steps}, {arm.stack for arm in arms}
    return Attribution(
        name=f"{ladder.name}, {arms[0].stack} only" if len(measured) == 1 < len(planned) else ladder.name,
        case=case,
        rule=rule,
        rungs=tuple(rungs),
        extension=extension,
        missing=tuple(missing),
    )


def _name_of(run: Run, step: StepInfo, arm: Arm, case: Case) -> str:
    """Return a step's name; at a lower precision with the instructions that make it fast."""
    used = run.instructions(arm, case) if arm.precision != "fp32" else None
    return f"{step.name} ({used})" if used else step.name


def _extension(run: Run, arms: list[Arm], case: Case) -> Speedup | None:
    """Return the comparison of the highest extended arm in fp32 with the fastest of its vanilla baselines."""
    extended = [arm for arm in arms if arm.precision == "fp32" and not run.is_vanilla(arm)]
    rows = [
        row
        for row in speedups(run)
        if row.pair.case == case and extended and row.pair.arm == extended[-1] and row.estimate
        if run.is_vanilla(row.pair.baseline)
    ]
    return min(rows, key=lambda row: row.estimate.log_speedup if row.estimate else math.inf, default=None)
