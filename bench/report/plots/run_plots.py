"""The plots of a run: which there are, and how each is drawn."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from backends.protocol import PRECISIONS
from bench.analysis.attribution import attributions
from bench.analysis.costs import tradeoffs
from bench.analysis.gates import MIN_RELATIVE_ACCURACY
from bench.analysis.roofline import peak_operations_per_s, roofline_points, traffic_rates
from bench.analysis.scaling import BATCH_SIZE, sweeps, value
from bench.analysis.speedups import Speedup, speedups
from bench.analysis.training import GOALS, learning_curve
from bench.report.answer import name_of, summary_rows
from bench.report.plots.panels import (
    Axis,
    Panel,
    PlotRow,
    Series,
    arranged,
    column_width,
    is_narrow,
    legend,
    plane_panel,
    row_panel,
)
from bench.report.plots.svg import (
    NARROW,
    SHAPES,
    Scale,
    colour,
    group,
    label,
    line,
    mark,
    path,
    rect,
    scale,
    shape_of,
    stack_colours,
)
from bench.report.plots.training_plots import confusion_plot
from bench.report.text import counted, interval_text, level, number, percent
from bench.suite.arms import LATENCY, TRAINING, Arm, Case
from models.data import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bench.analysis.attribution import Attribution, Rung
    from bench.analysis.costs import Tradeoff
    from bench.analysis.gates import Estimate
    from bench.analysis.roofline import RooflinePoint
    from bench.analysis.run import Run
    from bench.analysis.scaling import Sweep
    from bench.analysis.stats import Interval
    from bench.report.arm_table import ArmRow
    from bench.report.plots.panels import Drawing
    from bench.report.plots.training_plots import Matrix

# More rows in a panel would be illegible; the tables show all of them.
MOST_ROWS = 60
# More names beside the lines would not fit.
MOST_NAMES = 15
BINS = 90
MOST_MATRICES = 12
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
        "summary": (summary_rows(run), _summary),
        "speedups": (rows, _speedups),
        "attribution": (attributions(run), _attribution),
        "tradeoffs": ([case for case in run.cases if tradeoffs(run, case)], _tradeoffs),
        "confusion": (_matrices(run), _confusion),
        "training": (trained, partial(_training, trained)),
        "scaling": (sweeps(run), _scaling),
        "roofline": (any(roofline_points(run, case) for case in run.cases), _roofline),
        "latencies": (timed, _latencies),
        "blocks": (rows, _blocks),
        "costs": (started, partial(_costs, started)),
    }
    return {name: partial(draw, run) for name, (content, draw) in plots.items() if content}


def _first_cases(run: Run) -> list[Case]:
    return list({case.group: case for case in reversed(run.cases)}.values())[::-1]


def _by_case(run: Run, rows: Iterable[Speedup]) -> dict[Case, list[Speedup]]:
    """Return the rows of each case that has any."""
    groups = defaultdict[Case, list[Speedup]](list)
    for row in rows:
        groups[row.pair.case].append(row)
    return {case: groups[case] for case in run.cases if case in groups}


def _title(case: Case, rows: Sequence[Speedup]) -> str:
    blocks = max(row.estimate.blocks for row in rows if row.estimate)
    shown = f", the first {MOST_ROWS} of {len(rows)} comparisons" if len(rows) > MOST_ROWS else ""
    return f"{case.label} (n = {counted(blocks, 'block')}{shown})"


def _ratio_limits(values: Iterable[float]) -> Scale:
    return scale([1.0, *values], 0, 1, log=True, margin=0.04)


def _bounds(interval: Interval | None, middle: float) -> tuple[float, float]:
    return (interval.low, interval.high) if interval else (middle, middle)


def _ratio_axis(run: Run, case: Case) -> Axis:
    what = {LATENCY: "latency", TRAINING: "epoch time"}.get(case.scenario, "time per batch")
    title = f"speedup = baseline {what} / arm {what} (log scale); right of 1 is faster →"
    band = next((run.band(row.pair) for row in speedups(run) if row.pair.case == case), None)
    return Axis(title, log=True, reference=1.0, band=(math.exp(-band), math.exp(band)) if band else None)


def _comparison_row(run: Run, row: Speedup, label: str, detail: str) -> PlotRow:
    low, high = _bounds(row.interval, row.speedup or 1.0)
    word, blocks = row.verdict.word, row.estimate.blocks if row.estimate else 0
    interval = f" ({interval_text(row.interval)})" if row.interval else ""

    def draw(place: Scale, y: float) -> str:
        interval_line = line(place(low), y, place(high), y, "", 3)
        return group(interval_line + mark("circle", place(row.speedup or 1.0), y, 4.2), f"m-{word}")

    return PlotRow(
        label,
        detail,
        draw,
        text=f"{row.speedup:.3f}{interval} {word}",
        text_css=f"t-{word}" if word in ("FASTER", "SLOWER", "EQUIVALENT", "WITHHELD") else "t-UNRESOLVED",
        tip=f"{row.pair.arm.label} / {row.pair.baseline.label}\n{row.pair.case.label}\nspeedup {row.speedup:.3f}"
        f"{interval}{', ' if interval else ''}{level(run) and level(run) + ' interval'}\n{word}, "
        f"n = {counted(blocks, 'block')}",
    )


def _summary(run: Run, alt: str, width: float) -> str:
    """Draw each stack's comparison with the fastest stock variant, one panel a case, on one common axis."""
    groups = defaultdict[Case, list[tuple[Speedup, PlotRow]]](list)
    for judgement, outcome in summary_rows(run):
        name = f"{name_of(judgement.stack)} {judgement.arm.variant}"
        against = f"against {outcome.row.pair.baseline.label}"
        groups[outcome.case].append((outcome.row, _comparison_row(run, outcome.row, name, against)))
    return _comparison_panels("summary", run, groups, alt, width)


