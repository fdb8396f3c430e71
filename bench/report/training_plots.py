"""The plots of a trained model and of a hyper-parameter search."""

from __future__ import annotations

from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from bench.report.plot_style import COLOURS, LINES, draw_all, plain_numbers
from models.data import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.report.document import Drawn
    from bench.training.evaluate import Evaluation
    from bench.training.history import Epoch
    from bench.training.model_file import ModelFile
    from bench.training.tune import Trained
    from models.spec import Network, PlacedLayer

KIND_COLOURS = {
    "Conv2d": "#56B4E9", "Dense": "#E69F00", "BatchNorm": "#CC79A7", "MaxPool2d": "#009E73", "Dropout": "#F0E442",
}  # fmt: skip
PLAIN_COLOUR = "#EEEEEE"
# Confusion matrices in a row.
PANELS = 3


def evaluation_plots(model: ModelFile, evaluations: list[Evaluation], history: list[Epoch]) -> Drawn:
    """Draw every plot for which there is something to show."""
    evaluated = [evaluation for evaluation in evaluations if evaluation.logits is not None]
    plots: dict[str, Callable[[], Figure]] = {"architecture.svg": partial(architecture, model.network)}
    if history:
        plots["learning-curves.svg"] = partial(learning_curves, history)
    if evaluated:
        plots |= {
            "classes.svg": partial(classes, evaluated),
            "confusion.svg": partial(confusion, evaluated),
            "roc.svg": partial(roc, evaluated),
        }
    return draw_all(plots)


def learning_curves(history: list[Epoch]) -> Figure:
    figure = Figure(figsize=(8.5, 3.2))
    loss, accuracy, rate = figure.subplots(1, 3)
    epochs = [epoch.epoch for epoch in history]
    held_out = [epoch for epoch in history if epoch.validation_loss is not None]
    loss.plot(epochs, [epoch.result.loss for epoch in history], "o-", color=COLOURS[0], ms=3, label="training")
    loss.plot(epochs, [epoch.test_loss for epoch in history], "s--", color=COLOURS[1], ms=3, label="test")
    accuracy.plot(epochs, [epoch.test_accuracy * 100 for epoch in history], "s--", color=COLOURS[1], ms=3, label="test")
    if held_out:
        places = [epoch.epoch for epoch in held_out]
        loss.plot(places, [epoch.validation_loss for epoch in held_out], "^:", color=COLOURS[2], ms=3, label="held out")
        shares = [(epoch.validation_accuracy or 0.0) * 100 for epoch in held_out]
        accuracy.plot(places, shares, "^:", color=COLOURS[2], ms=3, label="held out")
    rate.plot(epochs, [epoch.learning_rate for epoch in history], "o-", color=COLOURS[0], ms=3)
    loss.set(title="mean loss", xlabel="epoch")
    accuracy.set(title="accuracy, %", xlabel="epoch")
    rate.set(title="learning rate at the epoch's start", xlabel="epoch", ylim=(0, None))
    for axes in (loss, accuracy, rate):
        axes.xaxis.get_major_locator().set_params(integer=True)
    loss.legend(frameon=False, fontsize=8)
    accuracy.legend(frameon=False, fontsize=8)
    return figure


def classes(evaluations: list[Evaluation]) -> Figure:
    """Draw F1 and IoU of each class, with the arms side by side."""
    figure = Figure(figsize=(8.5, 3.4))
    width = 0.8 / len(evaluations)
    for axes, column, title in zip(figure.subplots(1, 2, sharey=True), ("f1", "iou"), ("F1", "IoU"), strict=True):
        for index, (evaluation, colour) in enumerate(zip(evaluations, cycle(COLOURS))):
            values = [row[column] for row in evaluation.classification[: len(CLASSES)]]
            places = np.arange(len(CLASSES)) + (index - (len(evaluations) - 1) / 2) * width
            axes.bar(places, values, width, color=colour, label=evaluation.arm.label)
        axes.set(title=f"{title} per class", xticks=range(len(CLASSES)), ylim=(0, 1))
        axes.set_xticklabels(CLASSES, rotation=45, ha="right")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=7.5)
    return figure


def confusion(evaluations: list[Evaluation]) -> Figure:
    """Draw the confusion matrix of each arm; the diagonal is not coloured."""
    rows = -(-len(evaluations) // PANELS)
    figure = Figure(figsize=(11, 4.1 * rows))
    grid = figure.subplots(rows, PANELS, squeeze=False)
    for axes in grid.flat[len(evaluations) :]:
        axes.set_axis_off()
    for axes, evaluation in zip(grid.flat, evaluations, strict=False):
        wrong = evaluation.confusion * (1 - np.eye(len(CLASSES), dtype=int))
        axes.imshow(wrong, cmap="Oranges")
        for (row, column), count in np.ndenumerate(evaluation.confusion):
            if count:
                axes.text(column, row, count, ha="center", va="center", fontsize=6)
        axes.set(title=f"{evaluation.arm.label}: {evaluation.accuracy:.2%}", xlabel="predicted", ylabel="actual")
        axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=90, fontsize=7)
        axes.set_yticks(range(len(CLASSES)), CLASSES, fontsize=7)
        axes.grid(visible=False)
    return figure


def roc(evaluations: list[Evaluation]) -> Figure:
    """Draw the ROC curve of each class for the first arm, with the areas in the legend."""
    figure = Figure(figsize=(8.5, 4))
    axes = figure.subplots()
    first = evaluations[0]
    for index, (colour, (false, true, area)) in enumerate(zip(cycle(COLOURS), first.curves)):
        style = LINES[index // len(COLOURS)]
        axes.plot(false, true, style, color=colour, lw=1.3, label=f"{CLASSES[index]}: AUC {area:.4f}")
    axes.set(xlabel="false positive rate (log scale)", ylabel="true positive rate", xscale="symlog", xlim=(0, 1))
    axes.set_xscale("symlog", linthresh=1e-3)
    plain_numbers(axes.xaxis)
    axes.set_title(f"ROC per class, {first.arm.label}")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def architecture(network: Network) -> Figure:
    """Draw the layers from input to logits, each with its output shape and parameters."""
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


def trials_plot(trained: Sequence[Trained]) -> Figure:
    """Draw the held-out accuracy by trial, with the best so far, and by each setting."""
    accuracies = [trial.accuracy * 100 for trial in trained]
    names = list(trained[0].settings)
    figure = Figure(figsize=(3.0 * (len(names) + 1), 3.2))
    first, *others = figure.subplots(1, len(names) + 1, sharey=True, squeeze=False)[0]
    numbers = [trial.number for trial in trained]
    first.plot(numbers, accuracies, "o", color=COLOURS[0], ms=4)
    first.plot(numbers, np.maximum.accumulate(accuracies), "-", color=COLOURS[1])
    first.set(xlabel="trial", ylabel="held-out accuracy, %", title="line: best so far")
    for axes, name in zip(others, names, strict=True):
        axes.plot([trial.settings[name] for trial in trained], accuracies, "o", color=COLOURS[0], ms=4)
        axes.set(xlabel=name.replace("_", " "), xscale="log")
        plain_numbers(axes.xaxis)
    return figure
