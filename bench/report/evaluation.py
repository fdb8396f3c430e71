"""The report of a training and of a model's evaluation: tables, plots, Markdown and one self-contained HTML file."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from bench.codec import encode
from bench.report.page import HTML, MARKDOWN, inline, template_environment
from bench.report.plot_style import COLOURS, LINES, STYLE, svg_of
from models.data import CLASSES, SYNTHETIC_WARNING

if TYPE_CHECKING:
    from bench.training.evaluate import Evaluation
    from bench.training.history import Epoch
    from bench.training.model_file import Model
    from models.spec import Network, PlacedLayer

CLASSIFICATION, CONFUSION, ROC, HISTORY_TABLE = "classification.csv", "confusion.csv", "roc.csv", "history.csv"
KIND_COLOURS = {
    "Conv2d": "#56B4E9", "Dense": "#E69F00", "BatchNorm": "#CC79A7", "MaxPool2d": "#009E73", "Dropout": "#F0E442",
}  # fmt: skip
PLAIN_COLOUR = "#EEEEEE"
PANELS = 3  # confusion matrices side by side


def tables(evaluations: list[Evaluation], history: list[Epoch], data: str) -> dict[str, str]:
    """Return {file name: text} of the tables that have rows."""
    import pandas as pd

    found = [each for each in evaluations if each.logits is not None]
    rows: dict[str, list[dict[str, Any]]] = {
        CLASSIFICATION: [
            _arm(each) | row | {"accuracy": each.accuracy, "data": data}
            for each in found
            for row in each.classification
        ],
        CONFUSION: [
            _arm(each) | {"actual": CLASSES[row], "predicted": CLASSES[column], "images": int(count)}
            for each in found
            for (row, column), count in np.ndenumerate(each.confusion)
        ],
        ROC: [
            _arm(each) | {"class": CLASSES[index], "false_positive_rate": float(x), "true_positive_rate": float(y)}
            for each in found
            for index, (false, true, _) in enumerate(each.curves)
            for x, y in zip(false, true, strict=True)
        ],
        HISTORY_TABLE: [encode(each) for each in history],
    }
    return {name: pd.DataFrame(table).to_csv(index=False, float_format="%.6g") for name, table in rows.items() if table}


def _arm(evaluation: Evaluation) -> dict[str, str]:
    arm = evaluation.arm
    return {"stack": arm.stack, "variant": arm.variant, "precision": arm.precision}


def plots(model: Model, evaluations: list[Evaluation], history: list[Epoch]) -> dict[str, str]:
    """Return {file name: SVG} of every plot for which there is something to show."""
    found = [each for each in evaluations if each.logits is not None]
    with mpl.rc_context(STYLE):
        drawn = {"architecture.svg": architecture(model.network)}
        if history:
            drawn["learning-curves.svg"] = learning_curves(history)
        if found:
            drawn |= {"classes.svg": classes(found), "confusion.svg": confusion(found), "roc.svg": roc(found)}
        return {name: svg_of(figure) for name, figure in drawn.items()}


def learning_curves(history: list[Epoch]) -> Figure:
    """Draw loss, accuracy and learning rate by epoch."""
    figure = Figure(figsize=(8.5, 3.2))
    loss, accuracy, rate = figure.subplots(1, 3)
    epochs = [each.epoch for each in history]
    held = [each for each in history if each.validation_loss is not None]
    loss.plot(epochs, [each.result.loss for each in history], "o-", color=COLOURS[0], ms=3, label="training")
    loss.plot(epochs, [each.test_loss for each in history], "s--", color=COLOURS[1], ms=3, label="test")
    accuracy.plot(epochs, [each.test_accuracy * 100 for each in history], "s--", color=COLOURS[1], ms=3, label="test")
    if held:
        places = [each.epoch for each in held]
        loss.plot(places, [each.validation_loss for each in held], "^:", color=COLOURS[2], ms=3, label="held out")
        shares = [(each.validation_accuracy or 0.0) * 100 for each in held]
        accuracy.plot(places, shares, "^:", color=COLOURS[2], ms=3, label="held out")
    rate.plot(epochs, [each.learning_rate for each in history], "o-", color=COLOURS[0], ms=3)
    loss.set(title="mean loss", xlabel="epoch")
    accuracy.set(title="accuracy, %", xlabel="epoch")
    rate.set(title="learning rate at the epoch's start", xlabel="epoch", ylim=(0, None))
    for axes in (loss, accuracy, rate):
        axes.xaxis.get_major_locator().set_params(integer=True)
    loss.legend(frameon=False, fontsize=8)
    accuracy.legend(frameon=False, fontsize=8)
    return figure


def classes(evaluations: list[Evaluation]) -> Figure:
    """Draw F1 and IoU of each class, the arms side by side."""
    figure = Figure(figsize=(8.5, 3.4))
    width = 0.8 / len(evaluations)
    for axes, column, title in zip(figure.subplots(1, 2, sharey=True), ("f1", "iou"), ("F1", "IoU"), strict=True):
        for index, (each, colour) in enumerate(zip(evaluations, cycle(COLOURS))):
            values = [row[column] for row in each.classification[: len(CLASSES)]]
            places = np.arange(len(CLASSES)) + (index - (len(evaluations) - 1) / 2) * width
            axes.bar(places, values, width, color=colour, label=each.arm.label)
        axes.set(title=f"{title} per class", xticks=range(len(CLASSES)), ylim=(0, 1))
        axes.set_xticklabels(CLASSES, rotation=45, ha="right")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=7.5)
    return figure


def confusion(evaluations: list[Evaluation]) -> Figure:
    """Draw each arm's confusion matrix; the diagonal is left uncoloured."""
    rows = -(-len(evaluations) // PANELS)
    figure = Figure(figsize=(11, 4.1 * rows))
    grid = figure.subplots(rows, PANELS, squeeze=False)
    for axes in grid.flat[len(evaluations) :]:
        axes.set_axis_off()
    for axes, each in zip(grid.flat, evaluations, strict=False):
        wrong = each.confusion * (1 - np.eye(len(CLASSES), dtype=int))
        axes.imshow(wrong, cmap="Oranges")
        for (row, column), count in np.ndenumerate(each.confusion):
            if count:
                axes.text(column, row, count, ha="center", va="center", fontsize=6)
        axes.set(title=f"{each.arm.label}: {each.accuracy:.2%}", xlabel="predicted", ylabel="actual")
        axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=90, fontsize=7)
        axes.set_yticks(range(len(CLASSES)), CLASSES, fontsize=7)
        axes.grid(visible=False)
    return figure