def _speedups(run: Run, alt: str, width: float) -> str:
    groups = {
        case: [
            (row, _comparison_row(run, row, row.pair.arm.label, f"against {row.pair.baseline.label}")) for row in rows
        ]
        for case, rows in _by_case(run, (row for row in speedups(run) if row.speedup)).items()
    }
    return _comparison_panels("speedups", run, groups, alt, width)


def _comparison_panels(
    name: str, run: Run, groups: Mapping[Case, Sequence[tuple[Speedup, PlotRow]]], alt: str, width: float
) -> str:
    """Draw comparisons, one panel a case, all on one axis."""
    every = [(row, shown) for rows in groups.values() for row, shown in rows[:MOST_ROWS]]
    limits = _ratio_limits(end for row, _ in every for end in _bounds(row.interval, row.speedup or 1.0))
    alike = [shown for _, shown in every]
    panels = [
        row_panel(
            _title(case, [row for row, _ in rows]),
            [shown for _, shown in rows[:MOST_ROWS]],
            _ratio_axis(run, case),
            limits,
            width,
            alike,
        )
        for case, rows in groups.items()
    ]
    return arranged(name, alt, panels, width)


def _blocks(run: Run, alt: str, width: float) -> str:
    """Draw the ratio of every block: the data that an interval is made of."""
    panels = []
    for case, rows in _by_case(run, (row for row in speedups(run) if row.speedup)).items():
        ratios = {id(row): np.exp(list(run.log_ratios(row.pair, row.rule).values())) for row in rows[:MOST_ROWS]}
        limits = _ratio_limits(ratio for values in ratios.values() for ratio in values)
        shown = [
            PlotRow(
                row.pair.arm.label,
                f"against {row.pair.baseline.label}",
                partial(_dots, ratios[id(row)].tolist(), f"m-{row.verdict.word}"),
                text=f"{row.speedup:.3f}",
            )
            for row in rows[:MOST_ROWS]
        ]
        panels.append(row_panel(_title(case, rows), shown, _ratio_axis(run, case), limits, width))
    return arranged("blocks", alt, panels, width)


def _dots(ratios: Sequence[float], css: str, place: Scale, y: float) -> str:
    """Draw a dot for each block, the first at the top of the row, the last at its bottom."""
    step = 16 / max(1, len(ratios) - 1)
    dots = (
        mark("circle", place(ratio), y - 8 + index * step, 2, f"block {index + 1}: {ratio:.3f}", ' stroke="none"')
        for index, ratio in enumerate(ratios)
    )
    return group("".join(dots), css, extra=' fill-opacity=".75"')


def _attribution(run: Run, alt: str, width: float) -> str:
    """Draw each ladder as a waterfall: what every step adds to the speed of the lowest rung."""
    ladders = attributions(run)
    columns = 1 if is_narrow(width) else 2
    limits = {
        case: _ratio_limits(
            end
            for ladder in ladders
            for rung in ladder.rungs
            if ladder.case == case and rung.total
            for end in _bounds(rung.total.ratio_interval, rung.total.speedup)
        )
        for case in run.cases
    }
    key = legend([(word, css, "square") for word, css in STEP_WORDS.items()], width)
    panels = [_waterfall(ladder, limits[ladder.case], column_width(width, columns)) for ladder in ladders]
    return arranged("attribution", alt, _below(key, panels, columns), width, columns)


