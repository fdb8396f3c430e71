"""The plots of a trained model and of a hyper-parameter search."""

from __future__ import annotations

from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from bench.report.plots.panels import (
    DETAIL,
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
    BOLD_SIZE,
    SHAPES,
    WIDE,
    Scale,
    colour,
    group,
    label,
    mark,
    rect,
    scale,
    shortened,
    standalone,
)
from bench.report.text import counted, number4, percent
from models.data import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.report.plots.panels import Drawing
    from bench.training.evaluate import Evaluation
    from bench.training.history import Epoch
    from bench.training.model_file import ModelFile
    from bench.training.tune import Trained
    from models.spec import Network, PlacedLayer

Matrix: TypeAlias = "np.ndarray[tuple[int, int], np.dtype[np.int64]]"
KIND_COLOURS = {"Conv2d": "s0", "Dense": "s4", "BatchNorm": "s3", "MaxPool2d": "s2", "Dropout": "s5"}
# The rows of the architecture, and the least width of a matrix, in pixels.
LAYER_ROW, MATRIX = 28, 280
# A ROC curve has at most this many points.
MOST_POINTS = 120
LOWEST_RATE = 1e-4


def evaluation_plots(model: ModelFile, evaluations: list[Evaluation], history: list[Epoch]) -> dict[str, Drawing]:
    """Return by name how to draw each plot for which there is something to show."""
    evaluated = [evaluation for evaluation in evaluations if evaluation.logits is not None]
    plots: dict[str, Drawing] = {"architecture": partial(_architecture, model.network)}
    if history:
        plots["learning-curves"] = partial(_learning_curves, history)
    if evaluated:
        plots |= {
            "classes": partial(_classes, evaluated),
            "confusion": partial(confusion_plot, [(_title(one), one.confusion) for one in evaluated]),
            "roc": partial(_roc, evaluated[0]),
        }
    return plots


def _title(evaluation: Evaluation) -> str:
    return f"{percent(evaluation.accuracy)}: {evaluation.arm.label}"


def _learning_curves(history: list[Epoch], alt: str, width: float) -> str:
    def series(name: str, index: int, value: Callable[[Epoch], float | None], text: Callable[[float], str]) -> Series:
        points = [(epoch.epoch, value(epoch)) for epoch in history]
        shown = tuple((n, y, f"epoch {n}, {name}: {text(y)}") for n, y in points if y is not None)
        return Series(name, colour(index), SHAPES[index % len(SHAPES)], shown)

    def share(value: float | None) -> float | None:
        return None if value is None else 100 * value

    def points_of(value: float) -> str:
        return f"{value:.2f} %"

    curves = {
        "mean loss; lower is better": [
            series("training", 0, lambda epoch: epoch.result.loss, number4),
            series("test", 1, lambda epoch: epoch.test_loss, number4),
            series("held out", 2, lambda epoch: epoch.validation_loss, number4),
        ],
        "accuracy, %; higher is better": [
            series("test", 1, lambda epoch: share(epoch.test_accuracy), points_of),
            series("held out", 2, lambda epoch: share(epoch.validation_accuracy), points_of),
        ],
        "learning rate at the epoch's start": [series("rate", 7, lambda epoch: epoch.learning_rate, number4)],
    }
    columns = 1 if is_narrow(width) else 3
    panels = []
    for title, all_series in curves.items():
        drawn = [one for one in all_series if one.points]
        limits = (
            scale([point[0] for one in drawn for point in one.points], 0, 1),
            scale([point[1] for one in drawn for point in one.points], 0, 1),
        )
        count = f"n = {counted(len(history), 'epoch')}"
        panels.append(
            plane_panel(count, drawn, (Axis("epoch"), Axis(title)), limits, column_width(width, columns), 200)
        )
    shown = {one.name: (one.name, one.css, one.shape) for drawn in curves.values() for one in drawn if one.points}
    panels.append(legend([entry for name, entry in shown.items() if name != "rate"], width))
    return arranged("learning-curves", alt, panels, width, columns)


