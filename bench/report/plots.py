"""The plots of a run, as SVG: speedups with intervals, latency distributions, raw ratios per block."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator

from backends.protocol import PRECISIONS
from bench.analysis.attribution import attributions
from bench.analysis.costs import tradeoffs
from bench.analysis.gates import MIN_RELATIVE_ACCURACY
from bench.analysis.roofline import RooflinePoint, peak_operations_per_s, roofline_points, traffic_rates
from bench.analysis.scaling import BATCH_SIZE, sweeps, value
from bench.analysis.speedups import speedups
from bench.analysis.training import GOALS, learning_curve
from bench.report.plot_style import (
    COLOURS,
    LEGEND,
    MARKERS,
    draw_all,
    log_ratio_axis,
    marker_and_colour,
    panel_height,
    plain_log_axis,
    styles,
)
from bench.suite.arms import LATENCY, TRAINING, threads_label

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.analysis.attribution import Attribution
    from bench.analysis.costs import Tradeoff
    from bench.analysis.run import Run
    from bench.analysis.scaling import Sweep
    from bench.analysis.speedups import Speedup
    from bench.report.document import Drawn
    from bench.suite.arms import Case

SPEEDUPS, LATENCIES, BLOCKS = "speedups.svg", "latencies.svg", "blocks.svg"
ATTRIBUTION, TRADEOFFS, TRAINING_CURVES = "attribution.svg", "tradeoffs.svg", "training.svg"
SCALING, ROOFLINE = "scaling.svg", "roofline.svg"
VERDICT_COLOURS = {"FASTER": "#009E73", "SLOWER": "#D55E00", "EQUIVALENT": "#0072B2"}
OTHER_VERDICT = "#777777"
# More rows in a panel would be illegible; the tables show all of them.
MOST_ROWS = 60
QUANTILES = np.linspace(0, 0.999, 400)


def run_plots(run: Run) -> Drawn:
    """Draw every plot for which there is something to show."""
    plots: dict[str, Callable[[Run], Figure | None]] = {
        SPEEDUPS: speedup_plot,
        ATTRIBUTION: attribution,
        TRADEOFFS: accuracy_against_speed,
        TRAINING_CURVES: accuracy_against_time,
        SCALING: scaling,
        ROOFLINE: roofline,
        LATENCIES: latencies,
        BLOCKS: blocks,
    }
    return draw_all({name: partial(make, run) for name, make in plots.items()})


def speedup_plot(run: Run) -> Figure | None:
    """Draw each comparison's speedup with its interval, one panel a case, and the A/A band."""
    measured = [row for row in speedups(run) if row.speedup]
    return _panels(run, measured, lambda axes, case, rows: _speedup_panel(run, axes, case, rows), sharex=True)


def _speedup_panel(run: Run, axes: Any, case: Case, rows: list[Speedup]) -> None:
    band = run.band(rows[0].pair)
    if band:
        axes.axvspan(math.exp(-band), math.exp(band), color="#999999", alpha=0.25, lw=0, label="A/A band")
        axes.legend(loc="lower right", frameon=False, fontsize=8)
    axes.axvline(1, color="black", lw=0.8)
    for place, row in enumerate(rows):
        colour = VERDICT_COLOURS.get(row.verdict.word, OTHER_VERDICT)
        if row.interval:
            axes.plot(
                [row.interval.low, row.interval.high], [place, place], color=colour, lw=2.2, solid_capstyle="butt"
            )
        axes.plot([row.speedup], [place], "o", color=colour, ms=5)
        axes.annotate(f"{row.speedup:.2f}x {row.verdict.word}", (row.speedup, place), (0, 6), fontsize=7.5,
                      textcoords="offset points", ha="center", color=colour)  # fmt: skip
    labels = [f"{row.pair.arm.label}\nagainst {row.pair.baseline.label}" for row in rows]
    axes.set(yticks=range(len(rows)), yticklabels=labels, ylim=(len(rows) - 0.4, -0.7), title=case.label)
    what = "epoch time" if case.scenario == TRAINING else "latency"
    axes.set_xlabel(f"speedup: baseline {what} / arm {what} (log scale; right of 1 is faster)")
    log_ratio_axis(axes.xaxis)
    axes.margins(x=0.12)


