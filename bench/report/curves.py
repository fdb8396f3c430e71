"""The plots of what is swept and of what bounds it: scaling, roofline."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator

from backends.protocol import PRECISIONS
from bench.analysis.roofline import RooflinePoint, peak_operations_per_s, reaches, traffic_rates
from bench.analysis.scaling import BATCH_SIZE, sweeps, value
from bench.report.plot_style import LEGEND, look_of, panel_height, plain_log_axis, styles
from bench.suite.arms import TRAINING, threads_label

if TYPE_CHECKING:
    from bench.analysis.scaling import Sweep
    from bench.analysis.speedups import Run


def scaling(run: Run) -> Figure | None:
    """Draw throughput against the batch size, and latency against the number of threads, one panel a sweep."""
    found = sweeps(run)
    if not found:
        return None
    heights = [panel_height(3.6, len(sweep.curves)) for sweep in found]
    figure = Figure(figsize=(8.5, sum(heights)))
    grid = figure.subplots(len(found), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes, sweep in zip(grid.flat, found, strict=True):
        _scaling_panel(axes, sweep)
    return figure


def _scaling_panel(axes: Any, sweep: Sweep) -> None:
    by_batch = sweep.over == BATCH_SIZE
    for (style, colour), curve in zip(styles(), sweep.curves, strict=False):
        places = [value(point.case, sweep.over) for point in curve.points]
        heights = [point.images_per_s if by_batch else point.latency_ns / 1e3 for point in curve.points]
        axes.plot(places, heights, f"o{style}", color=colour, ms=3, lw=1.2, label=curve.arm.label)
    axes.set(xscale="log", yscale="log", title=sweep.label)
    axes.set(xlabel="batch size (log scale)" if by_batch else "threads (log scale)")
    seconds = "epoch, us (log scale)" if sweep.cases[0].scenario == TRAINING else "time per batch, us (log scale)"
    axes.set_ylabel("images/s (log scale)" if by_batch else seconds)
    plain_log_axis(axes.xaxis, FixedLocator([value(case, sweep.over) for case in sweep.cases]))
    plain_log_axis(axes.yaxis, LogLocator(subs=(1, 2, 5)))
    axes.legend(**LEGEND)


def roofline(run: Run) -> Figure | None:
    """Draw what arms reach under the roofs of the machine, one panel for each number of threads and scenario."""
    groups = defaultdict[tuple[int, str], list[RooflinePoint]](list)
    for case in run.cases:
        groups[run.threads(case), case.scenario] += reaches(run, case)
    found = {key: rows for key, rows in groups.items() if rows}
    if not found:
        return None
    figure = Figure(figsize=(8.5, 4.4 * len(found)))
    panels = figure.subplots(len(found), 1, squeeze=False).flat
    for axes, ((threads, scenario), rows) in zip(panels, found.items(), strict=True):
        _roofline_panel(run, axes, rows, threads)
        axes.set_title(f"{scenario}, {threads_label(threads)}")
    return figure


def _roofline_panel(run: Run, axes: Any, rows: list[RooflinePoint], threads: int) -> None:
    intensities = [row.limit.intensity for row in rows]
    span = np.geomspace(min(intensities) / 3, max(intensities) * 3, 100)
    precisions = [each for each in PRECISIONS if any(row.arm.precision == each for row in rows)]
    _draw_roofs(run, axes, span, precisions, threads)
    for row in rows:
        marker, colour = look_of(row.arm, run.arms)
        axes.plot([row.limit.intensity], [row.operations_per_s / 1e9], marker, color=colour, ms=5)
    for arm in {row.arm.stack: row.arm for row in rows}.values():
        axes.plot([], [], "o", color=look_of(arm, run.arms)[1], ms=5, label=arm.stack)
    axes.set(xscale="log", yscale="log", ylabel="GFLOP/s, of int8 GOP/s (log scale)")
    axes.set_xlabel("operations per byte (log scale); circle fp32, square bf16, triangle int8")
    for axis in (axes.xaxis, axes.yaxis):
        plain_log_axis(axis, LogLocator(subs=(1, 2, 5)))
    axes.legend(**LEGEND)


def _draw_roofs(run: Run, axes: Any, span: Any, precisions: list[str], threads: int) -> None:
    """Draw the fastest product of each precision, and the traffic to the smallest and the largest working set."""
    peaks = {each: peak for each in precisions if (peak := peak_operations_per_s(run, each, threads))}
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
