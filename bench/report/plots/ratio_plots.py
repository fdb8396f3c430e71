"""Plots of ratios with their intervals: the answer, every comparison, every block, and the waterfalls."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bench.analysis.attribution import attributions
from bench.analysis.gates import EQUIVALENT, FASTER, SLOWER, UNRESOLVED, WITHDRAWN, WITHHELD
from bench.analysis.speedups import Speedup, speedups
from bench.loadgen.settings import time_title
from bench.report.answer.judgements import summary_rows
from bench.report.answer.wording import name_of
from bench.report.plots.panels import (
    MOST_ROWS,
    Axis,
    Panel,
    PlotRow,
    arranged,
    column_width,
    headed,
    is_narrow,
    legend,
    row_panel,
)
from bench.report.plots.svg import Scale, group, line, mark, rect, scale
from bench.report.text import counted, interval_text, level
from bench.suite.arms import LATENCY, QUERY_SAMPLES, TRAINING, Case

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bench.analysis.attribution import Attribution, Rung
    from bench.analysis.gates import Estimate
    from bench.analysis.run import Run
    from bench.analysis.stats import Interval


COLOURED = (FASTER, SLOWER, EQUIVALENT, UNRESOLVED, WITHHELD, WITHDRAWN)


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


def ratio_limits(values: Iterable[float]) -> Scale:
    return scale([1.0, *values], 0, 1, log=True, margin=0.04)


def bounds(interval: Interval | None, middle: float) -> tuple[float, float]:
    return (interval.low, interval.high) if interval else (middle, middle)


def _ratio_axis(run: Run, case: Case) -> Axis:
    words = {LATENCY: "latency", TRAINING: "epoch time"}
    what = time_title(case) if case.scenario in QUERY_SAMPLES else words.get(case.scenario, "time per batch")
    title = f"speedup = baseline {what} / arm {what} (log scale); right of 1 is faster →"
    band = next((run.band(row.pair) for row in speedups(run) if row.pair.case == case), None)
    return Axis(title, log=True, reference=1.0, band=(math.exp(-band), math.exp(band)) if band else None)


def _comparison_row(run: Run, row: Speedup, label: str, detail: str) -> PlotRow:
    low, high = bounds(row.interval, row.speedup or 1.0)
    word, blocks = row.verdict.word, row.estimate.blocks if row.estimate else 0
    css = _css(word)
    interval = f" ({interval_text(row.interval)})" if row.interval else ""

    def draw(place: Scale, y: float) -> str:
        interval_line = line(place(low), y, place(high), y, "", 3)
        return group(interval_line + mark("circle", place(row.speedup or 1.0), y, 4.2), f"m-{css}")

    return PlotRow(
        label,
        detail,
        draw,
        text=f"{row.speedup:.3f}{interval} {word}",
        text_css=f"t-{css}",
        series=word,
        tip=f"{row.pair.arm.label} / {row.pair.baseline.label}\n{row.pair.case.label}\nspeedup {row.speedup:.3f}"
        f"{interval}{', ' if interval else ''}{level(run) and level(run) + ' interval'}\n{word}, "
        f"n = {counted(blocks, 'block')}",
    )


def summary_plot(run: Run, alt: str, width: float) -> str:
    """Draw each stack's comparison with the fastest stock variant, one panel a case, on one common axis."""
    groups = defaultdict[Case, list[tuple[Speedup, PlotRow]]](list)
    for judgement, outcome in summary_rows(run):
        name = f"{name_of(judgement.stack)} {judgement.arm.variant}"
        against = f"against {outcome.row.pair.baseline.label}"
        groups[outcome.case].append((outcome.row, _comparison_row(run, outcome.row, name, against)))
    return _comparison_panels("summary", run, groups, alt, width)


def speedups_plot(run: Run, alt: str, width: float) -> str:
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
    limits = ratio_limits(end for row, _ in every for end in bounds(row.interval, row.speedup or 1.0))
    alike = [shown for _, shown in every]
    panels = [_verdict_key((row for row, _ in every), width)] if name == "speedups" else []
    panels += [
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


def _css(word: str) -> str:
    """Return the class of a verdict's colour; those that have none get that of no verdict."""
    if word == WITHDRAWN:
        return WITHHELD
    return word if word in COLOURED else UNRESOLVED


def _verdict_key(rows: Iterable[Speedup], width: float) -> Panel:
    """Draw a legend of the verdicts, by which comparisons are coloured."""
    words = {row.verdict.word for row in rows}
    return legend([(word, _css(word), "circle") for word in COLOURED if word in words], width)


def blocks_plot(run: Run, alt: str, width: float) -> str:
    """Draw the ratio of every block: the data that an interval is made of."""
    panels = [_verdict_key((row for row in speedups(run) if row.speedup), width)]
    for case, rows in _by_case(run, (row for row in speedups(run) if row.speedup)).items():
        ratios = {id(row): np.exp(list(run.log_ratios(row.pair, row.rule).values())) for row in rows[:MOST_ROWS]}
        limits = ratio_limits(ratio for values in ratios.values() for ratio in values)
        shown = [
            PlotRow(
                row.pair.arm.label,
                f"against {row.pair.baseline.label}",
                partial(_dots, ratios[id(row)].tolist(), f"m-{_css(row.verdict.word)}"),
                text=f"{row.speedup:.3f}",
                series=row.verdict.word,
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


def attribution_plot(run: Run, alt: str, width: float) -> str:
    """Draw each ladder as a waterfall: what every step adds to the speed of the lowest rung."""
    ladders = attributions(run)
    columns = 1 if is_narrow(width) else 2
    limits = {
        case: ratio_limits(
            end
            for ladder in ladders
            for rung in ladder.rungs
            if ladder.case == case and rung.total
            for end in bounds(rung.total.ratio_interval, rung.total.speedup)
        )
        for case in run.cases
    }
    key = legend([(word, css, "square") for word, css in STEP_WORDS.items()], width)
    panels = [_waterfall(ladder, limits[ladder.case], column_width(width, columns)) for ladder in ladders]
    return arranged("attribution", alt, headed(key, panels, columns), width, columns)


STEP_WORDS = {"faster": "FASTER", "slower": "SLOWER", "no clear difference": "UNRESOLVED"}


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
            own = rung.arm.label.removeprefix(f"{rung.arm.stack} ")
            # The extension is compared with the fastest stock arm, which need not be the rung below.
            start, step, detail = totals[row.pair.baseline], row.estimate, f"{own} over {row.pair.baseline.label}"
        rows.append(_waterfall_row(rung, detail, start, step))
    axis = Axis("speed relative to the first step (log scale); right is faster →", log=True, reference=1.0)
    blocks = max((rung.total.blocks for rung in ladder.rungs if rung.total), default=0)
    title = f"{ladder.name}: {ladder.case.label} (n = {counted(blocks, 'block')})"
    return row_panel(title, rows, axis, limits, width)


def _waterfall_row(rung: Rung, detail: str, start: float, step: Estimate | None) -> PlotRow:
    if step is None or rung.total is None:
        return PlotRow(rung.name, detail, lambda place, y: group(mark("circle", place(1), y, 3.5), "m-s7"), "1.00")
    end, (low, high) = rung.total.speedup, bounds(rung.total.ratio_interval, rung.total.speedup)
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