def attribution(run: Run) -> Figure | None:
    """Draw each ladder as a waterfall: what every step adds to the speedup over the lowest rung."""
    ladders = attributions(run)
    heights = [1.1 + 0.36 * len(ladder.rungs) for ladder in ladders]
    return _stacked(heights, [partial(_waterfall, ladder=ladder) for ladder in ladders])


def _waterfall(axes: Any, ladder: Attribution) -> None:
    axes.axvline(1, color="black", lw=0.8)
    total = 1.0
    for place, rung in enumerate(ladder.rungs):
        if rung.step is None or rung.total is None:
            axes.annotate("1", (1, place), (4, 0), textcoords="offset points", va="center", fontsize=7.5)
            continue
        before, total = total, rung.total.speedup
        colour = VERDICT_COLOURS["FASTER" if total >= before else "SLOWER"]
        axes.plot([before, total], [place, place], color=colour, lw=9, solid_capstyle="butt", alpha=0.75)
        right = max(before, total)
        if interval := rung.step.ratio_interval:
            right = max(right, before * interval.high)
            axes.plot([before * interval.low, before * interval.high], [place, place], color="black", lw=1)
        axes.annotate(f"x{rung.step.speedup:.2f}, {total:.2f} in all", (right, place), (8, 0),
                      textcoords="offset points", va="center", fontsize=7.5)  # fmt: skip
    labels = [f"{rung.name}\n{rung.arm.label}" for rung in ladder.rungs]
    axes.set(yticks=range(len(labels)), ylim=(len(labels) - 0.4, -0.6), title=f"{ladder.name}: {ladder.case.label}")
    axes.set_yticklabels(labels, fontsize=7.5)
    axes.set_xlabel("speed over the first step (log scale; thin line: interval of the step)")
    log_ratio_axis(axes.xaxis)
    axes.margins(x=0.2)


def accuracy_against_speed(run: Run) -> Figure | None:
    """Draw accuracy against speed across precisions, one panel a case."""
    panels = [
        partial(_tradeoff_panel, run=run, case=case, rows=rows) for case in run.cases if (rows := tradeoffs(run, case))
    ]
    return _stacked([3.4] * len(panels), panels)


def _tradeoff_panel(axes: Any, run: Run, case: Case, rows: list[Tradeoff]) -> None:
    for row in rows:
        speed = row.estimate.speedup if row.estimate else 1.0
        marker, colour = marker_and_colour(row.arm, run.arms)
        axes.plot([speed], [row.accuracy * 100], marker, color=colour, ms=6, label=row.arm.label)
    gate = MIN_RELATIVE_ACCURACY * run.references[case.model].accuracy * 100
    axes.axhline(gate, color="black", lw=0.8, ls=":", label="99 % of fp32")
    axes.set(title=case.label, ylabel="test accuracy, %")
    axes.set_xlabel(f"speed over {rows[0].against.label} (log scale); circle fp32, square bf16, triangle int8")
    log_ratio_axis(axes.xaxis)
    axes.legend(**LEGEND)


def accuracy_against_time(run: Run) -> Figure | None:
    """Draw the test accuracy of each arm that trains, its mean over seeds, against the time of its epochs."""
    rows = [row for row in speedups(run) if any(run.final_accuracies(row.pair.arm, case) for case in [row.pair.case])]
    return _panels(run, rows, lambda axes, case, _: _training_panel(run, axes, case), height=3.6)


def _training_panel(run: Run, axes: Any, case: Case) -> None:
    arms = [arm for arm in run.participants(case) if not arm.replica]
    for (style, colour), arm in zip(styles(), arms, strict=False):
        curve = learning_curve(run, arm, case)
        if curve:
            seconds, accuracies = zip(*curve, strict=True)
            axes.plot(seconds, np.array(accuracies) * 100, f"o{style}", color=colour, ms=3, lw=1.2, label=arm.label)
    for goal in GOALS:
        axes.axhline(goal * 100, color="black", lw=0.6, ls=":")
    axes.set(title=case.label, xlabel="time of the epochs, s", ylabel="test accuracy, % (mean over seeds)")
    axes.legend(**LEGEND)


