"""The tables of a run. A column is defined once, for the CSV file and for the tables of the report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from bench.analysis.gates import WITHDRAWN, WITHHELD
from bench.analysis.latency import AT_REST
from bench.analysis.scaling import WORKERS
from bench.analysis.stats import Interval
from bench.analysis.training import GOALS
from bench.loadgen.settings import time_title
from bench.report.document import Cell, Column
from bench.report.text import (
    decimals3,
    interval_text,
    level,
    number,
    number2,
    number4,
    percent,
    ratio,
    share_text,
    split_text,
)
from bench.suite.arms import BEST_THREADS, LATENCY, LOADGEN, THROUGHPUT, TRAINING, Split, threads_label

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.analysis.attribution import Attribution, Rung
    from bench.analysis.costs import Tradeoff
    from bench.analysis.gates import Estimate
    from bench.analysis.run import Run
    from bench.analysis.scaling import Curve, Point, Sweep
    from bench.analysis.speedups import Speedup
    from bench.analysis.training import TrainedArm
    from bench.records import Choice, SplitTrial
    from bench.suite.arms import Arm, Case, Pair

T = TypeVar("T")

# The tables of speedups, and those of trainings, each with a group of the columns.
VERDICTS, CONDITIONS = "verdicts", "conditions"
SPEED, ACCURACY = "speed", "accuracy"
MATCHED = {True: "matched", False: "unmatched", None: ""}


def scaled(value: float | None, divisor: float) -> float | None:
    return None if value is None else value / divisor


def case_columns(run: Run, case: Callable[[T], Case], arm: Callable[[T], Arm]) -> list[Column[T]]:
    return [
        Column("suite", lambda _: run.info.suite.name),
        Column("model", lambda row: case(row).model),
        Column("scenario", lambda row: case(row).scenario),
        Column("batch_size", lambda row: case(row).batch_size),
        Column("precision", lambda row: arm(row).precision),
    ]


def worker_columns(run: Run, case: Callable[[T], Case]) -> list[Column[T]]:
    """Return how many workers train together, and how their number scales the work; nothing in other runs."""
    if not any(case.workers for case in run.cases):
        return []
    return [
        Column("workers", lambda row: case(row).workers),
        Column("scaling", lambda row: case(row).scaling),
    ]


def low(interval: Interval | None) -> float | None:
    return interval.low if interval else None


def high(interval: Interval | None) -> float | None:
    return interval.high if interval else None


def estimate_columns(prefix: str, estimate: Callable[[T], Estimate | None], title: str) -> list[Column[T]]:
    def interval(row: T) -> Interval | None:
        return value.ratio_interval if (value := estimate(row)) else None

    return [
        Column(f"{prefix}_ratio", lambda row: value.speedup if (value := estimate(row)) else None),
        Column(f"{prefix}_ci_low", lambda row: low(interval(row))),
        Column(f"{prefix}_ci_high", lambda row: high(interval(row))),
        Column("", estimate, title, ratio),
    ]


def has_own_threads(case: Case | None) -> bool:
    """Return whether the arms of a case have different numbers of threads; not known without a case."""
    return case is not None and case.threads == BEST_THREADS


def _threads_text(run: Run, pair: Pair) -> str:
    return " / ".join(split_text(pair.case, run.split(arm, pair.case)) for arm in (pair.arm, pair.baseline))


def _verdict(row: Speedup) -> Cell:
    reasons = row.verdict.reason.split("; ")
    if row.pair.arm.replica:
        # Two equal arms need no verdict, so no further blocks either.
        reasons = [reason for reason in reasons if "further block" not in reason]
    return Cell(row.verdict.word, row.verdict.word, "; ".join(reasons))


def _brief_verdict(row: Speedup) -> Cell:
    return Cell(row.verdict.word + (", unmatched" if row.matched is False else ""), row.verdict.word)


def _speedup(row: Speedup) -> Cell:
    return Cell(decimals3(row.speedup), struck=row.verdict.word in (WITHHELD, WITHDRAWN))


def speedup_columns(run: Run, case: Case | None = None) -> list[Column[Speedup]]:
    """Return the columns of speedups.csv; their titles are those of a case's table."""
    other = ""
    if case and case.scenario == LATENCY:
        other = "As it was" if run.rule_of(case) == AT_REST else "At rest"
    unit, divisor = ("Epoch, s", 1e9) if case and case.scenario == TRAINING else ("Latency, µs", 1e3)
    if case and case.scenario in LOADGEN:
        unit = f"{time_title(case)}, µs"

    def times(row: Speedup) -> str:
        # By the rule of the speedup, so that the three fit each other.
        typical = [run.typical_latency_ns(arm, row.pair.case, row.rule) for arm in (row.pair.arm, row.pair.baseline)]
        return " / ".join(number(scaled(value, divisor)) for value in typical)

    def accuracies(row: Speedup) -> str:
        return " / ".join(percent(run.accuracy(arm, row.pair.case)) for arm in (row.pair.arm, row.pair.baseline))

    def by_other_rule(row: Speedup) -> Estimate | None:
        return row.as_it_was if run.rule_of(row.pair.case) == AT_REST else row.at_rest

    def undisturbed_interval(row: Speedup) -> Interval | None:
        return row.undisturbed.ratio_interval if row.undisturbed else None

    def undisturbed(row: Speedup) -> str:
        text = decimals3(row.undisturbed.speedup if row.undisturbed else None)
        interval = undisturbed_interval(row) if run.disturbed_rounds else None
        return text + (f" ({interval_text(interval)})" if interval else "")

    def sign_interval(row: Speedup) -> Interval | None:
        signs = row.estimate.sign_interval if row.estimate else None
        return Interval(math.exp(signs.low), math.exp(signs.high)) if signs else None

    return [
        Column("", lambda row: row.pair.arm.label, "Arm", numeric=False, brief=True, group=VERDICTS),
        Column("", lambda row: row.pair.baseline.label, "Baseline", numeric=False, brief=True, group=VERDICTS),
        Column("", lambda row: row.pair.arm.label, "Arm", numeric=False, group=CONDITIONS),
        Column("", lambda row: row.pair.baseline.label, "Baseline", numeric=False, group=CONDITIONS),
        *case_columns(run, lambda row: row.pair.case, lambda row: row.pair.arm),
        Column("stack", lambda row: row.pair.arm.stack),
        Column("variant", lambda row: row.pair.arm.variant),
        Column("baseline_stack", lambda row: row.pair.baseline.stack),
        Column("baseline_variant", lambda row: row.pair.baseline.variant),
        Column("speedup", lambda row: row.speedup),
        Column("", lambda row: row, "Speedup", _speedup, brief=True, group=VERDICTS),
        Column("ci_low", lambda row: low(row.interval)),
        Column("ci_high", lambda row: high(row.interval)),
        Column(
            "",
            lambda row: row.interval,
            f"{level(run)} interval".strip(),
            interval_text,
            brief=True,
            group=VERDICTS,
        ),
        Column(
            "",
            lambda row: row,
            "Verdict",
            _verdict,
            numeric=False,
            brief=True,
            show_brief=_brief_verdict,
            group=VERDICTS,
        ),
        Column("blocks", lambda row: row.estimate.blocks if row.estimate else 0, "Blocks", group=VERDICTS),
        Column("", lambda row: row.speedup, "Speedup", decimals3, group=CONDITIONS),
        Column("", by_other_rule, other, ratio, group=CONDITIONS),
        Column("verdict", lambda row: row.verdict.word),
        Column("", times, f"{unit}, arm / baseline", group=VERDICTS),
        Column(
            "",
            lambda row: _threads_text(run, row.pair),
            "Threads, arm / baseline" if has_own_threads(case) else "",
            group=VERDICTS,
        ),
        Column("accuracy", lambda row: run.accuracy(row.pair.arm, row.pair.case)),
        Column("baseline_accuracy", lambda row: run.accuracy(row.pair.baseline, row.pair.case)),
        Column("", accuracies, "Accuracy, arm / baseline", group=VERDICTS),
        Column(
            "max_abs_logit_diff",
            lambda row: parity.max_abs_logit_diff if (parity := run.parity(row.pair)) else None,
            "Max logit difference",
            number2,
            group=CONDITIONS,
        ),
        Column("data", lambda _: run.data),
        Column("reason", lambda row: row.verdict.reason),
        Column("family", lambda row: "A/A" if row.pair.arm.replica else "primary" if row.primary else "exploratory"),
        Column("", undisturbed, "Undisturbed rounds only", group=CONDITIONS),
        Column("matched", lambda row: MATCHED[row.matched], "Environments", numeric=False, group=CONDITIONS),
        Column("confidence", lambda _: run.preset.confidence),
        Column("sign_ci_low", lambda row: low(sign_interval(row))),
        Column("sign_ci_high", lambda row: high(sign_interval(row))),
        Column("p_value", lambda row: row.estimate.p_value if row.estimate else None),
        Column("speedup_without_marked_rounds", lambda row: row.undisturbed.speedup if row.undisturbed else None),
        Column("ci_low_without_marked_rounds", lambda row: low(undisturbed_interval(row))),
        Column("ci_high_without_marked_rounds", lambda row: high(undisturbed_interval(row))),
        Column("settings", lambda row: row.pair.arm.settings),
        Column("threads", lambda row: run.split(row.pair.arm, row.pair.case).cores),
        Column("baseline_threads", lambda row: run.split(row.pair.baseline, row.pair.case).cores),
        Column("rule", lambda row: row.rule),
        *estimate_columns("at_rest", lambda row: row.at_rest, ""),
        *estimate_columns("as_it_was", lambda row: row.as_it_was, ""),
        *worker_columns(run, lambda row: row.pair.case),
    ]