def _classes(evaluations: list[Evaluation], alt: str, width: float) -> str:
    """Draw F1 and IoU of each class, the arms of a class in one row."""
    panels, columns = list[Panel](), 1 if is_narrow(width) else 2
    images = evaluations[0].confusion.sum()
    for column, title in (("f1", "F1"), ("iou", "IoU")):
        values = {
            name: [evaluation.classification[index][column] for evaluation in evaluations]
            for index, name in enumerate(CLASSES)
        }
        limits = scale([*(value for row in values.values() for value in row), 1.0], 0, 1)
        rows = [
            PlotRow(name, "", partial(_class_marks, evaluations, name, row), f"{min(row):.3f}")
            for name, row in values.items()
        ]
        axis = Axis(f"{title} of each class; at the end the lowest; right is better →")
        panels.append(row_panel(f"{title} (n = {images:,} images)", rows, axis, limits, column_width(width, columns)))
    entries = [(one.arm.label, colour(index), SHAPES[index % 4]) for index, one in enumerate(evaluations)]
    return arranged("classes", alt, [*panels, legend(entries, width)], width, columns)


def _class_marks(evaluations: list[Evaluation], name: str, values: Sequence[float], place: Scale, y: float) -> str:
    step = 14 / max(1, len(values) - 1)
    marks = []
    for index, (evaluation, value) in enumerate(zip(evaluations, values, strict=True)):
        height = y if len(values) == 1 else y - 7 + index * step
        tip = f"{evaluation.arm.label}, {name}: {value:.4f}"
        drawn = mark(SHAPES[index % 4], place(value), height, 3, tip)
        marks.append(group(drawn, f"m-{colour(index)}", series=evaluation.arm.label))
    return "".join(marks)


