"""How much faster or slower each arm is in a later run, and whether that can be claimed.

Two runs are not interleaved. The machine may have changed between them, and did so for all arms. So an arm's change is
also taken relative to a control: a vanilla arm that ran the same software in both runs. The blocks of a run are paired
with the control's, and the two runs are compared as independent samples of blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.analysis.gates import (
    EQUIVALENCE,
    EQUIVALENCE_CONFIDENCE,
    EQUIVALENT,
    FAILED,
    FASTER,
    SKIPPED,
    SLOWER,
    UNRESOLVED,
    WITHHELD,
    Verdict,
)
from bench.analysis.latency import AS_IT_WAS, AT_REST
from bench.analysis.speedups import arm_faults, arm_status, speedups
from bench.analysis.stats import Interval, holm, rank_sum_interval, rank_sum_p, shift, welch_interval
from bench.compare.matching import common_arms, common_cases, is_unchanged, mismatch, notes, other_machine
from bench.suite.arms import TRAINING, Pair

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.analysis.latency import Rule
    from bench.analysis.run import Run
    from bench.suite.arms import Arm, Case

UNMATCHED = "UNMATCHED"
# Runs of the same software on one machine, an hour apart, differed by up to 2.2 % relative to the control.
MIN_CHANGE = 0.03
# The chance that a gate fails although no arm is slower by more than its threshold.
GATE_LEVEL = 0.05
NO_CONTROL = (
    "no unchanged vanilla arm in both runs: a drift of the machine would look the same; keep one environment as it is, "
    "or measure both in one run"
)


@dataclass(frozen=True)
class Change:
    """How many times as fast the later run is, on the log scale, from independent samples of blocks.

    `interval` is that of Mann and Whitney, `second_interval` that of Welch; None where there are too few blocks or the
    preset claims nothing. `equivalence_intervals` are both at 90 %. `p_value` is two-sided. `slower_p` is that of the
    hypothesis that the later run is not slower by more than the threshold of the gate.
    """

    blocks: tuple[int, int]
    log_change: float
    interval: Interval | None
    second_interval: Interval | None
    equivalence_intervals: tuple[Interval | None, Interval | None]
    p_value: float
    slower_p: float

    @property
    def ratio(self) -> float:
        return math.exp(self.log_change)

    @property
    def ratio_interval(self) -> Interval | None:
        return None if self.interval is None else Interval(math.exp(self.interval.low), math.exp(self.interval.high))


def change_of(
    before: Sequence[float], after: Sequence[float], confidence: float | None, threshold: float = 0.0
) -> Change:
    """Return the change between the log speeds, or log ratios, of the blocks of two runs."""
    flipped = [-value for value in before], [-value for value in after]
    return Change(
        blocks=(len(before), len(after)),
        log_change=shift(before, after),
        interval=rank_sum_interval(before, after, confidence) if confidence else None,
        second_interval=welch_interval(before, after, confidence) if confidence else None,
        equivalence_intervals=(
            rank_sum_interval(before, after, EQUIVALENCE_CONFIDENCE),
            welch_interval(before, after, EQUIVALENCE_CONFIDENCE),
        ),
        p_value=min(1.0, 2 * min(rank_sum_p(before, after), rank_sum_p(*flipped))),
        slower_p=rank_sum_p(before, after, math.log1p(threshold)),
    )


@dataclass(frozen=True)
class ChangeRow:
    """An arm on a case, in two runs.

    `alone` is the change of its own times, drift of the machine included. `net` is that of its ratio to the control's.
    `band` is how far arms that did not change seem to have changed relative to the control. `regression` marks a
    sound slowdown by more than the threshold of the gate, `ruled_out` that the interval leaves no room for one; both
    are False without a gate.
    """

    arm: Arm
    case: Case
    control: Arm | None
    latencies_ns: tuple[float | None, float | None]
    accuracies: tuple[float | None, float | None]
    alone: Change | None
    net: Change | None
    band: float | None
    verdict: Verdict
    regression: bool = False
    ruled_out: bool = False


@dataclass(frozen=True)
class Comparison:
    """Two runs, compared. `missing` are the arms and cases that only one of them has."""

    before: Run
    after: Run
    rows: tuple[ChangeRow, ...]
    other_machine: tuple[str, ...]
    notes: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def regressions(self) -> list[ChangeRow]:
        return [row for row in self.rows if row.regression]


def compare_runs(before: Run, others: Sequence[Run], threshold: float | None = None) -> list[Comparison]:
    """Compare a run with each of the others. Holm's correction counts all rows of all of them."""
    drafts = [_compare(before, after, threshold or 0.0) for after in others]
    nets = [row.net for draft in drafts for row in draft.rows if row.net]
    p_values = zip(holm([net.p_value for net in nets]), holm([net.slower_p for net in nets]), strict=True)
    adjusted = iter([replace(net, p_value=p, slower_p=slower) for net, (p, slower) in zip(nets, p_values, strict=True)])

    def judged(draft: Comparison, row: ChangeRow) -> ChangeRow:
        return _judged(draft, replace(row, net=next(adjusted)), threshold) if row.net else row

    return [replace(draft, rows=tuple(judged(draft, row) for row in draft.rows)) for draft in drafts]


