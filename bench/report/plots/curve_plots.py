"""Plots in a plane: learning curves, scaling, and the roofline."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from backends.protocol import PRECISIONS
from bench.analysis.roofline import peak_operations_per_s, roofline_points, traffic_rates
from bench.analysis.scaling import BATCH_SIZE, WORKERS, sweeps, value
from bench.analysis.training import GOALS, learning_curve
from bench.report.plots.panels import MOST_ROWS, Axis, Panel, Series, arranged, is_narrow, legend, plane_panel
from bench.report.plots.svg import SHAPES, Scale, colour, from_zero, label, line, path, scale, shape_of, stack_colours
from bench.report.text import counted, level, number, percent, share_text
from bench.suite.arms import TRAINING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.analysis.roofline import RooflinePoint
    from bench.analysis.run import Run
    from bench.analysis.scaling import Curve, Point, Sweep
    from bench.suite.arms import Arm, Case

# More names beside the lines would not fit.
MOST_NAMES = 15


def training_plot(cases: Sequence[Case], run: Run, alt: str, width: float, *, log: bool = False) -> str:
    """Draw the test accuracy of each arm that trains, its mean over seeds, against the time of its epochs."""
    panels = []
    for case in cases:
        series = []
        for index, arm in enumerate(arm for arm in run.participants(case) if not arm.replica):
            points = tuple(
                (seconds, accuracy * 100, f"{arm.label}\n{number(seconds)} s: {percent(accuracy)}")
                for seconds, accuracy in learning_curve(run, arm, case)
            )
            if points:
                shape = SHAPES[index % len(SHAPES)]
                series.append(Series(arm.label, colour(index), shape, points, dash=_dash(index)))
        if series:
            seeds = max(len(run.final_accuracies(arm, case)) for arm in run.participants(case))
            title = f"{case.label} (n = {counted(seeds, 'seed')})"
            x = Axis(f"training time, s{' (log scale)' if log else ''}; left is faster ←", log=log)
            y = Axis("test accuracy, % (mean over seeds); higher is better")
            panels += _plane_with_goals(title, series, x, y, width)
    return arranged("training", alt, panels, width)


def _plane_with_goals(title: str, series: Sequence[Series], x: Axis, y: Axis, width: float) -> list[Panel]:
    points = [point for one in series for point in one.points]
    times = [point[0] for point in points]
    limits = scale(times if x.log else [0, *times], 0, 1, log=x.log), scale([point[1] for point in points], 0, 1)

    def goals(across: Scale, up: Scale) -> str:
        shown = [goal * 100 for goal in GOALS if up.low <= goal * 100 <= up.high]
        return "".join(
            line(across.start, up(goal), across.end, up(goal), "one", 1, "2 4")
            + label(across.start + 4, up(goal) - 4, f"{goal:g} %", "t-muted", size=10)
            for goal in shown
        )

    return _with_legend(title, series, (x, y), limits, width, under=goals)


def _with_legend(
    title: str, series: Sequence[Series], axes: tuple[Axis, Axis], limits: tuple[Scale, Scale], width: float,
    under: Callable[[Scale, Scale], str] | None = None,
) -> list[Panel]:  # fmt: skip
    """Draw lines with their names beside them where there is room, and a legend to isolate them."""
    named = not is_narrow(width) and len(series) <= MOST_NAMES
    if any(one.withheld for one in series):
        axes = replace(axes[0], title=f"{axes[0].title}; crossed out: withheld"), axes[1]
    return [
        plane_panel(title, series, axes, limits, width, named=named, under=under),
        legend([(one.name, one.css, one.shape) for one in series], width),
    ]


def _dash(index: int) -> str:
    return ("", "6 3", "2 3", "8 3 2 3")[index // 8 % 4]


def scaling_plot(run: Run, alt: str, width: float, *, log: bool = True) -> str:
    """Draw throughput against the batch size, and time against the number of threads, one panel a sweep.

    For the number of workers there are two: of the throughput and of the efficiency, with ideal lines.
    """
    panels: list[Panel] = []
    for sweep in sweeps(run):
        title = f"{sweep.label} (n = {counted(_blocks(run, sweep.cases), 'block')})"
        if sweep.over == WORKERS:
            panels += _throughput_of_workers(sweep, title, width) + _efficiency_of_workers(run, sweep, title, width)
        else:
            panels += _scaling_panels(sweep, title, width, log=log)
    return arranged("scaling", alt, panels, width)


def _throughput_of_workers(sweep: Sweep, title: str, width: float) -> list[Panel]:
    series, ideal = [], []
    for index, curve in enumerate(sweep.curves[:MOST_ROWS]):
        points = tuple(
            (point.case.workers, point.images_per_s, f"{_tip(curve.arm, point)}: {number(point.images_per_s)} images/s")
            for point in curve.points
        )
        series.append(_curve(index, curve, points))
        first = curve.points[0]
        ideal.append([(case.workers, first.images_per_s * case.workers / first.case.workers) for case in sweep.cases])
    limits = (
        scale([case.workers for case in sweep.cases], 0, 1),
        scale([0.0, *(height for line_of in ideal for _, height in line_of)], 0, 1),
    )

    def under(across: Scale, up: Scale) -> str:
        places = [[(across(x), up(y)) for x, y in line_of] for line_of in ideal]
        return "".join(path(line_of, "one", 'fill="none" stroke-dasharray="2 3"', 1) for line_of in places)

    ticks = tuple(float(case.workers) for case in sweep.cases)
    x, y = Axis("workers; dashed: ideal", ticks=ticks), Axis("images/s; higher is better")
    return _with_legend(title, series, (x, y), limits, width, under=under)


def _efficiency_of_workers(run: Run, sweep: Sweep, title: str, width: float) -> list[Panel]:
    series, bounds = [], list[tuple[float, float, float]]()
    for index, curve in enumerate(sweep.curves[:MOST_ROWS]):
        points = []
        for point in curve.points:
            share = 1.0 if point.gain is None else point.efficiency or 0.0
            interval = point.efficiency_interval
            tip = f"{_tip(curve.arm, point)}: {share_text(share, interval)}"
            points.append((point.case.workers, 100 * share, tip))
            bounds += [(point.case.workers, 100 * interval.low, 100 * interval.high)] if interval else []
        series.append(_curve(index, curve, points))
    heights = [height for one in series for _, height, _ in one.points]
    limits = (
        scale([case.workers for case in sweep.cases], 0, 1),
        scale([0.0, 100.0, *heights, *(high for _, _, high in bounds)], 0, 1),
    )

    def under(across: Scale, up: Scale) -> str:
        return "".join(line(across(x), up(low), across(x), up(high), "axis", 2) for x, low, high in bounds)

    ticks = tuple(float(case.workers) for case in sweep.cases)
    x = Axis("workers", ticks=ticks)
    intervals = f", grey: {level(run)} interval" if bounds else ""
    y = Axis(f"efficiency, %; higher is better{intervals}", reference=100.0)
    return _with_legend(f"efficiency: {title}", series, (x, y), limits, width, under=under)


def _curve(index: int, curve: Curve, points: Sequence[tuple[float, float, str]]) -> Series:
    """Return the series of a curve, which has these points in the plot."""
    withheld = tuple(place for place, point in enumerate(curve.points) if point.faults)
    shape, dash = SHAPES[index % len(SHAPES)], _dash(index)
    return Series(curve.arm.label, colour(index), shape, tuple(points), dash=dash, withheld=withheld)


def _tip(arm: Arm, point: Point) -> str:
    faults = "".join(f"\nWITHHELD: {fault}" for fault in point.faults)
    return f"{arm.label}{faults}\n{point.case.label}"


def _scaling_panels(sweep: Sweep, title: str, width: float, *, log: bool) -> list[Panel]:
    by_batch = sweep.over == BATCH_SIZE
    series = []
    for index, curve in enumerate(sweep.curves[:MOST_ROWS]):
        points = []
        for point in curve.points:
            height = point.images_per_s if by_batch else point.latency_ns / 1e3
            tip = f"{_tip(curve.arm, point)}: {number(height)} {'images/s' if by_batch else 'µs'}"
            points.append((value(point.case, sweep.over), height, tip))
        series.append(_curve(index, curve, points))
    points_of_all = [point for one in series for point in one.points]
    coordinates = [point[0] for point in points_of_all], [point[1] for point in points_of_all]
    across, up = (scale(values, 0, 1, log=True) if log else from_zero(values) for values in coordinates)
    # On a linear axis small batch sizes lie too close to each other for labels of all.
    ticks = tuple(float(value(case, sweep.over)) for case in sweep.cases) if log else ()
    note = " (log scale)" if log else ""
    x = Axis(f"{'batch size' if by_batch else 'threads'}{note}", ticks=ticks)
    what = "time per epoch" if sweep.cases[0].scenario == TRAINING else "time per batch"
    y = Axis(f"images/s{note}; higher is better" if by_batch else f"{what}, µs{note}; lower is better")
    return _with_legend(title, series, (x, y), (across, up), width)


def _blocks(run: Run, cases: Sequence[Case]) -> int:
    """Return in how many blocks the arms of these cases were measured, at most."""
    return max(len(run.block_latencies_ns(arm, case)) for case in cases for arm in run.participants(case))


def roofline_plot(run: Run, alt: str, width: float) -> str:
    """Draw the rates of arms below the machine's limits, one panel a case."""
    colours = stack_colours(run.arms)
    panels = [
        _roofline_panel(run, case, points, colours, width)
        for case in run.cases
        if (points := roofline_points(run, case))
    ]
    used = [name for name in PRECISIONS if any(arm.precision == name for arm in run.arms)]
    key = legend([(name, "s7", shape_of(name, PRECISIONS)) for name in used], width)
    return arranged("roofline", alt, [key, *panels], width)


