"""Speedups over many runs of one machine, and the runs from which on they changed."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, median
from typing import TYPE_CHECKING

from bench.analysis.latency import AS_IT_WAS
from bench.analysis.speedups import speedups
from bench.compare.changes import USUAL_EFFECT
from bench.compare.matching import MACHINE_FIELDS
from bench.machine.microarchitecture import cpu_label
from bench.records import INTERRUPTED
from bench.report.document import Bullets, Column, Document, Paragraph, Section, table
from bench.report.tables import high, low
from bench.report.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.analysis.gates import Estimate
    from bench.analysis.latency import Rule
    from bench.analysis.run import Run
    from bench.suite.arms import Pair

# Change points need so many runs, a segment so many.
MIN_RUNS, MIN_SEGMENT = 8, 2
# The penalty of a change point, in units of the variance between runs and of the log of their number.
PENALTY = 5.0
# The standard deviation of a normal distribution in units of its median absolute deviation.
MAD_FACTOR = 1.4826
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class HistoryPoint:
    """A comparison in one run, which is known by its name. `estimate` follows `rule`."""

    run: str
    started: str
    git_commit: str | None
    machine: str
    pair: Pair
    threads: int
    rule: Rule
    estimate: Estimate
    as_it_was: Estimate
    # Points with the same key belong together.
    key: tuple[object, ...]


@dataclass(frozen=True)
class OddRun:
    """A run that did not end as planned, or was withdrawn: of the latter, no comparison counts."""

    run: str
    started: str
    what: str
    withdrawn: bool


@dataclass(frozen=True)
class SpeedupSeries:
    """A comparison in the order of the runs of one machine; `changes` are the first points of later segments."""

    points: tuple[HistoryPoint, ...]
    changes: tuple[int, ...]

    @property
    def pair(self) -> Pair:
        return self.points[0].pair

    @property
    def title(self) -> str:
        return f"{self.pair.case.label}, {self.points[0].machine}"

    @property
    def levels(self) -> list[float]:
        """Return the mean log speedup of each segment."""
        edges = [0, *self.changes, len(self.points)]
        return [fmean(point.estimate.log_speedup for point in self.points[a:b]) for a, b in pairwise(edges)]


def history_points(run: Run, name: str) -> list[HistoryPoint]:
    """Return the sound comparisons of a run, of which nothing else is kept."""
    machine = tuple(str(getattr(run.info.machine, field)) for field in MACHINE_FIELDS)
    points = []
    for row in speedups(run):
        pair = row.pair
        if row.estimate and row.as_it_was and row.verdict.is_sound and not pair.arm.replica:
            threads = run.threads(pair.case)
            work = pair.case.model, pair.case.scenario, pair.case.batch_size, threads
            points.append(
                HistoryPoint(
                    run=name,
                    started=run.info.started,
                    git_commit=run.info.git_commit,
                    machine=cpu_label(run.info.machine),
                    pair=pair,
                    threads=threads,
                    rule=row.rule,
                    estimate=row.estimate,
                    as_it_was=row.as_it_was,
                    key=(machine, work, pair.arm, pair.baseline),
                )
            )
    return points


def odd_run(run: Run, name: str) -> OddRun | None:
    if run.withdrawal:
        what = f"withdrawn on {run.withdrawal.date}: {run.withdrawal.why}"
        return OddRun(name, run.info.started, what, withdrawn=True)
    if run.end is None or run.end.status == INTERRUPTED:
        return OddRun(name, run.info.started, "did not end; its finished blocks count", withdrawn=False)
    return None


def series_of(points: Sequence[HistoryPoint]) -> list[SpeedupSeries]:
    """Return the comparisons that two or more runs of a machine have, each with its change points.

    A series whose runs follow different rules shows all of them as the machine was.
    """
    groups = defaultdict[tuple[object, ...], list[HistoryPoint]](list)
    for point in sorted(points, key=lambda point: point.started):
        groups[point.key].append(point)
    return [
        SpeedupSeries(tuple(group), tuple(change_points([point.estimate.log_speedup for point in group])))
        for group in map(_by_one_rule, groups.values())
        if len(group) > 1
    ]


def _by_one_rule(points: list[HistoryPoint]) -> list[HistoryPoint]:
    if len({point.rule for point in points}) == 1:
        return points
    return [replace(point, rule=AS_IT_WAS, estimate=point.as_it_was) for point in points]


def change_points(values: Sequence[float]) -> list[int]:
    """Return the indices at which the level of a series changes; none in a series of fewer than MIN_RUNS.

    The segments are those of least squares with a penalty for each (Killick et al. 2012, by ruptures). A median of
    three runs removes single odd ones and keeps steps where they are. The noise is estimated from differences of
    neighbours, which a change of level hardly moves, and is at least the usual effect of a run.
    """
    import numpy as np
    import ruptures

    if len(values) < MIN_RUNS:
        return []
    differences = [abs(after - before) for before, after in pairwise(values)]
    noise = max(MAD_FACTOR * median(differences) / math.sqrt(2), USUAL_EFFECT)
    last = len(values) - 3
    medians = [median(values[start : start + 3]) for start in (0, *range(last + 1), last)]
    signal = np.array(medians).reshape(-1, 1) / noise
    search = ruptures.KernelCPD(kernel="linear", min_size=MIN_SEGMENT).fit(signal)
    ends = search.predict(pen=PENALTY * math.log(len(values)))
    return [int(end) for end in ends[:-1]]


def history_document(series: Sequence[SpeedupSeries], odd: Sequence[OddRun]) -> Document:
    runs = len({point.run for each in series for point in each.points})
    sections = [
        Section(title, (table([each for each in series if each.title == title], HISTORY_COLUMNS),))
        for title in dict.fromkeys(each.title for each in series)
    ]
    return Document(
        title=f"History of {counted(runs, 'run')}",
        lead="""Speedups in the order of the runs' dates. They compare arms of the same run, so a drift of the machine
            moves them little.""",
        warnings=(),
        sections=(
            Section("In short", (Bullets(tuple(history_headlines(series))),)),
            Section("Speedups", tuple(sections)),
            *([Section(ODD_TITLE, (table(odd, ODD_COLUMNS, odd_emphasis),))] if odd else []),
            Section("How changes are found", (Paragraph(METHOD),)),
        ),
    )


def history_headlines(series: Sequence[SpeedupSeries]) -> list[str]:
    lines = [line for each in series for line in change_sentences(each)]
    longest = max(len(each.points) for each in series)
    if longest < MIN_RUNS:
        return [f"Changes are looked for in {MIN_RUNS} or more runs. Here are {longest}."]
    return lines or ["No speedup is shown to have changed."]


METHOD = f"""Change points are the ends of the segments of least squares, with a penalty of {PENALTY:g} variances
    between runs times the log of their number. They need {MIN_RUNS} runs. A segment has at least {MIN_SEGMENT}, so a
    single odd run is no change. The unit is the run."""


def change_sentences(series: SpeedupSeries) -> list[str]:
    """Return a sentence for each change of a series."""
    pair = series.pair
    return [
        f"{pair.arm.label} / {pair.baseline.label} changed with {series.points[index].run}: "
        f"{math.exp(before):.3f}x to {math.exp(after):.3f}x ({series.title})."
        for index, (before, after) in zip(series.changes, pairwise(series.levels), strict=True)
    ]


def changes_text(series: SpeedupSeries) -> str:
    texts = (
        f"{series.points[index].run} ({math.expm1(after - before):+.1%})"
        for index, (before, after) in zip(series.changes, pairwise(series.levels), strict=True)
    )
    return ", ".join(texts) or ("none" if len(series.points) >= MIN_RUNS else "too few runs")


def sparkline(series: SpeedupSeries) -> str:
    """Return a bar for each run, from the lowest to the highest speedup of the series."""
    values = [point.estimate.log_speedup for point in series.points]
    bottom, extent = min(values), max(values) - min(values)
    return "".join(BARS[int((value - bottom) / extent * (len(BARS) - 1)) if extent else 0] for value in values)


ODD_TITLE = "Runs that did not end, or were withdrawn"
ODD_COLUMNS: tuple[Column[OddRun], ...] = (
    Column("run", lambda odd: odd.run, "Run", numeric=False, brief=True),
    Column("started", lambda odd: odd.started, "Started", numeric=False, brief=True),
    Column("what", lambda odd: odd.what, "What happened", numeric=False, brief=True),
)


def odd_emphasis(odd: OddRun) -> str:
    return "withdrawn" if odd.withdrawn else ""


HISTORY_COLUMNS: tuple[Column[SpeedupSeries], ...] = (
    Column("", lambda series: series.pair.arm.label, "Arm", numeric=False, brief=True),
    Column("", lambda series: series.pair.baseline.label, "Baseline", numeric=False, brief=True),
    Column("", lambda series: len(series.points), "Runs", brief=True),
    Column("", sparkline, "Speedups", numeric=False, brief=True),
    Column("", lambda series: math.exp(series.levels[0]), "First", "{:.3f}".format, brief=True),
    Column("", lambda series: math.exp(series.levels[-1]), "Last", "{:.3f}".format, brief=True),
    Column("", changes_text, "Changed with", numeric=False, brief=True),
)
# Of the CSV file: a row for each comparison and run.
POINT_COLUMNS: tuple[Column[tuple[HistoryPoint, bool]], ...] = (
    Column("machine", lambda row: row[0].machine),
    Column("run", lambda row: row[0].run),
    Column("started", lambda row: row[0].started),
    Column("git_commit", lambda row: row[0].git_commit or ""),
    Column("model", lambda row: row[0].pair.case.model),
    Column("scenario", lambda row: row[0].pair.case.scenario),
    Column("batch_size", lambda row: row[0].pair.case.batch_size),
    Column("threads", lambda row: row[0].threads),
    Column("arm", lambda row: row[0].pair.arm.id),
    Column("baseline", lambda row: row[0].pair.baseline.id),
    Column("speedup", lambda row: row[0].estimate.speedup),
    Column("ci_low", lambda row: low(row[0].estimate.ratio_interval)),
    Column("ci_high", lambda row: high(row[0].estimate.ratio_interval)),
    Column("is_change", lambda row: row[1]),
)


def point_rows(series: Sequence[SpeedupSeries]) -> list[tuple[HistoryPoint, bool]]:
    """Return every point, with whether its series changes there."""
    return [(point, index in each.changes) for each in series for index, point in enumerate(each.points)]
