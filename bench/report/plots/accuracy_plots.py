"""Plots of accuracy: beside the speed, and by class."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from backends.protocol import PRECISIONS
from bench.analysis.costs import tradeoffs
from bench.analysis.gates import MIN_RELATIVE_ACCURACY
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
from bench.report.plots.ratio_plots import bounds, ratio_limits
from bench.report.plots.svg import NARROW, SHAPES, Scale, group, line, mark, scale, shape_of, stack_colours
from bench.report.plots.training_plots import confusion_plot
from bench.report.text import counted, percent
from bench.suite.arms import Arm, Case
from models.data import CLASSES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.analysis.costs import Tradeoff
    from bench.analysis.run import Run
    from bench.report.plots.training_plots import Matrix

MOST_MATRICES = 12


def tradeoffs_plot(run: Run, alt: str, width: float) -> str:
    """Draw speed and accuracy of each arm side by side, in the same row."""
    colours, columns = stack_colours(run.arms), 1 if is_narrow(width) else 2
    panels: list[Panel] = []
    for case in run.cases:
        if rows := tradeoffs(run, case)[:MOST_ROWS]:
            panels += _tradeoff_panels(run, case, rows, colours, column_width(width, columns))
    shapes = list(zip(PRECISIONS, SHAPES, strict=False))
    used = {row.arm.precision for case in run.cases for row in tradeoffs(run, case)}
    key = legend([(name, "s7", shape) for name, shape in shapes if name in used], width)
    return arranged("tradeoffs", alt, headed(key, panels, columns), width, columns)


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
        low, high = bounds(row.estimate.ratio_interval if row.estimate else None, speed)
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
    blocks = max((row.estimate.blocks for row in rows if row.estimate), default=0)
    title = f"accuracy, % (n = {len(run.references[case.model].truth):,} images); right is better →"
    return [
        row_panel(
            f"{case.label}: speed (n = {counted(blocks, 'block')})", fast,
            Axis(f"speed over {rows[0].against.label} (log scale); right is faster →", log=True, reference=1.0),
            ratio_limits(speeds), width,
        ),
        row_panel(
            f"{case.label}: accuracy", slow, Axis(title, reference=gate),
            scale([*accuracies, *([gate] if near else [])], 0, 1), width,
        ),
    ]  # fmt: skip


def _whisker(values: tuple[float, float, float], shape: str, css: str, place: Scale, y: float) -> str:
    low, middle, high = values
    return group(line(place(low), y, place(high), y, "", 2.5) + mark(shape, place(middle), y, 4.4), css)


def matrices(run: Run) -> list[tuple[str, Matrix]]:
    """Return the confusion matrices of the arms with a title each; arms with the same predictions share one."""
    groups = defaultdict[tuple[str, str], list[Arm]](list)
    for case in {case.model: case for case in reversed(run.cases)}.values():
        for arm in run.participants(case):
            proof = run.full_proof(arm, case)
            if proof and not arm.replica and case.model in run.references and run.info.models[case.model].trained:
                groups[case.model, proof.labels].append(arm)
    found, several = [], len({model for model, _ in groups}) > 1
    for (model, labels), arms in list(groups.items())[:MOST_MATRICES]:
        counts = np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64)
        for actual, predicted in zip(run.references[model].truth, labels, strict=False):
            counts[int(actual), int(predicted)] += 1
        precisions = " and ".join(dict.fromkeys(arm.precision for arm in arms))
        who = f"{len(arms)} arms in {precisions}" if len(arms) > 1 else arms[0].label
        title = f"{percent(counts.trace() / max(1, counts.sum()))}: {who}"
        found.append((f"{title}, {model}" if several else title, counts))
    return found


def matrices_plot(run: Run, alt: str, width: float) -> str:
    return confusion_plot(matrices(run), alt, width)