def speedup_emphasis(row: Speedup) -> str:
    if row.verdict.word == WITHDRAWN:
        return "withdrawn"
    return "primary" if row.primary else "replica" if row.pair.arm.replica else ""


def speedup_facets(row: Speedup) -> dict[str, str]:
    """Return what a reader can filter comparisons by."""
    return {"stack": row.pair.arm.stack, "case": row.pair.case.label, "verdict": row.verdict.word}


def rung_columns(run: Run) -> list[Column[tuple[Attribution, Rung]]]:
    """Return the columns of attribution.csv, and of a ladder's table."""
    return [
        Column("ladder", lambda row: row[0].name),
        Column("step", lambda row: row[1].name, "Step", numeric=False),
        *case_columns(run, lambda row: row[0].case, lambda row: row[1].arm),
        Column("", lambda row: row[1].arm.label, "Arm", numeric=False),
        Column("stack", lambda row: row[1].arm.stack),
        Column("variant", lambda row: row[1].arm.variant),
        Column("settings", lambda row: row[1].arm.settings),
        *estimate_columns("step", lambda row: row[1].step, "This step"),
        *estimate_columns("total", lambda row: row[1].total, "Cumulative"),
        Column("rule", lambda row: row[0].rule),
    ]


def tradeoff_columns(run: Run, reference: str = "") -> list[Column[tuple[Case, Tradeoff]]]:
    """Return the columns of tradeoffs.csv, and of a case's table; `reference` is the label of the arm with speed 1."""
    return [
        Column("", lambda row: row[1].arm.label, "Arm", numeric=False),
        *case_columns(run, lambda row: row[0], lambda row: row[1].arm),
        Column("", lambda row: row[1].arm.precision, "Precision", numeric=False),
        Column("stack", lambda row: row[1].arm.stack),
        Column("variant", lambda row: row[1].arm.variant),
        Column("against", lambda row: row[1].against.id),
        *estimate_columns("speed", lambda row: row[1].estimate, f"Speed relative to {reference}"),
        Column("accuracy", lambda row: row[1].accuracy, "Accuracy", percent),
        Column("relative_accuracy", lambda row: row[1].relative_accuracy, "Relative accuracy", percent),
        Column("lost", lambda row: row[1].lost, "Lost"),
        Column("won", lambda row: row[1].won, "Won"),
        Column("mcnemar_p", lambda row: row[1].p_value, "p", number2),
        Column("fault", lambda row: row[1].fault or ""),
        Column("", lambda row: row[1].fault or "passed", "Gate", numeric=False),
    ]


