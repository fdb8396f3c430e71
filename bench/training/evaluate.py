"""Judge a trained model on the test images: by arm, so that it stands with and without optimisation side by side."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.registry import stacks
from bench.engine.files import CALIBRATION, IMAGES, Source, convert, lay_out_images, needs_conversion
from bench.engine.session import build_request
from bench.engine.workers import Worker, WorkerError
from bench.suite import variables as settings
from bench.suite.arms import LATENCY, Arm, Case
from bench.suite.environments import MissingEnvironmentError, environment_of, is_installed
from bench.suite.parse import load_suite
from models.data import CLASSES
from models.errors import UserError
from models.weights import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.training.model_file import Model
    from models.data import DataSet

BATCH_SIZE = 100
TIMEOUT_S = 1800
ROC_POINTS = 200  # of each curve that are stored


@dataclass(frozen=True)
class Evaluation:
    """An arm's logits of the test images, or why it has none, and what follows from them by scikit-learn."""

    arm: Arm
    logits: NDArray[np.float64] | None
    truth: NDArray[np.int64]
    reason: str = ""

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Return the predicted class of each image."""
        labels: NDArray[np.int64] = self._found.argmax(axis=1)
        return labels

    @property
    def _found(self) -> NDArray[np.float64]:
        if self.logits is None:
            raise UserError(f"{self.arm.label} was not evaluated: {self.reason}")
        return self.logits

    @property
    def accuracy(self) -> float:
        """Return the top-1 accuracy."""
        return float((self.labels == self.truth).mean())

    @cached_property
    def classification(self) -> list[dict[str, Any]]:
        """Return precision, recall, F1, support, Jaccard index (IoU) and AUC per class, and their averages."""
        from sklearn.metrics import jaccard_score, precision_recall_fscore_support

        every = range(len(CLASSES))
        options: dict[str, Any] = {"labels": list(every), "zero_division": 0}
        precision, recall, f1, support = precision_recall_fscore_support(self.truth, self.labels, **options)
        jaccard, curves = jaccard_score(self.truth, self.labels, average=None, **options), self.curves
        columns = {"precision": precision, "recall": recall, "f1": f1, "iou": jaccard,
                   "auc": np.array([curves[each][2] for each in every])}  # fmt: skip
        rows = [
            {"class": CLASSES[each]} | {name: float(values[each]) for name, values in columns.items()}
            | {"support": int(support[each])}
            for each in every
        ]  # fmt: skip
        weights = {
            "macro average": np.full(len(CLASSES), 1 / len(CLASSES)),
            "weighted average": support / support.sum(),
        }
        averages = [
            {"class": name} | {column: float(values @ weight) for column, values in columns.items()}
            | {"support": int(support.sum())}
            for name, weight in weights.items()
        ]  # fmt: skip
        return rows + averages

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Return how many images of each class (rows) were taken for each (columns)."""
        from sklearn.metrics import confusion_matrix

        matrix: NDArray[np.int64] = confusion_matrix(self.truth, self.labels, labels=list(range(len(CLASSES))))
        return matrix

    @cached_property
    def curves(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64], float]]:
        """Return each class's ROC curve, against all others: false and true positive rates, area under it."""
        from sklearn.metrics import auc, roc_curve

        shifted = np.exp(self._found - self._found.max(axis=1, keepdims=True))
        scores = shifted / shifted.sum(axis=1, keepdims=True)
        found = []
        for each in range(len(CLASSES)):
            if not (self.truth == each).any():  # no curve without an image of the class
                found.append((np.zeros(1), np.zeros(1), float("nan")))
                continue
            false, true, _ = roc_curve(self.truth == each, scores[:, each])
            area = float(auc(false, true))
            chosen = np.unique(np.linspace(0, len(false) - 1, ROC_POINTS).astype(int))
            found.append((false[chosen], true[chosen], area))
        return found


def default_arms() -> list[Arm]:
    """Return each installed stack's way as people write it, or the extension's best: those of the suite inference."""
    suite = load_suite("inference")
    first = {arm.stack: arm for arm in reversed(suite.baselines)}
    arms = [Arm(arm.stack, arm.variant) for arm in (*reversed(first.values()), *suite.primary)]
    return [arm for arm in arms if is_installed(stacks()[arm.stack])]


def evaluate(model: Model, arms: list[Arm], data: DataSet, threads: int) -> list[Evaluation]:
    """Return each arm's evaluation; one that can't be made says why."""
    truth = data.test_labels.astype(np.int64)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        scratch = Path(name)
        lay_out_images(data, scratch)
        found = []
        for arm in arms:
            try:
                found.append(Evaluation(arm, _logits(model, arm, len(truth), threads, scratch), truth))
            except (WorkerError, MissingEnvironmentError) as error:
                found.append(Evaluation(arm, None, truth, str(error)))
        return found


def _logits(model: Model, arm: Arm, images: int, threads: int, scratch: Path) -> NDArray[np.float64]:
    """Return an arm's logits of the test images; raises WorkerError or MissingEnvironmentError."""
    environment, case = environment_of(stacks()[arm.stack]), Case(model.network.name, LATENCY, BATCH_SIZE)
    file, log, converted = scratch / "logits.npy", scratch / f"{arm.slug}.log", None
    weights, calibration = model.path.absolute(), scratch / CALIBRATION
    if needs_conversion(arm):
        source = Source(model.network.name, model.network.digest, digest(model.weights), weights, calibration)
        converted = convert(arm, environment, source, threads, log, scratch)
    variables = settings.of_process(arm, threads, scratch)
    request = build_request(arm, case, (weights, scratch / IMAGES, calibration), converted)
    request |= {"threads": threads, "cores": None}
    with Worker(environment.python, variables, log, scratch) as worker:
        worker.wait_until_ready().request("build", TIMEOUT_S, **request)
        worker.request("predict", TIMEOUT_S, case=case.id, images=images, file=str(file))
    found: NDArray[np.float64] = np.load(file, allow_pickle=False).astype(np.float64)
    if not np.isfinite(found).all():
        raise WorkerError("its logits are not all finite numbers")
    return found
