"""Write the files of a run's report; show on the console what a run will measure and what came out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.analysis.attribution import attributions
from bench.analysis.costs import tradeoffs
from bench.analysis.run import Run
from bench.analysis.scaling import sweeps
from bench.analysis.speedups import speedups
from bench.analysis.training import trained_arms
from bench.console import WARNING, say, say_anyway
from bench.journal import write_pages
from bench.report.answer.judgements import Judgement, Outcome, summary_rows
from bench.report.answer.wording import answer_sentence, name_of, short_labels
from bench.report.arm_table import arm_columns, arm_rows
from bench.report.document import Cell, Column, brief_table
from bench.report.loadgen import glue_lines, load_rows, load_run_columns
from bench.report.page.html import drawable, plot_files, to_html
from bench.report.plots.run_plots import run_plots
from bench.report.sections import document
from bench.report.tables import (
    point_columns,
    rung_columns,
    speedup_columns,
    speedup_emphasis,
    tradeoff_columns,
    trained_columns,
    trial_columns,
)
from bench.report.text import (
    case_title,
    decimals3,
    doubts,
    interval_text,
    level,
    problems,
    split_text,
    unmatched_lines,
    variable_lines,
)
from bench.report.writers import print_table, to_csv, to_markdown
from bench.suite.arms import BEST_THREADS
from models.data import SYNTHETIC_WARNING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from bench.analysis.latency import Rule
    from bench.report.arm_table import ArmRow
    from bench.suite.arms import Case
    from bench.suite.plan import Plan
    from bench.suite.user_variables import UserVariables
    from models.data import DataSet


READ_FIRST = "Read this first: each stack against the fastest stock variant"


def write_report(folder: Path, console: Console, rule: Rule | None = None) -> Run:
    """Write the report of a run, and show its summary; return the run.

    Everything is rendered before anything is written: a run that can't be read leaves its folder as it was.
    """
    run = Run(folder, rule)
    arms = arm_rows(run)
    plots, missing = drawable(run_plots(run, arms))
    page = document(run, arms, set(plots), missing)
    texts = csv_files(run, arms) | {"report.md": to_markdown(page), "report.html": to_html(page, plots)}
    write_pages(folder, texts, plot_files(page, plots))
    closing(run, console, missing)
    return run


def exit_status(run: Run) -> int:
    """Return 1 if something failed or a gate tripped, else 0."""
    return 1 if problems(run) else 0


def opening(plan: Plan, data: DataSet, advice: Sequence[str], console: Console) -> None:
    """Show what will be measured, and what can't be."""
    threads = ", ".join(dict.fromkeys(_threads_text(plan, case) for case in plan.suite.cases))
    say(console, f"suite {plan.suite.name}, preset {plan.preset.name} ({plan.preset.summary})")
    say(console, f"{len(plan.arms)} arms, {len(plan.suite.cases)} cases, {threads} threads, data: {data.name}")
    if data.name == "synthetic":
        say(console, SYNTHETIC_WARNING, "bold yellow")
    for line in advice:
        say(console, line, WARNING)
    say_variables(plan.variables, console)
    for name, reason in plan.missing.items():
        say(console, f"{name} is not measured: {reason}", WARNING)
    mismatches = plan.mismatches
    for line in unmatched_lines(mismatches):
        say(console, line)
    pairs = [(one.name, other.name) for one, other in plan.environment_pairs]
    if matched := [f"{one} and {other}" for one, other in pairs if f"{one} {other}" not in mismatches]:
        say(console, f"environments {', '.join(matched)} are matched: the packages that they share have equal versions")


def _threads_text(plan: Plan, case: Case) -> str:
    if case.threads != BEST_THREADS:
        return str(plan.threads_of(case))
    return "best of " + ", ".join(split_text(case, split) for split in plan.splits_of(case))


def say_variables(variables: UserVariables, console: Console) -> None:
    for line in variable_lines(variables):
        say(console, line)
    if variables.dropped:
        say(console, "--env NAME=VALUE sets one for all arms alike")


def summary_columns(run: Run) -> list[Column[tuple[Judgement, Outcome]]]:
    """Return the columns of the table of what to read first: a row for each stack and case."""
    labels = short_labels(run.cases)

    def verdict(outcome: Outcome) -> Cell:
        return Cell(outcome.word, outcome.row.verdict.word)

    return [
        Column("", lambda row: name_of(row[0].stack), "Stack", numeric=False, brief=True),
        Column("", lambda row: labels[row[1].case], "Case", numeric=False, brief=True),
        Column("", lambda row: row[1].row.pair.baseline.label, "Fastest stock", numeric=False, brief=True),
        Column("", lambda row: decimals3(row[1].row.speedup), "Speedup", brief=True),
        Column("", lambda row: interval_text(row[1].row.interval), f"{level(run)} interval".strip(), brief=True),
        Column("", lambda row: row[1], "Here", verdict, numeric=False, brief=True),
    ]


def closing(run: Run, console: Console, missing: Sequence[str] = ()) -> None:
    """Show the verdicts of each case, what to read first, what went wrong, the answer, and where the report is.

    What matters comes last: it is what a terminal shows then.
    """
    for case in run.cases:
        rows = [row for row in speedups(run) if row.pair.case == case]
        verdicts = brief_table(
            rows,
            speedup_columns(run, case),
            speedup_emphasis,
            title=case_title(run, case),
        )
        print_table(verdicts, console)
    if summary := summary_rows(run):
        print_table(brief_table(summary, summary_columns(run), title=READ_FIRST), console)
    for line in glue_lines(run):
        say(console, line)
    for line in [*doubts(run), *missing]:
        say(console, line, WARNING)
    for line in problems(run):
        say_anyway(console, line, WARNING)
    if run.data == "synthetic":
        say(console, SYNTHETIC_WARNING, "bold yellow")
    say_anyway(console, answer_sentence(run), "bold")
    say(console, f"report: {run.folder / 'report.html'}")


def csv_files(run: Run, arms: dict[Case, list[ArmRow]]) -> dict[str, str]:
    """Return {file name: text} of the tables that have rows."""
    files = {
        "arms.csv": to_csv([row for rows in arms.values() for row in rows], arm_columns(run)),
        "speedups.csv": to_csv(speedups(run), speedup_columns(run)),
        "attribution.csv": to_csv(
            [(ladder, rung) for ladder in attributions(run) for rung in ladder.rungs], rung_columns(run)
        ),
        "threads.csv": to_csv(
            [
                (arm, case, choice, trial)
                for case in run.cases
                for arm in run.participants(case)
                if (choice := run.choices.get((arm.id, case.id)))
                for trial in choice.trials
            ],
            trial_columns(run),
        ),
        "training.csv": to_csv(
            [(case, row) for case in run.cases for row in trained_arms(run, case)], trained_columns(run)
        ),
        "scaling.csv": to_csv(
            [(sweep, curve.arm, point) for sweep in sweeps(run) for curve in sweep.curves for point in curve.points],
            point_columns(run),
        ),
        "loadgen.csv": to_csv(
            [(row, load_run) for row in load_rows(run) for load_run in row.runs], load_run_columns(run)
        ),
        "tradeoffs.csv": to_csv(
            [(case, row) for case in run.cases for row in tradeoffs(run, case)], tradeoff_columns(run)
        ),
    }
    return {name: text for name, text in files.items() if text or name in ("arms.csv", "speedups.csv")}