def _time_to(row: TrainedArm, goal: float) -> str:
    time_ns, count, seeds = row.time_to_ns(goal), len(row.goals[goal]), len(row.final)
    if time_ns is None:
        return "never" if seeds else "-"
    return number(time_ns / 1e9) + (f" ({count} of {seeds})" if count < seeds else "")


def _difference(row: TrainedArm) -> str:
    if row.difference is None:
        return "-"
    interval = row.difference.interval
    bounds = f" ({interval.low * 100:+.2f} to {interval.high * 100:+.2f})" if interval else ""
    return f"{row.difference.mean * 100:+.2f}{bounds}"


def _comparison(row: TrainedArm) -> str:
    if row.difference is not None:
        return row.difference.word
    return "reference" if row.is_reference else "-"


def _seconds_to(goal: float) -> Column[tuple[Case, TrainedArm]]:
    return Column(f"time_to_{goal * 100:.0f}_s", lambda row: scaled(row[1].time_to_ns(goal), 1e9))


def _shown_time_to(goal: float) -> Column[tuple[Case, TrainedArm]]:
    return Column("", lambda row: _time_to(row[1], goal), f"To {percent(goal, 0)}, s", group=SPEED)


def _seeds_reaching(goal: float) -> Column[tuple[Case, TrainedArm]]:
    return Column(f"seeds_that_reached_{goal * 100:.0f}", lambda row: len(row[1].goals[goal]))