STEP_WORDS = {"faster": "FASTER", "slower": "SLOWER", "no clear difference": "UNRESOLVED"}


def _below(first: Panel, panels: Sequence[Panel], columns: int) -> list[Panel]:
    """Return the panels with one before them in a row of its own."""
    return [first, *[Panel(0, "")] * (columns - 1), *panels]


def _step_word(estimate: Estimate) -> str:
    if estimate.interval is None or not estimate.interval.excludes(0):
        return "no clear difference"
    return "faster" if estimate.log_speedup > 0 else "slower"


def _waterfall(ladder: Attribution, limits: Scale, width: float) -> Panel:
    totals = {rung.arm: rung.total.speedup if rung.total else 1.0 for rung in ladder.rungs}
    rows = []
    for below, rung in zip((None, *ladder.rungs), ladder.rungs, strict=False):
        row, step = ladder.extension, rung.step
        start = totals[below.arm] if below else 1.0
        detail = rung.arm.label
        if row and row.estimate and row.pair.arm == rung.arm and row.pair.baseline in totals:
            # The extension is compared with the fastest stock arm, which need not be the rung below.
            start, step, detail = totals[row.pair.baseline], row.estimate, f"{detail}, over {row.pair.baseline.label}"
        rows.append(_waterfall_row(rung, detail, start, step))
    axis = Axis("speed relative to the first step (log scale); right is faster →", log=True, reference=1.0)
    return row_panel(f"{ladder.name}: {ladder.case.label}", rows, axis, limits, width)


def _waterfall_row(rung: Rung, detail: str, start: float, step: Estimate | None) -> PlotRow:
    if step is None or rung.total is None:
        return PlotRow(rung.name, detail, lambda place, y: group(mark("circle", place(1), y, 3.5), "m-s7"), "1.00")
    end, (low, high) = rung.total.speedup, _bounds(rung.total.ratio_interval, rung.total.speedup)
    word = _step_word(step)
    css = STEP_WORDS[word]

    def draw(place: Scale, y: float) -> str:
        left, right = sorted((place(start), place(end)))
        bar = rect(left, y - 5, max(1.5, right - left), 10, "", ' stroke="none" fill-opacity=".45"')
        return group(bar + line(place(low), y, place(high), y, "", 2) + mark("circle", place(end), y, 3), f"m-{css}")

    interval = f" ({interval_text(step.ratio_interval)})" if step.ratio_interval else ""
    return PlotRow(
        rung.name, detail, draw, f"x{step.speedup:.2f} → {end:.2f}", f"t-{css}", series=word,
        tip=f"{rung.name}: {detail}\nthis step x{step.speedup:.3f}{interval}: {word}\n"
        f"together {end:.3f} ({low:.3f} to {high:.3f})",
    )  # fmt: skip


def _tradeoffs(run: Run, alt: str, width: float) -> str:
    """Draw speed and accuracy of each arm side by side, in the same row."""
    colours, columns = stack_colours(run.arms), 1 if is_narrow(width) else 2
    panels: list[Panel] = []
    for case in run.cases:
        if rows := tradeoffs(run, case)[:MOST_ROWS]:
            panels += _tradeoff_panels(run, case, rows, colours, column_width(width, columns))
    shapes = list(zip(PRECISIONS, SHAPES, strict=False))
    used = {row.arm.precision for case in run.cases for row in tradeoffs(run, case)}
    key = legend([(name, "s7", shape) for name, shape in shapes if name in used], width)
    return arranged("tradeoffs", alt, _below(key, panels, columns), width, columns)


