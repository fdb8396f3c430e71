"""Say where a gain comes from: ladders of arms of which each changes one thing in the one before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.suite.arms import Pair

if TYPE_CHECKING:
    from bench.analysis.gates import Estimate
    from bench.analysis.speedups import Run, Speedup
    from bench.suite.arms import Arm, Case


@dataclass(frozen=True)
class Rung:
    """A step of a ladder that was measured.

    `step` is the speedup over the rung below, `total` that over the lowest; both None on the lowest.
    """

    name: str
    arm: Arm
    step: Estimate | None
    total: Estimate | None


@dataclass(frozen=True)
class Attribution:
    """A ladder on one case; its name says so where only arms of one stack were measured of several.

    `extension` is the comparison of the highest Intel arm in fp32 with the strongest vanilla arm: what is the
    extension's own. `missing` are the steps that were not measured.
    """

    name: str
    case: Case
    rungs: tuple[Rung, ...]
    extension: Speedup | None
    missing: tuple[str, ...]

    @property
    def arms(self) -> list[Arm]:
        """Return the arms that were measured, from the lowest."""
        return [rung.arm for rung in self.rungs]

    @property
    def fp32_total(self) -> Estimate | None:
        """Return the whole gain up to the Intel arm of the extension's comparison, lower precisions left out."""
        arm = self.extension.pair.arm if self.extension else None
        return next((rung.total for rung in self.rungs if rung.arm == arm), None)

    @property
    def share(self) -> float | None:
        """Return the extension's part of the whole gain, on the log scale; None where there is no gain to share."""
        if self.extension is None or self.extension.estimate is None or self.fp32_total is None:
            return None
        whole = self.fp32_total.log_speedup
        return self.extension.estimate.log_speedup / whole if whole > math.log1p(0.02) else None


def attributions(run: Run) -> list[Attribution]:
    """Return every ladder of the run, on each case in which at least two of its rungs were measured.

    What one ladder tells and another begins with is told once, unless it says something else of an extension.
    """
    found = [
        _attribution(run, ladder["name"], ladder["steps"], case) for ladder in run.info["ladders"] for case in run.cases
    ]
    return [each for each in found if len(each.rungs) > 1 and _telling(found, each) is each]


def _telling(found: list[Attribution], each: Attribution) -> Attribution:
    """Return the longest attribution that begins with the same and says as much; of equally long ones the first."""
    alike = [
        other
        for other in found
        if other.case == each.case
        and other.arms[: len(each.arms)] == each.arms
        and each.extension in (None, other.extension)
    ]
    return max(alike, key=lambda other: len(other.arms))


def _attribution(run: Run, name: str, steps: list[dict[str, str]], case: Case) -> Attribution:
    arms = {arm.id: arm for arm in run.lineup(case)}
    rungs: list[Rung] = []
    missing: list[str] = []
    skipped: list[str] = []  # since the last rung: what they change is in the next one's step
    for step in steps:
        if not run.turns.get((step["arm"], case.id)):
            skipped.append(step["name"])
            missing.append(step["name"])
            continue
        arm = arms[step["arm"]]
        below, lowest = (rungs[-1].arm, rungs[0].arm) if rungs else (None, None)
        rungs.append(
            Rung(
                name=" + ".join([*(skipped if rungs else ()), step["name"]]),
                arm=arm,
                step=run.estimate(Pair(arm, below, case)) if below else None,
                total=run.estimate(Pair(arm, lowest, case)) if lowest else None,
            )
        )
        skipped.clear()
    measured = [rung.arm for rung in rungs]
    title = _title(name, steps, measured)
    return Attribution(title, case, tuple(rungs), _extension(run, measured, case), tuple(missing))


def _title(name: str, steps: list[dict[str, str]], measured: list[Arm]) -> str:
    """Return the ladder's name, marked where it is of several stacks and only one was measured."""
    planned, found = {step["arm"].partition("/")[0] for step in steps}, {arm.stack for arm in measured}
    return f"{name}, {measured[0].stack} only" if len(found) == 1 < len(planned) else name


def _extension(run: Run, arms: list[Arm], case: Case) -> Speedup | None:
    """Return the comparison of the highest extended arm in fp32 with the fastest of its vanilla baselines."""
    extended = [arm for arm in arms if arm.precision == "fp32" and not run.is_vanilla(arm)]
    rows = [
        row
        for row in run.speedups
        if row.pair.case == case and extended and row.pair.arm == extended[-1] and row.estimate
        if run.is_vanilla(row.pair.baseline)
    ]
    return min(rows, key=lambda row: row.estimate.log_speedup if row.estimate else math.inf, default=None)
