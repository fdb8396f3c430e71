"""How much faster or slower each arm is in a later run, and whether that can be claimed.

Two runs are not interleaved. The machine may have changed between them, for all arms alike. So an arm's change is taken
relative to a control: a vanilla arm that ran the same software in both runs. In each run the blocks of an arm are
paired with the control's; those of the two runs are independent samples. A run may also favour one arm in all of its
blocks. How much it does so shows in the arms that ran the same software.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from bench.analysis.gates import FASTER, SLOWER, UNRESOLVED, Verdict
from bench.analysis.latency import AS_IT_WAS, AT_REST
from bench.analysis.speedups import arm_trouble
from bench.analysis.stats import Interval, error_of_shift, holm, rank_sum_interval, rank_sum_p, shift
from bench.compare.matching import common_arms, common_cases, is_unchanged, mismatch, notes, other_machine
from bench.suite.arms import Pair

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.analysis.latency import Rule
    from bench.analysis.run import Run
    from bench.suite.arms import Arm, Case

UNCHANGED, UNMATCHED = "UNCHANGED", "UNMATCHED"
# The change that UNCHANGED rules out, unless the gate names another one, and the confidence at each end.
MARGIN, MARGIN_CONFIDENCE = 0.05, 0.95
# The chance that the gate fails although no arm is slower by more than its threshold.
GATE_LEVEL = 0.05
# The effect of a run on an arm, in two runs of the reference suite an hour apart: the standard deviation of the change
# of unchanged arms, and its degrees of freedom. It is what is known of the effect before two runs are compared.
USUAL_EFFECT, USUAL_FREEDOM = 0.009, 8
NO_CONTROL = (
    "no unchanged vanilla arm in both runs: a drift of the machine would look the same; keep one environment as it is, "
    "or measure both in one run"
)


@dataclass(frozen=True)
class RunEffect:
    """The standard deviation of an arm's change between two runs of the same software, without the common drift."""

    deviation: float
    freedom: int


@dataclass(frozen=True)
class Change:
    """How many times as fast the later run is, on the log scale, from independent samples of blocks.

    `interval` has the confidence of the preset, None where there are too few blocks or the preset claims nothing;
    `margin_interval` has that of UNCHANGED. Both are the wider ones of two: Mann and Whitney's, and Welch's with the
    effect of a run. `p_value` is two-sided. `slower_p` is that of the hypothesis that the later run is not slower by
    more than the threshold of the gate. They are the larger ones of the same two.
    """

    blocks: tuple[int, int]
    log_change: float
    interval: Interval | None
    margin_interval: Interval | None
    p_value: float
    slower_p: float

    @property
    def ratio(self) -> float:
        return math.exp(self.log_change)

    @property
    def ratio_interval(self) -> Interval | None:
        return None if self.interval is None else Interval(math.exp(self.interval.low), math.exp(self.interval.high))


def change_of(
    before: Sequence[float], after: Sequence[float], effect: RunEffect, confidence: float | None, threshold: float
) -> Change:
    """Return the change between the log ratios of the blocks of two runs, of an arm and its control."""
    estimate, limit = shift(before, after), math.log1p(threshold)
    if min(len(before), len(after)) < 2:  # noqa: PLR2004 - a variance needs two
        return Change((len(before), len(after)), estimate, None, None, 1.0, 1.0)
    # The effects on the arm and on its control add up.
    error = error_of_shift(before, after, 2 * effect.deviation**2, effect.freedom)
    flipped = [-value for value in before], [-value for value in after]

    def interval(level: float) -> Interval | None:
        if (ranks := rank_sum_interval(before, after, level)) is None:
            return None
        half_width = error.half_width(level)
        return Interval(min(ranks.low, estimate - half_width), max(ranks.high, estimate + half_width))

    return Change(
        blocks=(len(before), len(after)),
        log_change=estimate,
        interval=interval(confidence) if confidence else None,
        margin_interval=interval(2 * MARGIN_CONFIDENCE - 1),
        p_value=min(
            1.0,
            2 * max(min(rank_sum_p(before, after), rank_sum_p(*flipped)), error.p_below(-abs(estimate))),
        ),
        slower_p=max(rank_sum_p(before, after, limit), error.p_below(estimate + limit)),
    )