def _tradeoff_panels(
    run: Run, case: Case, rows: Sequence[Tradeoff], colours: Mapping[str, str], width: float
) -> list[Panel]:
    gate = MIN_RELATIVE_ACCURACY * run.references[case.model].accuracy * 100
    speeds = [row.estimate.speedup if row.estimate else 1.0 for row in rows]
    accuracies = [row.accuracy * 100 for row in rows]
    # A limit that is far away would leave no room to see differences.
    near = min(accuracies) - gate < 3 * (max(accuracies) - min(accuracies))
    fast, slow = [], []
    for row, speed, accuracy in zip(rows, speeds, accuracies, strict=True):
        css, shape = f"m-{colours[row.arm.stack]}", shape_of(row.arm.precision, PRECISIONS)
        low, high = _bounds(row.estimate.ratio_interval if row.estimate else None, speed)
        tip = f"{row.arm.label}\nspeed {speed:.3f} ({low:.3f} to {high:.3f})\naccuracy {percent(row.accuracy)}"
        fast.append(
            PlotRow(
                row.arm.label,
                "",
                partial(_whisker, (low, speed, high), shape, css),
                f"{speed:.2f}",
                series=row.arm.precision,
                tip=tip,
            )
        )
        slow.append(
            PlotRow(
                row.arm.label if width <= NARROW else "",
                "",
                partial(_whisker, (accuracy,) * 3, shape, css),
                percent(row.accuracy),
                "t-SLOWER" if row.fault else "t-ink",
                series=row.arm.precision,
                tip=tip,
            )
        )
    title = f"accuracy, % (n = {len(run.references[case.model].truth):,} images); right is better →"
    return [
        row_panel(
            f"{case.label}: speed", fast,
            Axis(f"speed over {rows[0].against.label} (log scale); right is faster →", log=True, reference=1.0),
            _ratio_limits(speeds), width,
        ),
        row_panel(
            f"{case.label}: accuracy", slow, Axis(title, reference=gate),
            scale([*accuracies, *([gate] if near else [])], 0, 1), width,
        ),
    ]  # fmt: skip


def _whisker(values: tuple[float, float, float], shape: str, css: str, place: Scale, y: float) -> str:
    low, middle, high = values
    return group(line(place(low), y, place(high), y, "", 2.5) + mark(shape, place(middle), y, 4.4), css)


def _matrices(run: Run) -> list[tuple[str, Matrix]]:
    """Return the confusion matrices of the arms with a title each; arms with the same predictions share one."""
    groups = defaultdict[tuple[str, str], list[Arm]](list)
    for case in {case.model: case for case in reversed(run.cases)}.values():
        for arm in run.participants(case):
            proof = run.full_proof(arm, case)
            if proof and not arm.replica and case.model in run.references and run.info.models[case.model].trained:
                groups[case.model, proof.labels].append(arm)
    matrices = []
    for (model, labels), arms in list(groups.items())[:MOST_MATRICES]:
        counts = np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64)
        for actual, predicted in zip(run.references[model].truth, labels, strict=False):
            counts[int(actual), int(predicted)] += 1
        others = f" and {counted(len(arms) - 1, 'other')}" if len(arms) > 1 else ""
        matrices.append((f"{percent(counts.trace() / max(1, counts.sum()))}: {arms[0].label}{others}", counts))
    return matrices


def _confusion(run: Run, alt: str, width: float) -> str:
    return confusion_plot(_matrices(run), alt, width)


def _training(cases: Sequence[Case], run: Run, alt: str, width: float) -> str:
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
            x = Axis("training time, s; left is faster ←")
            y = Axis("test accuracy, % (mean over seeds); higher is better")
            panels += _plane_with_goals(title, series, x, y, width)
    return arranged("training", alt, panels, width)


def _plane_with_goals(title: str, series: Sequence[Series], x: Axis, y: Axis, width: float) -> list[Panel]:
    points = [point for one in series for point in one.points]
    limits = scale([0, *(point[0] for point in points)], 0, 1), scale([point[1] for point in points], 0, 1)

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
    return [
        plane_panel(title, series, axes, limits, width, named=named, under=under),
        legend([(one.name, one.css, one.shape) for one in series], width),
    ]