def latencies(run: Run) -> Figure | None:
    """Draw the cumulative distribution of each arm's latencies, all samples pooled, one panel a case."""
    rows = [row for row in speedups(run) if row.speedup and row.pair.case.scenario == LATENCY]
    return _panels(run, rows, lambda axes, case, _: _latency_panel(run, axes, case), height=3.2)


def _latency_panel(run: Run, axes: Any, case: Case) -> None:
    for (style, colour), arm in zip(styles(), run.participants(case)[:MOST_ROWS], strict=False):
        slices = run.slices(arm, case)
        if slices:
            samples = np.concatenate([turn.samples_ns for turn in slices]) / 1e3
            axes.plot(np.quantile(samples, QUANTILES), QUANTILES * 100, style, color=colour, lw=1.5, label=arm.label)
    axes.set(xscale="log", title=case.label, xlabel="latency, µs (log scale)", ylabel="share of iterations, %")
    plain_log_axis(axes.xaxis, LogLocator(subs=(1, 2, 5)))
    axes.legend(**LEGEND)


def blocks(run: Run) -> Figure | None:
    """Draw the ratio of every block: the raw data that an interval is made of."""
    rows = [row for row in speedups(run) if row.speedup]
    return _panels(run, rows, lambda axes, case, rows: _block_panel(run, axes, case, rows), height=3.2)


