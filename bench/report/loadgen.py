"""The section on LoadGen's runs: its own verdict, figures and settings."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from bench.analysis.gates import MAX_GLUE_NS
from bench.loadgen.search import COMMON_SHARE, PRECISION, WINNER_RUNS
from bench.loadgen.settings import GENERATED_BYTES, MOST_GENERATED, time_title
from bench.records import Glue, LoadAccuracy, LoadSearch
from bench.report.document import Cell, Column, Paragraph, Section, table
from bench.report.tables import case_columns
from bench.report.text import case_title, number, number4, percent
from bench.suite.arms import LOADGEN, SERVER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.analysis.run import Run
    from bench.records import LoadResult, LoadRun
    from bench.report.document import Element
    from bench.suite.arms import Arm, Case


@dataclass(frozen=True)
class LoadRow:
    """An arm's runs on a case, and its run in accuracy mode if there is one."""

    arm: Arm
    case: Case
    runs: Sequence[LoadRun]
    accuracy: LoadAccuracy | None

    @property
    def valid(self) -> int:
        return sum(run.result.valid for run in self.runs)

    @property
    def reasons(self) -> str:
        """Return why runs were not valid, with the number of runs for each reason."""
        reasons = [reason for run in self.runs for reason in run.result.reasons]
        return "; ".join(f"{reason} ({reasons.count(reason)})" for reason in dict.fromkeys(reasons))


def load_rows(run: Run) -> list[LoadRow]:
    """Return a row for each arm that has LoadGen runs."""
    accuracies = {(record.arm, record.case): record for record in run.of(LoadAccuracy)}
    return [
        LoadRow(arm, case, runs, accuracies.get((arm.original.id, case.id)))
        for case in run.cases
        for arm in run.participants(case)
        if (runs := run.load_runs(arm, case))
    ]


def glue_lines(run: Run) -> list[str]:
    """Return what LoadGen itself costs, if it was measured."""
    return [
        f"LoadGen's cost with a backend that does nothing: {glue.median_ns / 1e3:.2f} µs of each latency "
        f"(p90 {glue.p90_ns / 1e3:.2f} µs), {glue.interval_ns / 1e3:.2f} µs from query to query "
        f"({glue.queries:,} queries); limit {MAX_GLUE_NS / 1e3:g} µs"
        for glue in run.of(Glue)
    ]


def loadgen(run: Run) -> Section | None:
    """Return the section on LoadGen's runs; None for other suites."""
    rows = load_rows(run)
    if not any(case.scenario in LOADGEN for case in run.cases) or not rows:
        return None
    explanation = f"""LoadGen sends the queries, takes the times and judges each run. A run has a process of its own,
        and a block has one run of every arm. VALID counts the runs that LoadGen calls valid; a note says why others are
        not. Times are medians over runs. The rules are this project's own: short runs, and other settings than those of
        submissions. So these results can't be compared with results that were submitted anywhere. Traces are off.
        LoadGen makes all queries in advance: at most {MOST_GENERATED:,}, of up to {GENERATED_BYTES} bytes each. Growth
        is the largest growth of the process's memory during a run. Cores used include LoadGen's own threads."""
    blocks: list[Element] = [Paragraph(explanation), *(Paragraph(f"{line}.") for line in glue_lines(run))]
    for case in run.cases:
        chosen = [row for row in rows if row.case == case]
        found = {search.arm: search for search in run.of(LoadSearch) if search.case == case.id}
        searches = [found[arm.id] for arm in run.participants(case) if arm.id in found]
        if chosen:
            shown = table(
                chosen,
                _arm_columns(case),
                lambda row: "replica" if row.arm.replica else "",
                facets=lambda row: {"stack": row.arm.stack, "case": row.case.label},
            )
            blocks.append(Section(case_title(run, case), (*_rates(run, searches), shown)))
    settings = table(
        rows,
        _setting_columns(),
        folded="Settings that LoadGen had in force, and its logs",
        facets=lambda row: {"stack": row.arm.stack},
    )
    return Section("LoadGen", (*blocks, settings))


