"""Train a model in a stack's environment, epoch by epoch, into a folder from which it can be resumed."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.console import duration, steps
from bench.engine.workers import Worker, WorkerError
from bench.journal import write_whole
from bench.suite import variables as settings
from bench.suite.arms import Arm
from bench.suite.environments import environment_of
from bench.training.course import Epoch, is_over, kept_epoch, validation_losses
from models.data import split
from models.errors import UserError
from models.learning_rate import learning_rates
from models.weights import initial_weights, load_arrays, read_metadata, save_weights
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from rich.console import Console

    from backends.protocol import Stack
    from bench.suite.environments import Environment
    from models.data import DataSet
    from models.recipes import Recipe
    from models.spec import Network

BUILD_TIMEOUT_S, EVALUATE_TIMEOUT_S, EPOCH_TIMEOUT_S = 600, 1800, 24 * 3600
SCHEMA = 1
TRAINING, HISTORY, MODEL = "training.json", "history.json", "model.safetensors"
CHECKPOINT = "checkpoint.safetensors"  # weights, the best of them, the optimiser's state and all epochs, in one file


@dataclass(frozen=True)
class Job:
    """What to train: a recipe on a stack, in one variant and precision."""

    recipe: Recipe
    stack: Stack
    variant: str
    precision: str
    epochs: int
    seed: int
    threads: int
    data: DataSet

    @property
    def network(self) -> Network:
        """Return the recipe's network."""
        return NETWORKS[self.recipe.network]

    @property
    def identity(self) -> dict[str, Any]:
        """Return what an interrupted training must have in common with the one that continues it."""
        return {
            "recipe": asdict(self.recipe),
            "network": self.network.digest,
            "stack": self.stack.name,
            "variant": self.variant,
            "precision": self.precision,
            "epochs": self.epochs,
            "seed": self.seed,
            "threads": self.threads,
            "data": {"name": self.data.name, "digest": self.data.digest},
        }