def trained_columns(run: Run) -> list[Column[tuple[Case, TrainedArm]]]:
    """Return the columns of training.csv, and of a case's table."""
    return [
        Column("", lambda row: row[1].arm.label, "Arm", numeric=False, group=SPEED),
        Column("", lambda row: row[1].arm.label, "Arm", numeric=False, group=ACCURACY),
        *case_columns(run, lambda row: row[0], lambda row: row[1].arm),
        Column("stack", lambda row: row[1].arm.stack),
        Column("variant", lambda row: row[1].arm.variant),
        Column("settings", lambda row: row[1].arm.settings),
        Column("replica", lambda row: row[1].arm.replica),
        Column("epochs", lambda row: row[1].epochs),
        Column("epoch_s", lambda row: scaled(row[1].epoch_ns, 1e9), "Epoch, s", number, group=SPEED),
        Column("first_epoch_s", lambda row: row[1].first_epoch_ns / 1e9, "First epoch, s", number, group=SPEED),
        Column("images_per_s", lambda row: row[1].images_per_s, "Images/s", number4, group=SPEED),
        Column("wait_share", lambda row: row[1].wait_share, "Waiting", percent, group=SPEED),
        Column("peak_memory_bytes", lambda row: row[1].memory_bytes),
        Column("", lambda row: row[1].memory_bytes / 1e6, "Peak memory, MB", number, group=SPEED),
        *map(_seconds_to, GOALS),
        *map(_shown_time_to, GOALS),
        *map(_seeds_reaching, GOALS),
        Column("seeds", lambda row: len(row[1].final), "Seeds", group=ACCURACY),
        Column("accuracy", lambda row: row[1].accuracy, "Accuracy", percent, group=ACCURACY),
        Column("accuracy_sd", lambda row: row[1].deviation, "sd", percent, group=ACCURACY),
        Column("against", lambda row: row[1].difference.against.id if row[1].difference else None),
        Column("accuracy_difference", lambda row: row[1].difference.mean if row[1].difference else None),
        Column("difference_low", lambda row: low(row[1].difference.interval if row[1].difference else None)),
        Column("difference_high", lambda row: high(row[1].difference.interval if row[1].difference else None)),
        Column("", lambda row: _difference(row[1]), "Difference, points", group=ACCURACY),
        Column("", lambda row: _comparison(row[1]), "Compared with seeds", numeric=False, group=ACCURACY),
        Column("judgement", lambda row: row[1].difference.word if row[1].difference else ""),
        *worker_columns(run, lambda row: row[0]),
    ]


