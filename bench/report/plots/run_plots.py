"""The plots of a run: which there are, and how those of times are drawn."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bench.analysis.attribution import attributions
from bench.analysis.costs import tradeoffs
from bench.analysis.roofline import roofline_points
from bench.analysis.scaling import WORKERS, sweeps
from bench.analysis.speedups import speedups
from bench.report.answer.judgements import summary_rows
from bench.report.plots.accuracy_plots import matrices, matrices_plot, tradeoffs_plot
from bench.report.plots.curve_plots import roofline_plot, scaling_plot, training_plot
from bench.report.plots.panels import MOST_ROWS, Axis, PlotRow, arranged, legend, row_panel
from bench.report.plots.ratio_plots import attribution_plot, blocks_plot, speedups_plot, summary_plot
from bench.report.plots.svg import Scale, colour, from_zero, group, line, path, rect, scale, stack_colours
from bench.report.text import number
from bench.suite.arms import LATENCY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.analysis.run import Run
    from bench.report.arm_table import ArmRow
    from bench.report.plots.panels import Drawing
    from bench.suite.arms import Arm, Case

BINS = 90
# The share of samples on which the axis of a distribution ends.
SHOWN_QUANTILE = 0.995
START_PARTS = ("convert", "import", "build", "first call")


def run_plots(run: Run, arms: Mapping[Case, Sequence[ArmRow]]) -> dict[str, Drawing]:
    """Return by name how to draw each plot for which there is something to show."""
    rows = [row for row in speedups(run) if row.speedup]
    timed = [row for row in rows if row.pair.case.scenario == LATENCY]
    trained = [case for case in run.cases if any(run.final_accuracies(arm, case) for arm in run.participants(case))]
    started = [row for group in _first_cases(run) for row in arms[group] if row.cost.start and not row.arm.replica]
    plots: dict[str, tuple[object, Callable[[Run, str, float], str]]] = {
        "summary": (summary_rows(run), summary_plot),
        "speedups": (rows, speedups_plot),
        "attribution": (attributions(run), attribution_plot),
        "tradeoffs": ([case for case in run.cases if tradeoffs(run, case)], tradeoffs_plot),
        "confusion": (matrices(run), matrices_plot),
        "training": (trained, partial(training_plot, trained)),
        "training-log": (trained, partial(training_plot, trained, log=True)),
        "scaling": (sweeps(run), scaling_plot),
        "scaling-linear": ([sweep for sweep in sweeps(run) if sweep.over != WORKERS], partial(scaling_plot, log=False)),
        "roofline": (any(roofline_points(run, case) for case in run.cases), roofline_plot),
        "latencies": (timed, _latencies),
        "latencies-linear": (timed, partial(_latencies, log=False)),
        "blocks": (rows, blocks_plot),
        "costs": (started, partial(_costs, started)),
    }
    return {name: partial(draw, run) for name, (content, draw) in plots.items() if content}


def _first_cases(run: Run) -> list[Case]:
    return list({case.group: case for case in reversed(run.cases)}.values())[::-1]


def _latencies(run: Run, alt: str, width: float, *, log: bool = True) -> str:
    """Draw the distribution of each arm's latencies, all samples pooled, one panel a case."""
    colours = stack_colours(run.arms)
    panels = [legend([(stack, css, "square") for stack, css in colours.items()], width)]
    for case in run.cases:
        samples = {
            arm: np.concatenate([turn.samples_ns for turn in slices]) / 1e3
            for arm in run.participants(case)[:MOST_ROWS]
            if case.scenario == LATENCY and (slices := run.slices(arm, case))
        }
        if samples:
            ends = [np.quantile(values, (0.001, SHOWN_QUANTILE)) for values in samples.values()]
            values = [float(end) for pair in ends for end in pair]
            limits = scale(values, 0, 1, log=True, margin=0.02) if log else from_zero(values)
            rows = [_distribution(arm, sample, limits, f"m-{colours[arm.stack]}") for arm, sample in samples.items()]
            title = f"latency, µs{' (log scale)' if log else ''}; left is faster ←"
            count = sum(map(len, samples.values()))
            panels.append(row_panel(f"{case.label} (n = {count:,} calls)", rows, Axis(title, log=log), limits, width))
    return arranged("latencies", alt, panels, width)


def _distribution(arm: Arm, samples: np.ndarray[tuple[int], np.dtype[np.float64]], limits: Scale, css: str) -> PlotRow:
    edges = (np.geomspace if limits.log else np.linspace)(limits.low, limits.high, BINS + 1)
    counts = np.histogram(samples, edges)[0]
    heights = 15 * counts / max(1, counts.max())
    middle, p90, p99, p999 = (float(value) for value in np.quantile(samples, (0.5, 0.9, 0.99, 0.999)))

    def draw(place: Scale, y: float) -> str:
        base = y + 8
        used = np.flatnonzero(counts)
        first, last = int(used[0]), int(used[-1])
        outline = [(place(edges[first]), base)]
        for index in range(first, last + 1):
            outline += [((place(edges[index]) + place(edges[index + 1])) / 2, base - heights[index])]
        outline.append((place(edges[last + 1]), base))
        parts = path(outline, extra='fill-opacity=".3"', width=1)
        parts += line(place(middle), base, place(middle), base - 15, "", 2)
        if limits.low <= p99 <= limits.high:
            parts += line(place(p99), base, place(p99), base - 6, "", 1.5)
        return group(parts, css)

    tip = (
        f"{arm.label}\nmedian {number(middle)} µs, p90 {number(p90)}, p99 {number(p99)}, p99.9 {number(p999)}\n"
        f"n = {len(samples):,} calls"
    )
    return PlotRow(arm.label, "", draw, f"{number(middle)} µs", series=arm.stack, tip=tip)


def _costs(rows: Sequence[ArmRow], run: Run, alt: str, width: float) -> str:
    """Draw the parts of each arm's cold start, one panel a group of cases that share it."""
    panels = [legend([(name, colour(index), "square") for index, name in enumerate(START_PARTS)], width)]
    for case in _first_cases(run):
        own = [row for row in rows if row.case == case][:MOST_ROWS]
        if own:
            limits = from_zero([(row.cost.cold_start_ns or 0) / 1e9 for row in own])
            axis = Axis("cold start, s; left is faster ←")
            shown = [PlotRow(row.arm.label, "", partial(_start_bar, row), _seconds(row)) for row in own]
            panels.append(row_panel(f"{', '.join(case.group)} (n = 1 start each)", shown, axis, limits, width))
    return arranged("costs", alt, panels, width)


def _seconds(row: ArmRow) -> str:
    return f"{number((row.cost.cold_start_ns or 0) / 1e9)} s"


def _start_bar(row: ArmRow, place: Scale, y: float) -> str:
    start = row.cost.start
    if start is None:
        return ""
    parts, end = [], 0.0
    times = (row.cost.convert_ns, start.import_ns, start.build_ns, start.first_call_ns)
    for index, (name, time_ns) in enumerate(zip(START_PARTS, times, strict=True)):
        begin, end = end, end + time_ns / 1e9
        bar = rect(place(begin), y - 6, place(end) - place(begin), 12, "", ' stroke="none"')
        tip = f"{row.arm.label}\n{name}: {number(time_ns / 1e9)} s"
        parts.append(group(bar, f"m-{colour(index)}", series=name, title=tip))
    return "".join(parts)