def _dash(index: int) -> str:
    return ("", "6 3", "2 3", "8 3 2 3")[index // 8 % 4]


def _scaling(run: Run, alt: str, width: float) -> str:
    """Draw throughput against the batch size, and time against the number of threads, one panel a sweep."""
    panels: list[Panel] = []
    for sweep in sweeps(run):
        panels += _scaling_panels(sweep, width)
    return arranged("scaling", alt, panels, width)


def _scaling_panels(sweep: Sweep, width: float) -> list[Panel]:
    by_batch = sweep.over == BATCH_SIZE
    series = []
    for index, curve in enumerate(sweep.curves[:MOST_ROWS]):
        points = []
        for point in curve.points:
            height = point.images_per_s if by_batch else point.latency_ns / 1e3
            text = f"{number(height)} {'images/s' if by_batch else 'µs'}"
            points.append((value(point.case, sweep.over), height, f"{curve.arm.label}\n{point.case.label}: {text}"))
        series.append(Series(curve.arm.label, colour(index), SHAPES[index % 4], tuple(points), dash=_dash(index)))
    points_of_all = [point for one in series for point in one.points]
    limits = (
        scale([point[0] for point in points_of_all], 0, 1, log=True),
        scale([point[1] for point in points_of_all], 0, 1, log=True),
    )
    ticks = tuple(float(value(case, sweep.over)) for case in sweep.cases)
    x = Axis("batch size (log scale)" if by_batch else "threads (log scale)", ticks=ticks)
    what = "time per epoch" if sweep.cases[0].scenario == TRAINING else "time per batch"
    y = Axis("images/s (log scale); higher is better" if by_batch else f"{what}, µs (log scale); lower is better")
    return _with_legend(sweep.label, series, (x, y), limits, width)


def _roofline(run: Run, alt: str, width: float) -> str:
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
        )
        for point in points[:MOST_ROWS]
    ]  # fmt: skip
    rates = [rate / 1e9 for rate in traffic_rates(run, threads).values()]
    limits = (
        scale([min(intensities) / 2, max(intensities) * 2], 0, 1, log=True),
        scale([*(point.operations_per_s / 1e9 for point in points), *peaks.values()], 0, 1, log=True),
    )

    def under(across: Scale, up: Scale) -> str:
        parts = []
        for name, peak in peaks.items():
            unit = "GOP/s" if name == "int8" else "GFLOP/s"
            parts.append(line(across.start, up(peak), across.end, up(peak), "one"))
            parts.append(label(across.start + 2, up(peak) - 4, f"{name}, {peak:,.0f} {unit}", "t-muted", size=10))
        for rate, dash in zip((min(rates), max(rates)), ("6 3", "2 3"), strict=True) if rates else ():
            top = max(peaks.values(), default=up.high)
            places = np.geomspace(across.low, across.high, 60)
            bound = [(across(x), up(min(x * rate, top))) for x in places if x * rate >= up.low]
            if len(bound) > 1:
                parts.append(path(bound, "one", f'fill="none" stroke-dasharray="{dash}"', 1))
        return "".join(parts)

    traffic = f"; dashes: {min(rates):.0f} and {max(rates):.0f} GB/s" if rates else ""
    x = Axis(f"operations per byte (log scale){traffic}", log=True)
    y = Axis("GFLOP/s, of int8 GOP/s (log scale); higher is better", log=True)
    return plane_panel(case.label, series, (x, y), limits, width, named=True, under=under)


def _latencies(run: Run, alt: str, width: float) -> str:
    """Draw the distribution of each arm's latencies, all samples pooled, one panel a case."""
    colours, panels = stack_colours(run.arms), list[Panel]()
    for case in run.cases:
        samples = {
            arm: np.concatenate([turn.samples_ns for turn in slices]) / 1e3
            for arm in run.participants(case)[:MOST_ROWS]
            if case.scenario == LATENCY and (slices := run.slices(arm, case))
        }
        if samples:
            ends = [np.quantile(values, (0.001, SHOWN_QUANTILE)) for values in samples.values()]
            limits = scale([float(end) for pair in ends for end in pair], 0, 1, log=True, margin=0.02)
            rows = [_distribution(arm, values, limits, f"m-{colours[arm.stack]}") for arm, values in samples.items()]
            title = "latency, µs (log scale); left is faster ←"
            count = sum(map(len, samples.values()))
            panels.append(row_panel(f"{case.label} (n = {count:,} calls)", rows, Axis(title, log=True), limits, width))
    return arranged("latencies", alt, panels, width)


def _distribution(arm: Arm, samples: np.ndarray[tuple[int], np.dtype[np.float64]], limits: Scale, css: str) -> PlotRow:
    edges = np.geomspace(limits.low, limits.high, BINS + 1)
    counts = np.histogram(samples, edges)[0]
    heights = 15 * counts / max(1, counts.max())
    middle, p90, p99, p999 = (float(value) for value in np.quantile(samples, (0.5, 0.9, 0.99, 0.999)))

    def draw(place: Scale, y: float) -> str:
        base = y + 8
        used = np.flatnonzero(counts)
        first, last = int(used[0]), int(used[-1])
        outline = [(place(edges[first]), base)]
        for index in range(first, last + 1):
            outline += [(place(math.sqrt(edges[index] * edges[index + 1])), base - heights[index])]
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
    return PlotRow(arm.label, "", draw, f"{number(middle)} µs", tip=tip)


def _costs(rows: Sequence[ArmRow], run: Run, alt: str, width: float) -> str:
    """Draw the parts of each arm's cold start, one panel a group of cases that share it."""
    panels = [legend([(name, colour(index), "square") for index, name in enumerate(START_PARTS)], width)]
    for case in _first_cases(run):
        own = [row for row in rows if row.case == case][:MOST_ROWS]
        if own:
            limits = Scale(0, 1.03 * max((row.cost.cold_start_ns or 0) / 1e9 for row in own), 0, 1)
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