def _block_panel(run: Run, axes: Any, case: Case, rows: list[Speedup]) -> None:
    axes.axhline(1, color="black", lw=0.8)
    for index, row in enumerate(rows):
        ratios = run.log_ratios(row.pair)
        marker, colour = MARKERS[index // len(COLOURS) % len(MARKERS)], COLOURS[index % len(COLOURS)]
        label = f"{row.pair.arm.label} / {row.pair.baseline.label}"
        axes.plot(list(ratios), np.exp(list(ratios.values())), f"{marker}-", color=colour, ms=3, lw=0.8, label=label)
    axes.set(yscale="log", title=case.label, xlabel="block", ylabel="ratio of the block (log scale)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    log_ratio_axis(axes.yaxis)
    axes.legend(**LEGEND)


def _panels(
    run: Run,
    rows: list[Speedup],
    draw: Callable[[Any, Case, list[Speedup]], None],
    height: float | None = None,
    *,
    sharex: bool = False,
) -> Figure | None:
    """Draw a panel for each case that has rows, of at most MOST_ROWS."""
    every = {case: [row for row in rows if row.pair.case == case] for case in run.cases}
    groups = {case: group[:MOST_ROWS] for case, group in every.items() if group}

    def draw_case(axes: Any, case: Case) -> None:
        draw(axes, case, groups[case])
        if len(groups[case]) < len(every[case]):
            axes.set_title(f"{axes.get_title()}, the first {len(groups[case])} of {len(every[case])} comparisons")
        axes.tick_params(labelbottom=True)

    heights = [panel_height(height, len(group)) if height else 1.2 + 0.42 * len(group) for group in groups.values()]
    return _stacked(heights, [partial(draw_case, case=case) for case in groups], sharex=sharex)


def _stacked(
    heights: Sequence[float], panels: Sequence[Callable[[Any], None]], *, sharex: bool = False
) -> Figure | None:
    """Draw panels of these heights in inches, one below the other; return None if there are none."""
    if not panels:
        return None
    figure = Figure(figsize=(8.5, sum(heights)))
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=sharex, gridspec_kw={"height_ratios": heights})
    for axes, draw in zip(grid.flat, panels, strict=True):
        draw(axes)
    return figure


def scaling(run: Run) -> Figure | None:
    """Draw throughput against the batch size, and latency against the number of threads, one panel a sweep."""
    swept = [sweep for sweep in sweeps(run) if len(sweep.places) > 1]
    heights = [panel_height(3.6, len(sweep.curves)) for sweep in swept]
    return _stacked(heights, [partial(_scaling_panel, sweep=sweep) for sweep in swept])


def _scaling_panel(axes: Any, sweep: Sweep) -> None:
    by_batch = sweep.over == BATCH_SIZE
    for (style, colour), curve in zip(styles(), sweep.curves, strict=False):
        points = [point for point in curve.points if value(point.case, sweep.over) in sweep.places]
        places = [value(point.case, sweep.over) for point in points]
        heights = [point.images_per_s if by_batch else point.latency_ns / 1e3 for point in points]
        axes.plot(places, heights, f"o{style}", color=colour, ms=3, lw=1.2, label=curve.arm.label)
    axes.set(xscale="log", yscale="log", title=sweep.label)
    axes.set(xlabel="batch size (log scale)" if by_batch else "threads (log scale)")
    seconds = (
        "time per epoch, µs (log scale)" if sweep.cases[0].scenario == TRAINING else "time per batch, µs (log scale)"
    )
    axes.set_ylabel("images/s (log scale)" if by_batch else seconds)
    plain_log_axis(axes.xaxis, FixedLocator(sweep.places))
    plain_log_axis(axes.yaxis, LogLocator(subs=(1, 2, 5)))
    axes.legend(**LEGEND)


def roofline(run: Run) -> Figure | None:
    """Draw the rates of arms below the machine's limits, one panel for each number of threads and scenario."""
    groups = defaultdict[tuple[int, str], list[RooflinePoint]](list)
    for case in run.cases:
        groups[run.threads(case), case.scenario] += roofline_points(run, case)
    panels = [
        partial(_roofline_panel, run=run, rows=rows, threads=threads, scenario=scenario)
        for (threads, scenario), rows in groups.items()
        if rows
    ]
    return _stacked([4.4] * len(panels), panels)


def _roofline_panel(axes: Any, run: Run, rows: list[RooflinePoint], threads: int, scenario: str) -> None:
    intensities = [row.limit.intensity for row in rows]
    span = np.geomspace(min(intensities) / 3, max(intensities) * 3, 100)
    precisions = [name for name in PRECISIONS if any(row.arm.precision == name for row in rows)]
    _draw_limits(run, axes, span, precisions, threads)
    for row in rows:
        marker, colour = marker_and_colour(row.arm, run.arms)
        axes.plot([row.limit.intensity], [row.operations_per_s / 1e9], marker, color=colour, ms=5)
    for arm in {row.arm.stack: row.arm for row in rows}.values():
        axes.plot([], [], "o", color=marker_and_colour(arm, run.arms)[1], ms=5, label=arm.stack)
    axes.set(xscale="log", yscale="log", ylabel="GFLOP/s, of int8 GOP/s (log scale)")
    axes.set_title(f"{scenario}, {threads_label(threads)}")
    axes.set_xlabel("operations per byte (log scale); circle fp32, square bf16, triangle int8")
    for axis in (axes.xaxis, axes.yaxis):
        plain_log_axis(axis, LogLocator(subs=(1, 2, 5)))
    axes.legend(**LEGEND)


def _draw_limits(run: Run, axes: Any, span: Any, precisions: list[str], threads: int) -> None:
    """Draw the fastest product of each precision, and the traffic to the smallest and the largest working set."""
    peaks = {name: peak for name in precisions if (peak := peak_operations_per_s(run, name, threads))}
    for precision, peak in peaks.items():
        axes.axhline(peak / 1e9, color="black", lw=0.9)
        unit = "GOP/s" if precision == "int8" else "GFLOP/s"
        axes.annotate(f"{precision}, {peak / 1e9:,.0f} {unit}", (span[0], peak / 1e9), (2, 2), fontsize=7.5,
                      textcoords="offset points")  # fmt: skip
    rates = traffic_rates(run, threads)
    for size, style in ((min(rates), "--"), (max(rates), ":")):
        bound = np.minimum(span * rates[size], max(peaks.values())) / 1e9
        label = f"{rates[size] / 1e9:.0f} GB/s in {size / 2**20:g} MiB"
        axes.plot(span, bound, style, color="black", lw=0.9, label=label)