def confusion_plot(matrices: Sequence[tuple[str, Matrix]], alt: str, width: float) -> str:
    """Draw confusion matrices, each with its title; only errors are coloured."""
    columns = max(1, int((width + 28) // (MATRIX + 28)))
    panels = [_matrix(title, counts, column_width(width, columns)) for title, counts in matrices]
    return arranged("confusion", alt, panels, width, columns)


def _matrix(title: str, counts: Matrix, width: float) -> Panel:
    left, top = 66.0, 30.0
    cell = (width - left) / len(CLASSES)
    wrong = counts * (1 - np.eye(len(CLASSES), dtype=int))
    most = max(1, int(wrong.max()))
    parts = [label(0, 17, shortened(title, width, BOLD_SIZE), size=13, bold=True)]
    for row, actual in enumerate(CLASSES):
        y = top + row * cell
        parts.append(
            label(left - 5, y + cell / 2 + 4, shortened(actual, left - 6, 10), "t-muted", anchor="end", size=10)
        )
        for column, predicted in enumerate(CLASSES):
            count = int(counts[row, column])
            x, shade = left + column * cell, 0.0 if row == column else 0.75 * wrong[row, column] / most
            area = rect(x, y, cell - 1, cell - 1, "f-soft")
            if shade:
                shaded = rect(x, y, cell - 1, cell - 1, "", f' stroke="none" fill-opacity="{shade:.2f}"')
                area += group(shaded, "m-s1")
            text = label(x + cell / 2, y + cell / 2 + 3.5, str(count), anchor="middle", size=9) if count else ""
            images = counted(count, "image")
            parts.append(group(area + text, title=f"{actual}, predicted as {predicted}: {images}"))
    for column, predicted in enumerate(CLASSES):
        x, y = left + (column + 0.5) * cell, top + len(CLASSES) * cell + 8
        name = label(0, 0, predicted, "t-muted", anchor="end", size=10)
        parts.append(f'<g transform="translate({x + 3:.1f} {y:.1f}) rotate(-60)">{name}</g>')
    bottom = top + len(CLASSES) * cell + 74
    lines = (
        f"rows: actual class, columns: predicted (n = {counts.sum():,} images)",
        "off the diagonal fewer is better",
    )
    for index, content in enumerate(lines):
        parts.append(label(0, bottom + 13 * index, shortened(content, width, DETAIL), "t-muted", size=DETAIL))
    return Panel(bottom + 24, "".join(parts))


def _roc(evaluation: Evaluation, alt: str, width: float) -> str:
    """Draw the ROC curve of each class for the first arm, with the areas in the legend."""
    series = []
    for index, (false, true, area) in enumerate(evaluation.curves):
        kept = np.unique(np.linspace(0, len(false) - 1, MOST_POINTS).round().astype(int))
        points = tuple((max(LOWEST_RATE, float(false[place])), float(true[place]), "") for place in kept)
        dash = "" if index < len(SHAPES) * 2 else "6 3"
        series.append(Series(f"{CLASSES[index]}: AUC {area:.4f}", colour(index), "none", points, dash=dash))
    limits = Scale(LOWEST_RATE, 1, 0, 1, log=True), Scale(0, 1.02, 0, 1)
    x = Axis("false positive rate (log scale); left is better ←")
    y = Axis("true positive rate; higher is better")
    title = f"{evaluation.arm.label} (n = {evaluation.confusion.sum():,} images)"
    panel = plane_panel(title, series, (x, y), limits, width, 320)
    return arranged("roc", alt, [panel, legend([(one.name, one.css, "circle") for one in series], width)], width)


def _architecture(network: Network, alt: str, width: float) -> str:
    """Draw the layers from input to logits, each with its output shape and parameters."""
    placed, broad = network.place(), min(width, 620.0)
    rows = [("input", f"({', '.join(map(str, network.input_shape))})", "s7"), *map(_box, placed)]
    title = f"{network.name}: {network.parameters:,} parameters, {network.trainable_parameters:,} trainable"
    parts = [label(0, 17, shortened(title, width, BOLD_SIZE), size=13, bold=True)]
    for index, (name, text, css) in enumerate(rows):
        y = 30 + index * LAYER_ROW
        parts.append(rect(0, y, broad, LAYER_ROW - 4, "f-soft", ' rx="3"') + rect(0, y, 5, LAYER_ROW - 4, f"m-{css}"))
        parts.append(label(14, y + 16, name) + label(broad - 8, y + 16, text, "t-muted", anchor="end", size=11))
    return arranged("architecture", alt, [Panel(30 + len(rows) * LAYER_ROW, "".join(parts))], width)


def _box(placed: PlacedLayer) -> tuple[str, str, str]:
    details = {
        "Conv2d": lambda layer: f" {layer.kernel_size}x{layer.kernel_size}",
        "Dropout": lambda layer: f" {layer.rate:g}",
        "MaxPool2d": lambda layer: f" {layer.size}x{layer.size}",
    }
    detail = details.get(placed.kind, lambda _: "")(placed.layer)
    parameters = f"{placed.parameters:,} parameters   " if placed.parameters else ""
    shape = ", ".join(map(str, placed.output_shape))
    return f"{placed.kind}{detail}", f"{parameters}({shape})", KIND_COLOURS.get(placed.kind, "s7")


def trials_plot(trained: Sequence[Trained]) -> str:
    """Draw the held-out accuracy by trial, with the best so far, and by each setting; return the SVG."""
    shares, numbers = [trial.accuracy * 100 for trial in trained], [trial.number for trial in trained]
    names = list(trained[0].settings)
    columns = len(names) + 1
    height = scale(shares, 0, 1)
    y = Axis("held-out accuracy, %; higher is better")
    tips = [f"trial {trial.number}: {percent(trial.accuracy)}" for trial in trained]
    best = tuple((n, share, "") for n, share in zip(numbers, accumulate(shares, max), strict=True))
    by_trial = [
        Series("best so far", "s1", "none", best),
        Series("trial", "s0", "circle", tuple(zip(numbers, shares, tips, strict=True)), joined=False),
    ]
    panels = [
        plane_panel(
            "line: best so far",
            by_trial,
            (Axis("trial"), y),
            (scale(numbers, 0, 1), height),
            column_width(WIDE, columns),
            220,
        )
    ]
    for name in names:
        values = [float(trial.settings[name]) for trial in trained]
        points = tuple(zip(values, shares, tips, strict=True))
        limits = scale(values, 0, 1, log=min(values) > 0), height
        title = f"{name.replace('_', ' ')} (log scale)" if min(values) > 0 else name.replace("_", " ")
        one = [Series(name, "s0", "circle", points, joined=False)]
        panels.append(plane_panel("", one, (Axis(title), y), limits, column_width(WIDE, columns), 220))
    return standalone(arranged("trials", f"Accuracy of {counted(len(trained), 'trial')}", panels, WIDE, columns))