def roc(evaluations: list[Evaluation]) -> Figure:
    """Draw each class's ROC curve of the first arm, and the areas of all arms in the legend's order."""
    figure = Figure(figsize=(8.5, 4))
    axes = figure.subplots()
    first = evaluations[0]
    for index, (colour, (false, true, area)) in enumerate(zip(cycle(COLOURS), first.curves)):
        style = LINES[index // len(COLOURS)]
        axes.plot(false, true, style, color=colour, lw=1.3, label=f"{CLASSES[index]}: AUC {area:.4f}")
    axes.set(xlabel="false positive rate (log scale)", ylabel="true positive rate", xscale="symlog", xlim=(0, 1))
    axes.set_xscale("symlog", linthresh=1e-3)
    axes.set_title(f"ROC per class, {first.arm.label}")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def architecture(network: Network) -> Figure:
    """Draw the layers from input to logits, each with the shape that leaves it and its parameters."""
    placed = network.place()
    figure = Figure(figsize=(6, 0.34 * (len(placed) + 2)))
    axes = figure.subplots()
    shape = ", ".join(map(str, network.input_shape))
    rows = [("input", shape, PLAIN_COLOUR), *map(_box, placed)]
    for index, (name, text, colour) in enumerate(rows):
        axes.barh(-index, 1, 0.72, color=colour, edgecolor="black", lw=0.6)
        axes.text(0.02, -index, name, va="center", fontsize=8)
        axes.text(0.98, -index, text, va="center", ha="right", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(-len(rows) + 0.4, 0.6))
    axes.set_title(f"{network.name}: {network.parameters:,} parameters, {network.trainable_parameters:,} trainable")
    axes.set_axis_off()
    return figure


def _box(placed: PlacedLayer) -> tuple[str, str, str]:
    details = {
        "Conv2d": lambda layer: f" {layer.kernel_size}x{layer.kernel_size}",
        "Dropout": lambda layer: f" {layer.rate:g}",
        "MaxPool2d": lambda layer: f" {layer.size}x{layer.size}",
    }
    detail = details.get(placed.kind, lambda _: "")(placed.layer)
    parameters = f"{placed.parameters:,} parameters   " if placed.parameters else ""
    shape = ", ".join(map(str, placed.output_shape))
    return f"{placed.kind}{detail}", f"{parameters}({shape})", KIND_COLOURS.get(placed.kind, PLAIN_COLOUR)


def pages(
    model: Model,
    evaluations: list[Evaluation],
    history: list[Epoch],
    about: dict[str, Any],
    drawn: dict[str, str],
    data: str,
) -> dict[str, str]:
    """Return {file name: text} of report.md and report.html; `about` is what was stored of a training, or empty."""
    environment = template_environment()
    content = {
        "model": model,
        "about": about,
        "history": history,
        "evaluations": [each for each in evaluations if each.logits is not None],
        "left_out": [each for each in evaluations if each.logits is None],
        "warnings": [SYNTHETIC_WARNING] if "synthetic" in (data, model.metadata.get("data")) else [],
        "classes": CLASSES,
        "plots": inline(drawn),
        "stems": [name.removesuffix(".svg") for name in drawn],
    }
    return {
        name: environment.get_template(f"evaluation.{name.rpartition('.')[2]}").render(content)
        for name in (MARKDOWN, HTML)
    }