def _compare(before: Run, after: Run, threshold: float) -> Comparison:
    rows: list[ChangeRow] = []
    for cases in common_cases(before, after):
        arms = common_arms(before, after, cases)
        vanilla = [arm for arm in arms if before.is_vanilla(arm) and after.is_vanilla(arm)]
        controls = [
            arm
            for arm in vanilla
            if is_unchanged(before, after, cases, arm)
            and not mismatch(before, after, cases, arm)
            and not _trouble(before, after, cases, arm)
        ]
        rows += [_row(before, after, cases, arm, controls, threshold) for arm in arms]
    return Comparison(
        before,
        after,
        tuple(rows),
        tuple(other_machine(before, after)),
        tuple(notes(before, after)),
        tuple(_missing(before, after)),
    )


def _row(
    before: Run, after: Run, cases: tuple[Case, Case], arm: Arm, controls: Sequence[Arm], threshold: float
) -> ChangeRow:
    rule, confidence = _rule(before, after, cases), _confidence(before, after)
    latencies = [run.block_latencies_ns(arm, case, rule) for run, case in zip((before, after), cases, strict=True)]
    speeds = tuple([-math.log(value) for value in blocks.values()] for blocks in latencies)
    trouble, unlike = _trouble(before, after, cases, arm), mismatch(before, after, cases, arm)
    control = None if trouble or unlike else _control(before, cases[0], arm, controls)
    net = _net(before, after, cases, arm, control, threshold) if control else None
    return ChangeRow(
        arm=arm,
        case=cases[0],
        control=control,
        latencies_ns=(before.typical_latency_ns(arm, cases[0]), after.typical_latency_ns(arm, cases[1])),
        accuracies=(before.accuracy(arm, cases[0]), after.accuracy(arm, cases[1])),
        alone=change_of(speeds[0], speeds[1], confidence, threshold) if all(speeds) and not unlike else None,
        net=net,
        band=_band(before, after, cases, arm, control, controls) if control else None,
        verdict=trouble or (Verdict(UNMATCHED, unlike) if unlike else Verdict(UNRESOLVED, NO_CONTROL)),
    )


def _rule(before: Run, after: Run, cases: tuple[Case, Case]) -> Rule:
    rules = {run.rule_of(case) for run, case in zip((before, after), cases, strict=True)}
    return AT_REST if rules == {AT_REST} else AS_IT_WAS


def _confidence(before: Run, after: Run) -> float | None:
    confidences = before.preset.confidence, after.preset.confidence
    return max(confidences[0], confidences[1]) if confidences[0] and confidences[1] else None


def _trouble(before: Run, after: Run, cases: tuple[Case, Case], arm: Arm) -> Verdict | None:
    """Return the verdict on an arm that one of the runs has no valid times of, or None."""
    for run, case, when in ((before, cases[0], "before"), (after, cases[1], "after")):
        status = arm_status(run, arm, case)
        if status.word != "measured":
            return Verdict(SKIPPED if status.word == "skipped" else FAILED, f"{when}: {status.reason}")
        if case.scenario == TRAINING:
            rows = (row for row in speedups(run) if (row.pair.arm, row.pair.case) == (arm, case))
            faults = [row.verdict.reason for row in rows if row.verdict.word == WITHHELD]
        else:
            faults = arm_faults(run, arm, case)
        if faults:
            return Verdict(WITHHELD, f"{when}: {'; '.join(faults)}")
    return None


def _control(run: Run, case: Case, arm: Arm, controls: Sequence[Arm]) -> Arm | None:
    """Return the arm's own baseline if it did not change, else another one that did not: that of the A/A arm first."""
    own = {pair.baseline for pair in run.pairs if (pair.arm, pair.case) == (arm, case)}
    twins = {other.original for other in run.participants(case) if other.replica}

    def distance(control: Arm) -> tuple[bool, bool, bool]:
        return control not in own, control not in twins, control.settings != arm.settings

    return min((control for control in controls if control != arm), key=distance, default=None)