@dataclass(frozen=True)
class ChangeRow:
    """An arm on a case, in two runs.

    `alone` is the log ratio of its own speeds, drift of the machine included. `net` is the change of its ratio to the
    control's. `regression` marks a sound slowdown by more than the threshold of the gate, `ruled_out` that there is no
    room for one; both are False without a gate.
    """

    arm: Arm
    case: Case
    control: Arm | None
    latencies_ns: tuple[float | None, float | None]
    accuracies: tuple[float | None, float | None]
    alone: float | None
    net: Change | None
    verdict: Verdict
    regression: bool = False
    ruled_out: bool = False


@dataclass(frozen=True)
class Comparison:
    """Two runs, compared. `missing` are the arms and cases that only one of them has."""

    before: Run
    after: Run
    rows: tuple[ChangeRow, ...]
    effect: RunEffect
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
    controls = {
        cases: [
            arm
            for arm in common_arms(before, after, cases)
            if before.is_vanilla(arm)
            and after.is_vanilla(arm)
            and is_unchanged(before, after, cases, arm)
            and not mismatch(before, after, cases, arm)
            and not _trouble(before, after, cases, arm)
        ]
        for cases in common_cases(before, after)
    }
    effect = run_effect([_unchanged(before, after, cases, arms) for cases, arms in controls.items()])
    return Comparison(
        before=before,
        after=after,
        rows=tuple(
            _row(before, after, cases, arm, arms, effect, threshold)
            for cases, arms in controls.items()
            for arm in common_arms(before, after, cases)
        ),
        effect=effect,
        other_machine=tuple(other_machine(before, after)),
        notes=tuple(notes(before, after)),
        missing=tuple(_missing(before, after)),
    )


def _unchanged(before: Run, after: Run, cases: tuple[Case, Case], controls: Sequence[Arm]) -> list[float]:
    """Return how much the controls and their A/A arms changed by themselves, if they have the usual settings.

    Arms with other settings are there for ladders. They scatter more, and take part in fewer blocks.
    """
    twins = [arm for arm in before.participants(cases[0]) if arm.replica and arm.original in controls]
    usual = {arm.settings for arm in twins}
    arms = [arm for arm in controls if arm.settings in usual or not twins]
    both = [arm for arm in (*arms, *twins) if arm in after.participants(cases[1])]
    changes = (_alone(before, after, cases, arm) for arm in both)
    return [change for change in changes if change is not None]


def run_effect(groups: Sequence[Sequence[float]]) -> RunEffect:
    """Return the effect of a run from the changes of unchanged arms on each case, and from what is usual.

    The variance is that around the mean of each case, moderated by the usual one (Smyth 2004).
    """
    squares = sum((value - fmean(group)) ** 2 for group in groups for value in group)
    freedom = sum(len(group) - 1 for group in groups if group) + USUAL_FREEDOM
    return RunEffect(math.sqrt((squares + USUAL_FREEDOM * USUAL_EFFECT**2) / freedom), freedom)


def _row(
    before: Run,
    after: Run,
    cases: tuple[Case, Case],
    arm: Arm,
    controls: Sequence[Arm],
    effect: RunEffect,
    threshold: float,
) -> ChangeRow:
    trouble, unlike = _trouble(before, after, cases, arm), mismatch(before, after, cases, arm)
    control = None if trouble or unlike else _control(before, cases[0], arm, controls)
    rule, net = _rule(before, after, cases), None
    if control:
        ratios = [
            list(run.log_ratios(Pair(arm, control, case), rule).values())
            for run, case in zip((before, after), cases, strict=True)
        ]
        if all(ratios):
            net = change_of(ratios[0], ratios[1], effect, _confidence(before, after), threshold)
    return ChangeRow(
        arm=arm,
        case=cases[0],
        control=control,
        latencies_ns=(before.typical_latency_ns(arm, cases[0], rule), after.typical_latency_ns(arm, cases[1], rule)),
        accuracies=(before.accuracy(arm, cases[0]), after.accuracy(arm, cases[1])),
        alone=None if unlike else _alone(before, after, cases, arm),
        net=net,
        verdict=trouble or (Verdict(UNMATCHED, unlike) if unlike else Verdict(UNRESOLVED, NO_CONTROL)),
    )