def _rates(run: Run, searches: Sequence[LoadSearch]) -> list[Element]:
    """Return the table of the highest rates, and what the times that follow it are."""
    if not searches:
        return []
    labels = {arm.id: arm.label for arm in run.arms}
    columns: list[Column[LoadSearch]] = [
        Column("", lambda search: labels[search.arm], "Arm", numeric=False),
        Column("", lambda search: search.rate or None, "Highest valid rate, queries/s", number4),
        Column("", lambda search: len(search.probes), "Runs"),
        Column("", lambda search: sum(probe.valid for probe in search.probes), "VALID"),
        Column("", _lowest_invalid, "Lowest rate not valid, queries/s", number4),
    ]
    explanation = f"""Queries of one image come at random times (a Poisson process). The bound is this project's own:
        99 % of the latencies, counted from when a query is due, must be at most {searches[0].bound_ns / 1e6:g} ms. The
        highest valid rate comes from a bounded search before the blocks. It doubles or halves the rate, then narrows
        the gap between a valid and an invalid rate to {percent(PRECISION - 1, 0)}. The winner must be valid
        {WINNER_RUNS} times. The rate has no interval, so no speedup is claimed from it. In the blocks all arms get the
        same queries, at {percent(COMMON_SHARE, 0)} of the lowest of these rates. Speedups are those of p99 there."""
    return [Paragraph(explanation), table(searches, columns)]


def _lowest_invalid(search: LoadSearch) -> float | None:
    return min((probe.rate for probe in search.probes if not probe.valid), default=None)


def _arm_columns(case: Case) -> list[Column[LoadRow]]:
    def middle(row: LoadRow, value: Callable[[LoadResult], float]) -> float:
        return median(value(run.result) for run in row.runs)

    def delays(row: LoadRow) -> float | None:
        found = [run.issue_delay_ns / 1e3 for run in row.runs if run.issue_delay_ns is not None]
        return median(found) if found else None

    columns: list[Column[LoadRow]] = [
        Column("", lambda row: row.arm.label, "Arm", numeric=False),
        Column("", lambda row: row, "VALID", lambda row: Cell(f"{row.valid} of {len(row.runs)}", "", row.reasons)),
        Column("", lambda row: middle(row, lambda result: result.time_ns) / 1e3, f"{time_title(case)}, µs", number),
        Column("", lambda row: middle(row, lambda result: result.samples_per_s), "Images/s", number4),
        Column("", lambda row: middle(row, lambda result: result.queries), "Queries", lambda count: f"{count:,.0f}"),
        Column(
            "",
            lambda row: middle(row, lambda result: result.generated),
            "Made in advance",
            lambda count: f"{count:,.0f}",
        ),
        Column("", lambda row: max(run.reply.memory_bytes for run in row.runs) / 1e6, "Growth, MB", number),
        Column("", lambda row: median(run.cpu_ns / run.wall_ns for run in row.runs), "Cores used", number),
        Column("", lambda row: row.accuracy.accuracy if row.accuracy else None, "Accuracy, accuracy mode", percent),
    ]
    if case.scenario == SERVER:
        columns.insert(4, Column("", delays, "Issued late by, µs", number))
    return columns


def _setting_columns() -> list[Column[LoadRow]]:
    def settings(row: LoadRow) -> str:
        return ", ".join(f"{name} {value}" for name, value in row.runs[0].result.effective.items())

    return [
        Column("", lambda row: row.arm.label, "Arm", numeric=False),
        Column("", lambda row: row.case.label, "Case", numeric=False),
        Column("", settings, "Settings of the first run", numeric=False),
        Column("", lambda row: row.runs[0].folder, "Its logs", numeric=False),
    ]


def load_run_columns(run: Run) -> list[Column[tuple[LoadRow, LoadRun]]]:
    """Return the columns of loadgen.csv: a row for each run."""
    columns: list[Column[tuple[LoadRow, LoadRun]]] = [
        *case_columns(run, lambda row: row[0].case, lambda row: row[0].arm),
        Column("arm", lambda row: row[0].arm.id),
        Column("block", lambda row: row[1].block),
        Column("verdict", lambda row: "VALID" if row[1].result.valid else "INVALID"),
        Column("reasons", lambda row: "; ".join(row[1].result.reasons)),
        Column("what", lambda row: time_title(row[0].case)),
        Column("time_us", lambda row: row[1].result.time_ns / 1e3),
        Column("images_per_s", lambda row: row[1].result.samples_per_s),
        Column("queries", lambda row: row[1].result.queries),
        Column("queries_in_advance", lambda row: row[1].result.generated),
        Column("memory_growth_bytes", lambda row: row[1].reply.memory_bytes),
        Column("issue_delay_us", lambda row: None if (late := row[1].issue_delay_ns) is None else late / 1e3),
        Column("cores_used", lambda row: row[1].cpu_ns / row[1].wall_ns),
        Column("accuracy", lambda row: row[0].accuracy.accuracy if row[0].accuracy else None),
        Column("logs", lambda row: row[1].folder),
    ]
    return columns
