"""A trained model's evaluation as a document, and as CSV files."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.codec import encode
from bench.machine.facts import instruction_sets
from bench.machine.microarchitecture import instructions
from bench.report.document import Column, Document, Paragraph, Plot, Section, table, with_drawn_plots
from bench.report.page.html import drawable, plot_files, to_html
from bench.report.plots.training_plots import evaluation_plots
from bench.report.text import number, number4, percent, variable_lines
from bench.report.writers import to_csv, to_markdown
from bench.suite.user_variables import usable_instruction_sets
from bench.training.cost import cost_of, target_text
from models.data import CLASSES, SYNTHETIC_WARNING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet

    from bench.report.document import Element
    from bench.suite.user_variables import UserVariables
    from bench.training.evaluate import Evaluation
    from bench.training.history import Epoch, TrainingRecord
    from bench.training.model_file import ModelFile

# A row of a classification report: the class or average, and its figures.
Figures = dict[str, Any]


@dataclass(frozen=True)
class EvaluatedModel:
    """A model file and its evaluations on the data of this name.

    `record` and `history` are those of the training, None and empty for a file of another origin. `variables` are those
    of the user at the evaluation.
    """

    model: ModelFile
    evaluations: list[Evaluation]
    data: str
    variables: UserVariables
    history: list[Epoch] = field(default_factory=list)
    record: TrainingRecord | None = None

    @property
    def successful(self) -> list[Evaluation]:
        return [evaluation for evaluation in self.evaluations if evaluation.logits is not None]


def render_evaluation(evaluated: EvaluatedModel) -> tuple[dict[str, str], dict[str, str]]:
    """Return the texts and the plots of an evaluation by file name."""
    plots, missing = drawable(evaluation_plots(evaluated.model, evaluated.evaluations, evaluated.history))
    page = _document(evaluated, set(plots), missing)
    texts = _csv_files(evaluated)
    return texts | {"report.md": to_markdown(page), "report.html": to_html(page, plots)}, plot_files(page, plots)


def _document(evaluated: EvaluatedModel, plots: AbstractSet[str], missing: Sequence[str]) -> Document:
    model, network, record = evaluated.model, evaluated.model.network, evaluated.record
    sections = [
        _comparison(evaluated.successful, evaluated.variables),
        _training(evaluated.history, record),
        Section("Architecture", (Plot("architecture", f"Layers of {network.name}"),)),
    ]
    warnings = [SYNTHETIC_WARNING] if "synthetic" in (evaluated.data, model.metadata.get("data")) else []
    warnings += [
        f"Not evaluated: {evaluation.arm.label}: {evaluation.reason}"
        for evaluation in evaluated.evaluations
        if evaluation.logits is None
    ]
    return Document(
        title=network.name + (f", recipe {record.job.recipe.name}" if record else ""),
        lead=f"{network.summary}; {network.parameters:,} parameters. File: {model.path.name}.",
        warnings=(*warnings, *missing),
        sections=tuple(with_drawn_plots(section, plots) for section in sections if section),
    )


def _figure(name: str, title: str, digits: int = 4) -> Column[Figures]:
    return Column(name, lambda row: row[name], title, lambda value: f"{value:.{digits}f}")


FIGURES = (
    _figure("precision", "Precision"),
    _figure("recall", "Recall"),
    _figure("f1", "F1"),
    _figure("iou", "IoU"),
    _figure("auc", "AUC", 5),
)
SUPPORT: Column[Figures] = Column("support", lambda row: row["support"], "Support")


def macro_columns(variables: UserVariables, prefix: str = "") -> list[Column[Evaluation]]:
    """Return the columns that compare arms by their macro averages, with a prefix to their titles."""
    usable_sets = usable_instruction_sets(instruction_sets() or (), variables.given)

    def macro(column: Column[Figures]) -> Column[Evaluation]:
        title = f"{prefix}{column.title}"
        return Column("", lambda evaluation: column.value(evaluation.macro_average), title, column.show)

    def ran(evaluation: Evaluation) -> str:
        if (proof := evaluation.proof) is None:
            return ""
        return ", ".join(filter(None, (proof.precision, instructions(proof.kernels, proof.precision, usable_sets))))

    return [
        Column("", lambda evaluation: evaluation.arm.label, "Arm", numeric=False),
        Column("", ran, "Read back", numeric=False),
        Column("", lambda evaluation: evaluation.accuracy, "Accuracy", percent),
        *map(macro, FIGURES),
    ]


def _comparison(evaluations: list[Evaluation], variables: UserVariables) -> Section | None:
    if not evaluations:
        return None
    class_columns: list[Column[Figures]] = [
        Column("", lambda row: row["class"], "Class", numeric=False),
        *FIGURES[:3],
        SUPPORT,
        *FIGURES[3:],
    ]
    classes = [
        Section(evaluation.arm.label, (table(evaluation.classification, class_columns),)) for evaluation in evaluations
    ]
    comparison = table(evaluations, macro_columns(variables, "Macro "))
    return Section(
        "With and without optimisation",
        (
            comparison,
            Paragraph("Each arm has proved its outputs, its precision and its number of threads."),
            *(Paragraph(f"{line}.") for line in variable_lines(variables)),
            Plot("classes", "F1 and IoU of each class"),
            *classes,
            Plot("confusion", "Confusion matrices"),
            Plot("roc", "ROC curves"),
        ),
    )


def _training(history: list[Epoch], record: TrainingRecord | None) -> Section | None:
    if not history:
        return None
    columns: list[Column[Epoch]] = [
        Column("", lambda epoch: epoch.epoch, "Epoch"),
        Column("", lambda epoch: epoch.learning_rate, "Learning rate", number),
        Column("", lambda epoch: epoch.result.loss, "Loss", number4),
        Column("", lambda epoch: epoch.test_accuracy, "Test accuracy", percent),
        Column("", lambda epoch: epoch.test_loss, "Test loss", number4),
        Column("", lambda epoch: epoch.validation_accuracy, "Held-out accuracy", percent),
        Column("", lambda epoch: epoch.validation_loss, "Held-out loss", number4),
        Column("", lambda epoch: epoch.result.wall_ns / 1e9, "Time, s", number),
        Column("", lambda epoch: epoch.result.cpu_ns / 1e9, "CPU time, s", number),
        Column("", lambda epoch: epoch.result.wait_ns / epoch.result.wall_ns, "Waiting", percent),
    ]
    blocks: list[Element] = []
    if record:
        job = record.job
        target = job.recipe.target
        reached = "" if target is None else f" {target_text(target, history).capitalize()}."
        blocks.append(
            Paragraph(
                f"""{job.recipe.summary}. Trained on {job.stack}/{job.variant} in {job.precision}, seed {job.seed},
                {job.threads} threads: {len(history)} epochs of {history[-1].result.images} images.
                Cost: {cost_of(history).text}.{reached}"""
            )
        )
    return Section(
        "Training",
        (
            *blocks,
            Plot("learning-curves", "Loss, accuracy and learning rate by epoch"),
            table(history, columns, folded="Every epoch"),
        ),
    )


def _csv_files(evaluated: EvaluatedModel) -> dict[str, str]:
    def of_arm(key: str, value: Callable[[Any], Any]) -> Column[tuple[Evaluation, Any]]:
        return Column(key, lambda row: value(row[1]))

    arm: list[Column[tuple[Evaluation, Any]]] = [
        Column("stack", lambda row: row[0].arm.stack),
        Column("variant", lambda row: row[0].arm.variant),
        Column("precision", lambda row: row[0].arm.precision),
    ]
    evaluations = evaluated.successful
    classes = [(evaluation, row) for evaluation in evaluations for row in evaluation.classification]
    confusion = [(evaluation, item) for evaluation in evaluations for item in np.ndenumerate(evaluation.confusion)]
    roc = [
        (evaluation, (index, false, true))
        for evaluation in evaluations
        for index, (false_rates, true_rates, _) in enumerate(evaluation.curves)
        for false, true in zip(false_rates, true_rates, strict=True)
    ]
    epochs: list[dict[str, Any]] = list(map(encode, evaluated.history))
    files = {
        "classification.csv": to_csv(
            classes,
            [
                # The later of two columns with one key is written: here the class's precision, not the arm's.
                *arm,
                of_arm("class", lambda row: row["class"]),
                *(of_arm(column.key, column.value) for column in (*FIGURES, SUPPORT)),
                Column("accuracy", lambda row: row[0].accuracy),
                Column("data", lambda _: evaluated.data),
                Column("precision_read_back", lambda row: row[0].proof.precision if row[0].proof else None),
            ],
        ),
        "confusion.csv": to_csv(
            confusion,
            [
                *arm,
                of_arm("actual", lambda item: CLASSES[item[0][0]]),
                of_arm("predicted", lambda item: CLASSES[item[0][1]]),
                of_arm("images", lambda item: int(item[1])),
            ],
        ),
        "roc.csv": to_csv(
            roc,
            [
                *arm,
                of_arm("class", lambda point: CLASSES[point[0]]),
                of_arm("false_positive_rate", lambda point: float(point[1])),
                of_arm("true_positive_rate", lambda point: float(point[2])),
            ],
        ),
        "history.csv": to_csv(epochs, [Column(name, itemgetter(name)) for name in epochs[0]] if epochs else []),
    }
    return {name: text for name, text in files.items() if text}