def _net(
    before: Run, after: Run, cases: tuple[Case, Case], arm: Arm, control: Arm, threshold: float = 0.0
) -> Change | None:
    rule = _rule(before, after, cases)
    ratios = [
        list(run.log_ratios(Pair(arm, control, case), rule).values())
        for run, case in zip((before, after), cases, strict=True)
    ]
    return change_of(ratios[0], ratios[1], _confidence(before, after), threshold) if all(ratios) else None


def _band(
    before: Run, after: Run, cases: tuple[Case, Case], arm: Arm, control: Arm, controls: Sequence[Arm]
) -> float | None:
    """Return how far arms that did not change seem to have changed relative to the control; None without A/A arm.

    That is the farther end of the A/A arm's interval, or the largest change of another unchanged arm.
    """
    sizes = []
    for replica in (other for other in before.participants(cases[0]) if other.replica):
        if replica in after.participants(cases[1]) and replica.original in controls:
            twin = _net(before, after, cases, replica, replica.original)
            if twin and twin.interval:
                sizes.append(max(abs(twin.interval.low), abs(twin.interval.high)))
    if not sizes:
        return None
    others = (other for other in controls if other not in (arm, control) and other.settings == control.settings)
    changes = (_net(before, after, cases, other, control) for other in others)
    return max((*sizes, *(abs(change.log_change) for change in changes if change)))


def _judged(draft: Comparison, row: ChangeRow, threshold: float | None) -> ChangeRow:
    """Return the row with its verdict; the p values of its change are corrected already."""
    if (net := row.net) is None:
        return row
    presets = draft.before.preset, draft.after.preset
    if silent := next((preset for preset in presets if preset.confidence is None), None):
        return replace(row, verdict=Verdict(UNRESOLVED, f"preset {silent.name} claims nothing"))
    level = 1 - (_confidence(draft.before, draft.after) or 0.0)
    verdict = judge_change(net, row.band, max(MIN_CHANGE, *(preset.minimum_effect for preset in presets)), level)
    if threshold is None:
        return replace(row, verdict=verdict)
    return replace(
        row,
        verdict=verdict,
        regression=not draft.other_machine and is_regression(net, verdict, threshold),
        ruled_out=all(side and side.low > -math.log1p(threshold) for side in net.equivalence_intervals),
    )


def judge_change(net: Change, band: float | None, minimum_effect: float, level: float) -> Verdict:
    """Return the verdict on a change; its p value is corrected by Holm, and claimed up to `level`."""
    if net.interval is None or net.second_interval is None:
        return Verdict(UNRESOLVED, f"{min(net.blocks)} blocks are too few for an interval")
    if band is None:
        return Verdict(UNRESOLVED, "no A/A arm in both runs: how much unchanged arms change is not known")
    equal = all(side and side.within(*EQUIVALENCE) for side in net.equivalence_intervals)
    if equal and band <= EQUIVALENCE[1] and minimum_effect <= MIN_CHANGE:
        return Verdict(EQUIVALENT)
    size, excludes_1 = abs(net.log_change), net.interval.excludes(0)
    doubts = {
        "the interval includes 1": not excludes_1,
        "Welch's interval disagrees": excludes_1 and not net.second_interval.excludes(0),
        f"arms that did not change differ by up to {math.expm1(band):.1%}": size <= band,
        f"under {minimum_effect:.0%}, which is not claimed between such runs": size < math.log1p(minimum_effect),
        "not significant after Holm's correction": excludes_1 and net.p_value > level,
    }
    if reasons := [doubt for doubt, applies in doubts.items() if applies]:
        return Verdict(UNRESOLVED, "; ".join(reasons))
    return Verdict(FASTER if net.log_change > 0 else SLOWER)


def is_regression(net: Change, verdict: Verdict, threshold: float) -> bool:
    """Return whether a slowdown beyond the threshold is beyond doubt: by its size, by rank and by Welch."""
    welch = net.equivalence_intervals[1]
    return (
        verdict.word == SLOWER
        and net.slower_p <= GATE_LEVEL
        and welch is not None
        and welch.high < -math.log1p(threshold)
    )


def _missing(before: Run, after: Run) -> Iterator[str]:
    """Yield a line for each case or arm that only one run has."""
    cases = common_cases(before, after)
    one_sided = [(case, "before") for case in before.cases if case not in {one for one, _ in cases}]
    one_sided += [(case, "after") for case in after.cases if case not in {other for _, other in cases}]
    for case, when in one_sided:
        yield f"{case.label}: only {when}"
    for one, other in cases:
        arms = [before.participants(one), after.participants(other)]
        for here, there, when in ((arms[0], arms[1], "before"), (arms[1], arms[0], "after")):
            if labels := [arm.label for arm in here if arm not in there and not arm.replica]:
                yield f"{one.label}: only {when}: {', '.join(labels)}"