def _roofline_panel(
    run: Run, case: Case, points: Sequence[RooflinePoint], colours: Mapping[str, str], width: float
) -> Panel:
    intensities = [point.limit.intensity for point in points]
    threads = run.threads(case)
    precisions = [name for name in PRECISIONS if any(point.arm.precision == name for point in points)]
    peaks = {name: peak / 1e9 for name in precisions if (peak := peak_operations_per_s(run, name, threads))}
    series = [
        Series(
            point.arm.label, colours[point.arm.stack], shape_of(point.arm.precision, PRECISIONS),
            ((
                point.limit.intensity, point.operations_per_s / 1e9,
                f"{point.arm.label}\n{number(point.operations_per_s / 1e9)} GFLOP/s, {percent(point.share, 1)}",
            ),),
            key=point.arm.precision,
        )
        for point in points[:MOST_ROWS]
    ]  # fmt: skip
    rates = [rate / 1e9 for rate in traffic_rates(run, threads).values()]
    limits = (
        scale([min(intensities) / 2, max(intensities) * 2], 0, 1, log=True),
        scale([*(point.operations_per_s / 1e9 for point in points), *peaks.values()], 0, 1, log=True),
    )

    def under(across: Scale, up: Scale) -> str:
        parts, names = [], []
        for name, peak in peaks.items():
            unit = "GOP/s" if name == "int8" else "GFLOP/s"
            parts.append(line(across.start, up(peak), across.end, up(peak), "one"))
            text = f"{name}, {peak:,.0f} {unit}"
            names.append(label(across.start + 2, up(peak) - 4, text, "t-muted", size=10, halo=True))
        for rate, dash in zip((min(rates), max(rates)), ("6 3", "2 3"), strict=True) if rates else ():
            top = max(peaks.values(), default=up.high)
            places = np.geomspace(across.low, across.high, 60)
            bound = [(across(x), up(min(x * rate, top))) for x in places if x * rate >= up.low]
            if len(bound) > 1:
                parts.append(path(bound, "one", f'fill="none" stroke-dasharray="{dash}"', 1))
        return "".join(parts + names)

    traffic = f"; dashes: {min(rates):.0f} and {max(rates):.0f} GB/s" if rates else ""
    x = Axis(f"operations per byte (log scale){traffic}", log=True)
    y = Axis("GFLOP/s, of int8 GOP/s (log scale); higher is better", log=True)
    title = f"{case.label} (n = {counted(_blocks(run, [case]), 'block')})"
    return plane_panel(title, series, (x, y), limits, width, named=True, under=under)
