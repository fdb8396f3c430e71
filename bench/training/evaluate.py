"""Evaluate a trained model on the test images, on each of several arms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.registry import stacks
from bench.analysis import gates
from bench.engine.files import CALIBRATION, IMAGES, Source, convert, lay_out_images, needs_conversion
from bench.engine.proof.evidence import combined_proof, compare, output_fault
from bench.engine.workers import Worker, WorkerError
from bench.machine.facts import instruction_sets
from bench.processes.scratch import scratch_folder
from bench.suite.arms import LATENCY, Arm, Case
from bench.suite.environments import MissingEnvironmentError, environment_of, is_installed
from bench.suite.plan import obstacle
from bench.suite.variables import arm_variables
from bench.worker.messages import Build, Predict, Prove
from models import oracle
from models.data import CLASSES, standardise
from models.errors import UserError
from models.weights import digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from bench.training.model_file import ModelFile
    from bench.worker.messages import ProofReply
    from models.data import DataSet

EVALUATION_BATCH_SIZE = 100
EVALUATION_TIMEOUT_S = 1800
# How many points of each ROC curve are stored.
ROC_POINTS = 200
# Larger logits have proportionally larger rounding errors; ours are smaller.
LARGE_LOGIT = 100.0


@dataclass(frozen=True)
class Evaluation:
    """An arm's logits of the test images, or the reason why it has none, with scikit-learn's metrics of them.

    `proof` is what was read back of the process that computed them.
    """

    arm: Arm
    logits: NDArray[np.float64] | None
    truth: NDArray[np.int64]
    reason: str = ""
    proof: ProofReply | None = None

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The predicted class of each image."""
        labels: NDArray[np.int64] = self._logits.argmax(axis=1)
        return labels

    @property
    def _logits(self) -> NDArray[np.float64]:
        if self.logits is None:
            raise UserError(f"{self.arm.label} was not evaluated: {self.reason}")
        return self.logits

    @property
    def accuracy(self) -> float:
        return float((self.labels == self.truth).mean())

    @cached_property
    def classification(self) -> list[dict[str, Any]]:
        """Precision, recall, F1, support, Jaccard index (IoU) and AUC of each class, then their averages."""
        from sklearn.metrics import jaccard_score, precision_recall_fscore_support

        indices = range(len(CLASSES))
        options: dict[str, Any] = {"labels": list(indices), "zero_division": 0}
        precision, recall, f1, support = precision_recall_fscore_support(self.truth, self.labels, **options)
        jaccard = jaccard_score(self.truth, self.labels, average=None, **options)
        areas = np.array([area for _, _, area in self.curves])
        columns = {"precision": precision, "recall": recall, "f1": f1, "iou": jaccard, "auc": areas}
        rows = [
            {"class": CLASSES[index]}
            | {name: float(values[index]) for name, values in columns.items()}
            | {"support": int(support[index])}
            for index in indices
        ]
        weights = {
            "macro average": np.full(len(CLASSES), 1 / len(CLASSES)),
            "weighted average": support / support.sum(),
        }
        averages = [
            {"class": name}
            | {column: float(values @ weight) for column, values in columns.items()}
            | {"support": int(support.sum())}
            for name, weight in weights.items()
        ]
        return rows + averages

    @property
    def macro_average(self) -> dict[str, Any]:
        """The unweighted mean of each metric over the classes."""
        *_, macro, _ = self.classification
        return macro

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """The number of images of each class (rows) that were predicted as each class (columns)."""
        from sklearn.metrics import confusion_matrix

        matrix: NDArray[np.int64] = confusion_matrix(self.truth, self.labels, labels=list(range(len(CLASSES))))
        return matrix

    @cached_property
    def curves(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64], float]]:
        """The ROC curve of each class against all others: false and true positive rates, and the area under it."""
        from sklearn.metrics import auc, roc_curve

        shifted = np.exp(self._logits - self._logits.max(axis=1, keepdims=True))
        scores = shifted / shifted.sum(axis=1, keepdims=True)
        curves = []
        for index in range(len(CLASSES)):
            if not (self.truth == index).any():
                # A class without images has no curve.
                curves.append((np.zeros(1), np.zeros(1), float("nan")))
                continue
            false, true, _ = roc_curve(self.truth == index, scores[:, index])
            stored = np.unique(np.linspace(0, len(false) - 1, ROC_POINTS).astype(int))
            curves.append((false[stored], true[stored], float(auc(false, true))))
        return curves


