"""A run under way: the models and data that every arm gets, where things are, and what has failed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.protocol import stacks
from bench.checks import MAX_FAILED_SHARE
from bench.launch import Unsupported, Worker, WorkerError
from bench.records import Failure
from models.weights import Weights, checkpoint_path, digest, initial_weights, load_weights, save_weights
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bench.journal import Journal
    from bench.plan import Plan
    from bench.progress import Steps
    from bench.records import Arm, Case

BUILD_TIMEOUT_S, PREDICT_TIMEOUT_S, SLICE_TIMEOUT_S = 600, 600, 60
UNTRAINED_SEED = 0
CLASSES = 10


@dataclass(frozen=True)
class Model:
    """A network with the weights that every arm loads."""

    weights: Weights
    file: Path
    trained: bool


def load_models(names: Sequence[str], scratch: Path) -> dict[str, Model]:
    """Load each network's trained checkpoint, or draw its initial weights where there is none yet."""
    models = {}
    for name in names:
        network, file = NETWORKS[name], checkpoint_path(NETWORKS[name])
        trained = file.exists()
        weights = load_weights(file, network) if trained else initial_weights(network, UNTRAINED_SEED)
        if not trained:
            file = scratch / f"{name}.safetensors"
            save_weights(file, weights, {})
        models[name] = Model(weights, file, trained)
    return models


def describe_models(models: dict[str, Model]) -> dict[str, Any]:
    """Return what run.json holds of each model: digests, and whether its weights are trained."""
    return {
        name: {"spec": NETWORKS[name].digest, "weights": digest(model.weights), "trained": model.trained}
        for name, model in models.items()
    }


def settings(threads: int) -> dict[str, str]:
    """Return the environment variables that every arm runs under, vanilla and Intel alike.

    Raised malloc thresholds keep freed activations mapped; bound OpenMP threads stay on their core.
    """
    common = {
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        "OMP_NUM_THREADS": str(threads),
        "OMP_DYNAMIC": "FALSE",
        "OMP_PROC_BIND": "close",
        "OMP_PLACES": "cores",
        "OPENBLAS_NUM_THREADS": str(threads),
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
    }
    return common | {name: value for stack in stacks().values() for name, value in stack.settings.items()}


def restart_settings() -> dict[str, str]:
    """Return what is added in the blocks, for every arm alike, to shorten the start of processes that were proven."""
    return {name: value for stack in stacks().values() for name, value in stack.restart_settings.items()}


@dataclass
class Rig:
    """A run under way: where things are, and what has failed."""

    plan: Plan
    folder: Path
    scratch: Path
    journal: Journal
    models: dict[str, Model]
    images: Path
    labels: NDArray[np.uint8]
    data: str
    steps: Steps
    oracle: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    proven: set[tuple[str, str]] = field(default_factory=set)
    failed_blocks: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def start(self, arm: Arm, caches: Path, extra: Mapping[str, str] | None = None) -> Worker:
        """Start a worker in the arm's environment; what it compiles is cached below `caches`."""
        log = self.folder / "logs" / f"{arm.slug}.log"
        variables = {name: str(caches / name.lower()) for name in stacks()[arm.stack].cache_variables}
        python = self.plan.environments[arm.stack].python
        return Worker(python, settings(self.plan.threads) | dict(extra or {}) | variables, log, self.scratch)

    def build_request(self, arm: Arm, case: Case) -> dict[str, Any]:
        """Return the arguments that build the arm's session."""
        return {
            "stack": arm.stack,
            "variant": arm.variant,
            "model": case.model,
            "precision": case.precision,
            "batch_size": case.batch_size,
            "threads": self.plan.threads,
            "weights": str(self.models[case.model].file),
            "images": str(self.images),
        }

    def fail(self, arm: Arm, case: Case, block: int | None, error: WorkerError) -> None:
        """Store that an arm could not be measured."""
        skipped = isinstance(error, Unsupported)
        self.journal.append(Failure(arm.id, case.id, block, str(error), skipped))
        if block is not None:
            self.failed_blocks[arm.id, case.id] += 1

    def gives_up(self, arm: Arm, case: Case) -> bool:
        """Tell whether an arm has failed in so many blocks that its result is withheld anyway."""
        return self.failed_blocks[arm.id, case.id] > max(1, MAX_FAILED_SHARE * self.plan.preset.blocks)


def predict(rig: Rig, worker: Worker, images: int) -> NDArray[np.float32]:
    """Return a worker's logits of the first test images, shape (images, classes).

    Raises WorkerError when it counted other images, or when the logits are not finite numbers of that shape.
    """
    file = rig.scratch / "logits.npy"
    try:
        counted = worker.request("predict", PREDICT_TIMEOUT_S, images=images, file=str(file))["images"]
        logits: NDArray[np.float32] = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise WorkerError(f"wrote no logits ({error})") from error
    finally:
        file.unlink(missing_ok=True)
    finite = bool(np.isfinite(logits).all())
    if (counted, logits.shape, finite) != (images, (images, CLASSES), True):
        raise WorkerError(f"proof failed: {counted} images, logits of shape {logits.shape}, all finite: {finite}")
    return logits


def read_back(rig: Rig, worker: Worker, case: Case) -> dict[str, Any]:
    """Return what a worker proves of itself.

    Raises WorkerError when it can't, or when it ran at another precision or with other threads than was asked.
    """
    evidence = worker.request("prove", PREDICT_TIMEOUT_S)
    if not evidence.keys() >= {"precision", "threads", "kernels", "versions"}:
        raise WorkerError("proof failed: it is not complete")
    for what, asked in (("precision", case.precision), ("threads", rig.plan.threads)):
        if evidence[what] != asked:
            raise WorkerError(f"proof failed: {what} read back as {evidence[what]}, asked for {asked}")
    return evidence


def compare(ours: NDArray[Any], theirs: NDArray[Any]) -> tuple[float, float]:
    """Return the largest absolute difference of two arrays of logits, and the share of equal labels."""
    difference = float(np.abs(ours.astype(np.float64) - theirs).max())
    return difference, float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())