def read_history(folder: Path) -> list[Epoch]:
    """Return the epochs of a training; raises UserError when there is none, or a damaged one."""
    path = folder / HISTORY
    try:
        return [Epoch(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); move the folder away, or train under another --name") from error


def read_training(folder: Path) -> dict[str, Any]:
    """Return the description of a training; raises UserError when there is none of this schema."""
    path = folder / TRAINING
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({error}); name the folder of a training") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UserError(f"{path}: not the description of a training that this version reads (schema {SCHEMA})")
    return content


def is_complete(folder: Path) -> bool:
    """Tell whether a training has come to its end: its model is there."""
    return (folder / MODEL).exists()


def train(job: Job, folder: Path, description: dict[str, Any], console: Console) -> list[Epoch]:
    """Train to the end, from the last epoch of an interrupted training on; return all epochs.

    Raises UserError when the folder holds another training, when the stack is missing or can't train so, or when the
    training diverges; what was reached before stays.
    """
    environment = environment_of(job.stack)
    history = _resumable(job, folder)
    if is_complete(folder):
        if not history:
            raise UserError(f"{folder}: holds a {MODEL} of which no training is known; choose another --name")
        return history
    if not history:
        write_whole(folder / TRAINING, json.dumps({"schema": SCHEMA, **description, **job.identity}, indent=1) + "\n")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        try:
            with start(job, environment, Path(name)) as worker:
                Run(job, folder, Path(name), worker.wait_until_ready()).to_the_end(history, console)
        except WorkerError as error:
            kept = f"; {len(history)} epochs are kept in {folder}" if history else ""
            raise UserError(f"training {job.recipe.name} on {job.stack.name} failed: {error}{kept}") from error
    _finish(job, folder, history)
    return history


def _resumable(job: Job, folder: Path) -> list[Epoch]:
    """Return the epochs that are done; raises UserError when they are another training's."""
    if not (folder / TRAINING).exists():
        return []
    found = read_training(folder)
    odd = [name for name, value in job.identity.items() if found.get(name) != json.loads(json.dumps(value))]
    if odd:
        raise UserError(f"{folder}: holds a training with another {', '.join(odd)}; choose another --name")
    if is_complete(folder):
        return read_history(folder)
    if not (folder / CHECKPOINT).exists():
        return []
    try:
        history = [Epoch(**each) for each in json.loads(read_metadata(folder / CHECKPOINT)["history"])]
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{folder / CHECKPOINT}: damaged ({error}); choose another --name") from error
    write_history(folder, history)
    return history


def write_history(folder: Path, history: list[Epoch]) -> None:
    """Write the epochs of a training."""
    write_whole(folder / HISTORY, json.dumps([asdict(each) for each in history], indent=1, allow_nan=False) + "\n")


def start(job: Job, environment: Environment, scratch: Path) -> Worker:
    """Start a worker that will train; what it compiles is cached below `scratch`."""
    variables = settings.of_process(Arm(job.stack.name, job.variant), job.threads, scratch)
    return Worker(environment.python, variables, scratch / "log", scratch)


class Run:
    """A training under way in a live worker."""

    def __init__(self, job: Job, folder: Path, scratch: Path, worker: Worker) -> None:
        self._job, self._folder, self._scratch, self._worker = job, folder, scratch, worker
        self._splits = split(job.data, job.recipe.validation)
        self._splits.lay_out(scratch)

    def to_the_end(self, history: list[Epoch], console: Console) -> None:
        """Append epochs to `history` until the recipe is through."""
        job = self._job
        self._build(resumed=bool(history))
        batches = -(-len(self._splits.train[1]) // job.recipe.batch_size)
        with steps(console, job.epochs - len(history)) as progress:
            while not is_over(job.recipe, job.epochs, history):
                rates = learning_rates(job.recipe, job.epochs, batches, len(history), validation_losses(history))
                history.append(self._epoch(len(history) + 1, rates, history))
                progress.step(1, _told(history[-1], job.epochs))

    def _build(self, *, resumed: bool) -> None:
        job, file = self._job, self._scratch / "weights.safetensors"
        found = load_arrays(self._folder / CHECKPOINT) if resumed else {}
        weights = _part(found, "weights") if resumed else initial_weights(job.network, job.seed, job.recipe.initial)
        save_weights(file, weights, {})
        way = job.stack.name, job.variant, job.precision
        request = training_request(way, job.recipe, job.seed, job.threads, self._scratch, file)
        self._worker.request("train", BUILD_TIMEOUT_S, **request)
        if resumed:
            save_weights(file, _part(found, "state"), {})
            self._worker.request("restore", BUILD_TIMEOUT_S, state=str(file))

    def _epoch(self, number: int, rates: list[float], history: list[Epoch]) -> Epoch:
        """Train one epoch, judge it, and store it together with all that the next one needs."""
        worker = self._worker
        done = worker.request("epoch", EPOCH_TIMEOUT_S, epoch=number, seed=self._job.seed, learning_rates=rates)
        test = self._evaluated("test")
        held = self._evaluated("validation") if self._job.recipe.validation else {"accuracy": None, "loss": None}
        epoch = Epoch(
            epoch=number,
            learning_rate=rates[0],
            test_accuracy=test["accuracy"],
            test_loss=test["loss"],
            validation_accuracy=held["accuracy"],
            validation_loss=held["loss"],
            **done,
        )
        self._store([*history, epoch])
        return epoch

    def _store(self, history: list[Epoch]) -> None:
        """Write all that the next epoch needs, in one file that is there whole or not at all."""
        weights, state = self._scratch / "epoch.safetensors", self._scratch / "state.safetensors"
        self._worker.request("checkpoint", BUILD_TIMEOUT_S, weights=str(weights), state=str(state))
        arrays = {"weights": load_arrays(weights), "state": load_arrays(state)}
        if self._job.recipe.patience:
            newest = kept_epoch(self._job.recipe, history) == len(history) - 1
            arrays["best"] = arrays["weights"] if newest else _part(load_arrays(self._folder / CHECKPOINT), "best")
        together = {f"{part}/{name}": array for part, each in arrays.items() for name, array in each.items()}
        told = json.dumps([asdict(each) for each in history], allow_nan=False)
        save_weights(self._folder / CHECKPOINT, together, {"history": told})
        write_history(self._folder, history)

    def _evaluated(self, part: str) -> dict[str, Any]:
        files = {name: str(self._scratch / f"{part}-{name}.npy") for name in ("images", "labels")}
        return self._worker.request("evaluate", EVALUATE_TIMEOUT_S, **files)


def training_request(
    way: tuple[str, str, str], recipe: Recipe, seed: int, threads: int, scratch: Path, weights: Path
) -> dict[str, Any]:
    """Return what a worker needs to know of a training by stack, variant and precision; its data lies in `scratch`."""
    stack, variant, precision = way
    return {
        "stack": stack,
        "variant": variant,
        "precision": precision,
        "recipe": asdict(recipe),
        "threads": threads,
        "cores": None,
        "seed": seed,
        "weights": str(weights),
        "images": str(scratch / "train-images.npy"),
        "labels": str(scratch / "train-labels.npy"),
    }


def _told(epoch: Epoch, epochs: int) -> str:
    held = f", validation {epoch.validation_accuracy:.2%}" if epoch.validation_accuracy is not None else ""
    accuracy = f"test accuracy {epoch.test_accuracy:.2%}{held}"
    return f"epoch {epoch.epoch} of {epochs}: loss {epoch.loss:.4f}, {accuracy}, {duration(epoch.wall_ns / 1e9)}"


def _part(arrays: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(f"{prefix}/"): array for name, array in arrays.items() if name.startswith(f"{prefix}/")}


def _finish(job: Job, folder: Path, history: list[Epoch]) -> None:
    """Write the model: the best epoch's weights where images were held out to tell, else the last one's."""
    chosen = kept_epoch(job.recipe, history)
    weights = _part(load_arrays(folder / CHECKPOINT), "best" if job.recipe.patience else "weights")
    save_weights(folder / MODEL, weights, metadata(job, history, chosen))
    (folder / CHECKPOINT).unlink(missing_ok=True)


def metadata(job: Job, history: list[Epoch], chosen: int) -> dict[str, str]:
    """Return what a model's file says of how it came about."""
    facts = {
        "recipe": job.recipe.name,
        "network": job.network.name,
        "spec": job.network.digest,
        "stack": job.stack.name,
        "variant": job.variant,
        "precision": job.precision,
        "epoch": history[chosen].epoch,
        "epochs": len(history),
        "seed": job.seed,
        "data": job.data.name,
        "data_digest": job.data.digest,
        "final_loss": f"{history[chosen].loss:.6f}",
        "test_accuracy": f"{history[chosen].test_accuracy:.4f}",
    }
    return {name: str(value) for name, value in facts.items()}
