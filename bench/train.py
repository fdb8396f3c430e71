"""Train a model in a stack's environment and save its weights."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import settings
from bench.errors import UserError
from bench.launch import Worker, WorkerError
from bench.progress import duration, steps
from bench.records import DEFAULT_SETTINGS
from bench.rig import BUILD_TIMEOUT_S
from bench.stacks import MissingEnvironmentError, environment_of
from models import oracle
from models.data import standardise
from models.weights import initial_weights, load_weights, save_weights
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from rich.console import Console

    from backends.protocol import Stack
    from models.data import DataSet
    from models.recipes import Recipe
    from models.spec import Network
    from models.weights import Weights

EPOCH_TIMEOUT_S = 3600


@dataclass(frozen=True)
class Job:
    """What to train: a recipe on a stack, and where to save the weights."""

    recipe: Recipe
    stack: Stack
    epochs: int
    seed: int
    threads: int
    data: DataSet
    output: Path

    @property
    def network(self) -> Network:
        """Return the recipe's network."""
        return NETWORKS[self.recipe.network]


def train(job: Job, console: Console) -> None:
    """Train and save; raises UserError when the stack is missing, does not train, or diverges."""
    try:
        environment = environment_of(job.stack)
    except MissingEnvironmentError as error:
        raise UserError(str(error)) from error
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        scratch = Path(name)
        try:
            with Worker(environment.python, _variables(job), scratch / "log", scratch) as worker:
                loss = _train(job, worker.wait_until_ready(), scratch, console)
        except WorkerError as error:
            raise UserError(f"training {job.recipe.name} on {job.stack.name} failed: {error}") from error
        weights = load_weights(scratch / "weights.safetensors", job.network)
    accuracy = _accuracy(job, weights)
    save_weights(job.output, weights, _metadata(job, loss, accuracy))
    console.print(
        f"{job.output}: test accuracy {accuracy:.2%} on {job.data.name}", markup=False, highlight=False, soft_wrap=True
    )


def _variables(job: Job) -> dict[str, str]:
    return settings.variables(DEFAULT_SETTINGS, job.threads)


def _train(job: Job, worker: Worker, scratch: Path, console: Console) -> float:
    """Run the epochs and return the last one's mean loss; the weights lie in `scratch` afterwards."""
    np.save(scratch / "images.npy", job.data.train_images, allow_pickle=False)
    np.save(scratch / "labels.npy", job.data.train_labels, allow_pickle=False)
    file, loss = scratch / "weights.safetensors", math.nan
    save_weights(file, initial_weights(job.network, job.seed), {})
    worker.request(
        "train",
        BUILD_TIMEOUT_S,
        stack=job.stack.name,
        recipe=job.recipe.name,
        model=job.network.name,
        threads=job.threads,
        seed=job.seed,
        weights=str(file),
        images=str(scratch / "images.npy"),
        labels=str(scratch / "labels.npy"),
    )
    batches = math.ceil(len(job.data.train_labels) / job.recipe.batch_size)
    with steps(console, job.epochs) as progress:
        for epoch in range(job.epochs):
            rates = learning_rates(job.recipe, epoch, job.epochs, batches)
            answer = worker.request(
                "epoch", EPOCH_TIMEOUT_S, seed=job.seed + epoch, learning_rates=rates, file=str(file)
            )
            loss = _finite(answer["loss"], epoch)
            took = duration(answer["wall_ns"] / 1e9)
            progress.step(1, f"epoch {epoch + 1} of {job.epochs}: loss {loss:.4f}, {took}")
    return loss


def learning_rates(recipe: Recipe, epoch: int, epochs: int, batches: int) -> list[float]:
    """Return the learning rate of each step of an epoch: constant, or half a cosine over all epochs."""
    if not recipe.cosine:
        return [recipe.learning_rate] * batches
    steps_before, total = epoch * batches, epochs * batches
    return [
        recipe.learning_rate * (1 + math.cos(math.pi * (steps_before + step) / total)) / 2 for step in range(batches)
    ]


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise WorkerError(f"diverged in epoch {epoch + 1}: the loss is {loss}")
    return loss


def _accuracy(job: Job, weights: Weights) -> float:
    """Return the top-1 accuracy on the test images, by the oracle."""
    images = standardise(job.network, job.data.test_images)
    labels = oracle.logits(job.network, weights, images).argmax(axis=1)
    return float((labels == job.data.test_labels).mean())


def _metadata(job: Job, loss: float, accuracy: float) -> dict[str, str]:
    facts: dict[str, Any] = {
        "recipe": job.recipe.name,
        "network": job.network.name,
        "spec": job.network.digest,
        "stack": job.stack.name,
        "epochs": job.epochs,
        "seed": job.seed,
        "data": job.data.name,
        "data_digest": job.data.digest,
        "final_loss": f"{loss:.6f}",
        "test_accuracy": f"{accuracy:.4f}",
    }
    return {name: str(value) for name, value in facts.items()}