def default_arms() -> list[Arm]:
    """Return the default variant of each stack with an installed environment, upgrades of other stacks left out."""
    candidates = [stack for stack in stacks().values() if stack.environment and not stack.upgrade_of]
    return [
        Arm(stack.name, stack.default_variant) for stack in candidates if stack.default_variant and is_installed(stack)
    ]


def evaluate_arms(
    model: ModelFile, arms: list[Arm], data: DataSet, threads: int, given: Mapping[str, str]
) -> list[Evaluation]:
    """Evaluate each arm, with the variables that the user has `given`; an arm that can't be evaluated has the reason.

    Each process proves its outputs, precision and threads as in a run.
    """
    truth = data.test_labels.astype(np.int64)
    images = standardise(model.network, data.test_images[: gates.CHECK_IMAGES])
    reference = oracle.logits(model.network, model.weights, images)
    evaluations = []
    with scratch_folder() as scratch:
        lay_out_images(data, scratch)
        for arm in arms:
            try:
                logits, proof = _predict(model, arm, len(truth), threads, scratch, given)
                _require_outputs(arm, logits[: len(reference)], reference)
                evaluation = Evaluation(arm, logits, truth, proof=proof)
            except (WorkerError, MissingEnvironmentError) as error:
                evaluation = Evaluation(arm, None, truth, str(error))
            evaluations.append(evaluation)
    return evaluations


def _require_outputs(arm: Arm, logits: NDArray[np.float64], reference: NDArray[np.float64]) -> None:
    """Raise WorkerError unless logits are those of the network, at the arm's precision."""
    difference, agreement = compare(logits, reference)
    scale = max(1.0, float(np.abs(reference).max()) / LARGE_LOGIT)
    if fault := output_fault(arm.precision, difference / scale, agreement):
        raise WorkerError(f"proof failed: {fault}")


def _predict(
    model: ModelFile, arm: Arm, images: int, threads: int, scratch: Path, given: Mapping[str, str]
) -> tuple[NDArray[np.float64], ProofReply]:
    """Return an arm's logits of the test images and its proof; raises WorkerError or MissingEnvironmentError."""
    if reason := obstacle(arm, {}, instruction_sets(), given):
        raise WorkerError(reason)
    environment = environment_of(stacks()[arm.stack])
    case = Case(model.network.name, LATENCY, EVALUATION_BATCH_SIZE)
    file, log, weights = scratch / "logits.npy", scratch / f"{arm.slug}.log", scratch / "model.safetensors"
    model.save(weights)
    files = None
    if needs_conversion(arm):
        source = Source(model.network.name, model.network.digest, digest(model.weights), weights, scratch / CALIBRATION)
        files = str(convert(arm, environment, source, threads, log, scratch, given).folder)
    build = Build(
        case=case.id,
        stack=arm.stack,
        variant=arm.variant,
        model=case.model,
        precision=arm.precision,
        batch_size=case.batch_size,
        threads=threads,
        cores=None,
        weights=str(weights),
        images=str(scratch / IMAGES),
        calibration=str(scratch / CALIBRATION),
        files=files,
    )
    with Worker(environment.python, arm_variables(arm, threads, scratch, given), log, scratch) as worker:
        worker.wait_until_ready().request(build, EVALUATION_TIMEOUT_S)
        worker.request(Predict(case.id, images, str(file)), EVALUATION_TIMEOUT_S)
        reply = worker.request(Prove(case.id), EVALUATION_TIMEOUT_S)
    logits: NDArray[np.float64] = np.load(file, allow_pickle=False).astype(np.float64)
    if not np.isfinite(logits).all():
        raise WorkerError("its logits are not all finite numbers")
    return logits, combined_proof([reply], arm, threads, given)