def point_columns(run: Run) -> list[Column[tuple[Sweep, Arm, Point]]]:
    """Return the columns of scaling.csv; a sweep's own table has a column for each of its cases."""
    return [
        Column("over", lambda row: row[0].over),
        *case_columns(run, lambda row: row[2].case, lambda row: row[1]),
        Column("threads", lambda row: run.split(row[1], row[2].case).cores),
        Column("stack", lambda row: row[1].stack),
        Column("variant", lambda row: row[1].variant),
        Column("settings", lambda row: row[1].settings),
        Column("latency_us", lambda row: row[2].latency_ns / 1e3),
        Column("images_per_s", lambda row: row[2].images_per_s),
        *estimate_columns("gain", lambda row: row[2].gain, ""),
        *worker_columns(run, lambda row: row[2].case),
        Column("sweep", lambda row: row[0].cases[-1].scaling),
        Column("efficiency", lambda row: row[2].efficiency),
        Column("efficiency_ci_low", lambda row: low(row[2].efficiency_interval)),
        Column("efficiency_ci_high", lambda row: high(row[2].efficiency_interval)),
        Column("fault", lambda row: "; ".join(row[2].faults)),
    ]


def trial_columns(run: Run) -> list[Column[tuple[Arm, Case, Choice, SplitTrial]]]:
    """Return the columns of threads.csv; a case's own table has a column for each split."""
    return [
        *case_columns(run, lambda row: row[1], lambda row: row[0]),
        Column("stack", lambda row: row[0].stack),
        Column("variant", lambda row: row[0].variant),
        Column("settings", lambda row: row[0].settings),
        Column("streams", lambda row: row[3].streams),
        Column("threads_of_each", lambda row: row[3].threads),
        Column("time_per_batch_us", lambda row: scaled(row[3].time_ns, 1e3)),
        Column("chosen", lambda row: (row[3].streams, row[3].threads) == (row[2].streams, row[2].threads)),
        Column("failure", lambda row: row[3].failure),
    ]


def choice_columns(case: Case, splits: Sequence[Split]) -> list[Column[tuple[Arm, Choice]]]:
    """Return the columns of the table of a case's choices: one for each split."""

    def on(split: Split) -> Column[tuple[Arm, Choice]]:
        def time(row: tuple[Arm, Choice]) -> Cell:
            trial = next((trial for trial in row[1].trials if Split(trial.streams, trial.threads) == split), None)
            if trial is None or trial.time_ns is None:
                return Cell("failed" if trial and trial.failure else "-", note=trial.failure if trial else "")
            if case.scenario == LATENCY:
                return Cell(number(trial.time_ns / 1e3))
            return Cell(number4(case.batch_size / trial.time_ns * 1e9))

        title = split_text(case, split) if case.scenario == THROUGHPUT else threads_label(split.threads)
        return Column("", time, title, lambda cell: cell)

    return [
        Column("", lambda row: row[0].label, "Arm", numeric=False),
        *map(on, splits),
        Column("", lambda row: split_text(case, Split(row[1].streams, row[1].threads)), "Chosen"),
    ]


def curve_columns(sweep: Sweep) -> list[Column[Curve]]:
    """Return the columns of a sweep's table: one for each of its cases."""

    def show(point: Point | None) -> Cell:
        if point is None:
            return Cell("-")
        gain, detail = point.gain, ""
        if gain and sweep.over == WORKERS:
            detail = share_text(point.efficiency, point.efficiency_interval)
        elif gain:
            interval = f", {interval_text(gain.ratio_interval)}" if gain.ratio_interval else ""
            detail = f"x{gain.speedup:.3f}{interval}"
        return Cell(number4(point.images_per_s), "", "; ".join(point.faults), bool(point.faults), detail)

    def on(case: Case) -> Column[Curve]:
        return Column(
            "",
            lambda curve: next((point for point in curve.points if point.case == case), None),
            sweep.heading(case),
            show,
        )

    return [Column("", lambda curve: curve.arm.label, "Arm", numeric=False), *map(on, sweep.cases)]