def _alone(before: Run, after: Run, cases: tuple[Case, Case], arm: Arm) -> float | None:
    """Return the log ratio of an arm's speeds after and before."""
    rule = _rule(before, after, cases)
    latencies = [run.block_latencies_ns(arm, case, rule) for run, case in zip((before, after), cases, strict=True)]
    speeds = [[-math.log(value) for value in blocks.values()] for blocks in latencies]
    return shift(speeds[0], speeds[1]) if all(speeds) else None


def _rule(before: Run, after: Run, cases: tuple[Case, Case]) -> Rule:
    rules = {run.rule_of(case) for run, case in zip((before, after), cases, strict=True)}
    return AT_REST if rules == {AT_REST} else AS_IT_WAS


def _confidence(before: Run, after: Run) -> float | None:
    confidences = before.preset.confidence, after.preset.confidence
    return max(confidences[0], confidences[1]) if confidences[0] and confidences[1] else None


def _trouble(before: Run, after: Run, cases: tuple[Case, Case], arm: Arm) -> Verdict | None:
    """Return the verdict on an arm that one of the runs has no valid times of, or None."""
    for run, case, when in ((before, cases[0], "before"), (after, cases[1], "after")):
        if verdict := arm_trouble(run, arm, case):
            return replace(verdict, reason=f"{when}: {verdict.reason}")
    return None


def _control(run: Run, case: Case, arm: Arm, controls: Sequence[Arm]) -> Arm | None:
    """Return the arm's own baseline if it did not change, else another one that did not: that of the A/A arm first."""
    own = {pair.baseline for pair in run.pairs if (pair.arm, pair.case) == (arm, case)}
    twins = {other.original for other in run.participants(case) if other.replica}

    def distance(control: Arm) -> tuple[bool, bool, bool]:
        return control not in own, control not in twins, control.settings != arm.settings

    return min((control for control in controls if control != arm), key=distance, default=None)


def _judged(draft: Comparison, row: ChangeRow, threshold: float | None) -> ChangeRow:
    """Return the row with its verdict; the p values of its change are corrected already."""
    if (net := row.net) is None:
        return row
    presets = draft.before.preset, draft.after.preset
    if silent := next((preset for preset in presets if preset.confidence is None), None):
        return replace(row, verdict=Verdict(UNRESOLVED, f"preset {silent.name} claims nothing"))
    level = 1 - (_confidence(draft.before, draft.after) or 0.0)
    margin = MARGIN if threshold is None else threshold
    verdict = judge_change(net, margin, max(preset.minimum_effect for preset in presets), level)
    if threshold is None:
        return replace(row, verdict=verdict)
    regression = verdict.word == SLOWER and net.slower_p <= GATE_LEVEL and not draft.other_machine
    ruled_out = net.margin_interval is not None and net.margin_interval.low > -math.log1p(threshold)
    return replace(row, verdict=verdict, regression=regression, ruled_out=ruled_out)


def judge_change(net: Change, margin: float, minimum_effect: float, level: float) -> Verdict:
    """Return the verdict on a change; its p value is corrected by Holm, and claimed up to `level`."""
    if net.interval is None or net.margin_interval is None:
        return Verdict(UNRESOLVED, f"too few blocks for an interval: {min(net.blocks)}")
    doubts = {
        "the interval includes 1": not net.interval.excludes(0),
        f"under {minimum_effect:.0%}, which the preset does not claim": abs(net.log_change)
        < math.log1p(minimum_effect),
        "not significant after Holm's correction": net.interval.excludes(0) and net.p_value > level,
    }
    reasons = [doubt for doubt, applies in doubts.items() if applies]
    if not reasons:
        return Verdict(FASTER if net.log_change > 0 else SLOWER)
    if net.margin_interval.within(-math.log1p(margin), math.log1p(margin)):
        return Verdict(UNCHANGED, f"by more than {margin * 100:g} %")
    return Verdict(UNRESOLVED, "; ".join(reasons))


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
