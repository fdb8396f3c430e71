"""Train a model on a stack, epoch by epoch, in a folder from which an interrupted training continues."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any

from bench.clock import cpu_ns_of, now_ns
from bench.codec import CodecError
from bench.console import duration, steps
from bench.engine.build import BUILD_TIMEOUT_S, EPOCH_TIMEOUT_S
from bench.engine.proof.evidence import PREDICT_TIMEOUT_S, combined_proof
from bench.engine.workers import Worker, WorkerError
from bench.processes.scratch import scratch_folder
from bench.run_info import DataInfo
from bench.suite.arms import Arm
from bench.suite.environments import environment_of
from bench.suite.variables import arm_variables
from bench.training.history import (
    MODEL_FILE,
    TRAINING_FILE,
    Epoch,
    JobInfo,
    history_from_json,
    history_to_json,
    is_complete,
    is_over,
    kept_epoch,
    read_history,
    read_training,
    validation_losses,
    write_history,
    write_training,
)
from bench.worker.messages import Evaluate, OpenTraining, ProveTraining, RestoreOptimizer, RunEpoch, SaveCheckpoint
from models.data import split
from models.errors import UserError
from models.recipes.learning_rate import learning_rates
from models.weights import Weights, initial_weights, load_arrays, read_metadata, save_weights
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from backends.protocol import Stack
    from bench.suite.environments import Environment
    from bench.training.history import TrainingRecord
    from bench.worker.messages import ProofReply
    from models.data import DataSet, Splits
    from models.recipes import Recipe
    from models.spec import Network

EVALUATE_TIMEOUT_S = 1800
# All that the next epoch needs, in one file: weights, the best weights, the optimiser's state and the history.
CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Job:
    """A training; `env` are the variables that the user hands to its process."""

    recipe: Recipe
    stack: Stack
    variant: str
    precision: str
    epochs: int
    seed: int
    threads: int
    data: DataSet
    env: dict[str, str] = field(default_factory=dict)

    @property
    def arm(self) -> Arm:
        return Arm(self.stack.name, self.variant, self.precision)

    @property
    def network(self) -> Network:
        return NETWORKS[self.recipe.network]

    @cached_property
    def splits(self) -> Splits:
        return split(self.data, self.recipe.validation)

    @property
    def info(self) -> JobInfo:
        return JobInfo(
            recipe=self.recipe,
            network=self.network.digest,
            stack=self.stack.name,
            variant=self.variant,
            precision=self.precision,
            epochs=self.epochs,
            seed=self.seed,
            threads=self.threads,
            data=DataInfo(self.data.name, self.data.digest),
            env=self.env,
        )


def train_job(job: Job, folder: Path, record: TrainingRecord, console: Console) -> list[Epoch]:
    """Train until the end, continuing after the last epoch of an interrupted training; return all epochs.

    Raises UserError if the folder holds another training, the stack is missing or can't train this job, or the training
    diverges. Finished epochs are kept.
    """
    environment = environment_of(job.stack)
    history = _finished_epochs(job, folder)
    if is_complete(folder):
        if not history:
            raise UserError(f"{folder}: holds a {MODEL_FILE} but no training; choose another --name")
        return history
    with scratch_folder() as scratch:
        try:
            job.splits.lay_out(scratch)
            proof = prove_training(job, environment, scratch)
            if not history:
                write_training(folder, replace(record, proof=proof))
            begin_ns = now_ns()
            with start_worker(job, environment, scratch) as worker:
                _train_epochs(job, folder, scratch, worker.wait_until_ready(), begin_ns, history, console)
        except WorkerError as error:
            kept = f"; {len(history)} epochs are kept in {folder}" if history else ""
            raise UserError(f"training {job.recipe.name} on {job.stack.name} failed: {error}{kept}") from error
    _write_model(job, folder, history)
    return history


def _finished_epochs(job: Job, folder: Path) -> list[Epoch]:
    """Return the epochs to continue after; raises UserError if they belong to another training."""
    if not (folder / TRAINING_FILE).exists():
        return []
    before = read_training(folder).job
    if odd := [name for name, value in vars(job.info).items() if getattr(before, name) != value]:
        raise UserError(f"{folder}: holds a training with another {', '.join(odd)}; choose another --name")
    if is_complete(folder):
        return read_history(folder)
    checkpoint = folder / CHECKPOINT_FILE
    if not checkpoint.exists():
        return []
    try:
        history = history_from_json(read_metadata(checkpoint)["history"])
    except (KeyError, CodecError) as error:
        raise UserError(f"{checkpoint}: damaged ({error}); choose another --name") from error
    # A kill between the checkpoint and history.json leaves the older history.
    write_history(folder, history)
    return history


def start_worker(job: Job, environment: Environment, scratch: Path) -> Worker:
    """Start a worker that trains; its compile caches lie below `scratch`."""
    settings = arm_variables(job.arm, job.threads, scratch, job.env)
    return Worker(environment.python, settings, scratch / "worker.log", scratch)


def prove_training(job: Job, environment: Environment, scratch: Path) -> ProofReply:
    """Return what a process reads back of this training; raises WorkerError unless it is what was asked for.

    The process is one of its own, because a training can't be continued after its proof.
    """
    with start_worker(job, environment, scratch) as worker:
        weights = initial_weights(job.network, job.seed, job.recipe.initial)
        open_training(worker.wait_until_ready(), job, weights, scratch)
        replies = [worker.request(ProveTraining(), PREDICT_TIMEOUT_S)]
    return combined_proof(replies, job.arm, job.threads, job.env)


def open_training(worker: Worker, job: Job, weights: Weights, scratch: Path) -> None:
    """Build the training in the worker, from weights and from the split in `scratch`."""
    file = scratch / "weights.safetensors"
    save_weights(file, weights, {})
    request = OpenTraining(
        stack=job.stack.name,
        variant=job.variant,
        precision=job.precision,
        recipe=job.recipe,
        seed=job.seed,
        threads=job.threads,
        cores=None,
        weights=str(file),
        images=str(scratch / "train-images.npy"),
        labels=str(scratch / "train-labels.npy"),
    )
    worker.request(request, BUILD_TIMEOUT_S)


def evaluation_of(part: str, scratch: Path) -> Evaluate:
    """Return the request to evaluate on a part of the split: `validation` or `test`."""
    return Evaluate(str(scratch / f"{part}-images.npy"), str(scratch / f"{part}-labels.npy"))


def _train_epochs(
    job: Job,
    folder: Path,
    scratch: Path,
    worker: Worker,
    begin_ns: int,
    history: list[Epoch],
    console: Console,
) -> None:
    """Append the remaining epochs to `history`, each after its checkpoint is written.

    The worker was started at `begin_ns`.
    """
    if history:
        arrays = load_arrays(folder / CHECKPOINT_FILE)
        open_training(worker, job, _part(arrays, "weights"), scratch)
        state = scratch / "restored.safetensors"
        save_weights(state, _part(arrays, "state"), {})
        worker.request(RestoreOptimizer(str(state)), BUILD_TIMEOUT_S)
    else:
        open_training(worker, job, initial_weights(job.network, job.seed, job.recipe.initial), scratch)
    start_cpu_ns, start_wall_ns = cpu_ns_of(worker.pid), now_ns() - begin_ns
    batches = ceil(len(job.splits.train[1]) / job.recipe.batch_size)
    with steps(console, {"": job.epochs - len(history)}) as progress:
        while not is_over(job.recipe, job.epochs, history):
            rates = learning_rates(job.recipe, job.epochs, batches, len(history), validation_losses(history))
            result = worker.request(RunEpoch(len(history) + 1, job.seed, tuple(rates)), EPOCH_TIMEOUT_S)
            test = worker.request(evaluation_of("test", scratch), EVALUATE_TIMEOUT_S)
            held_out = None
            if job.recipe.validation:
                held_out = worker.request(evaluation_of("validation", scratch), EVALUATE_TIMEOUT_S)
            epoch = Epoch(
                epoch=len(history) + 1,
                learning_rate=rates[0],
                result=result,
                test_accuracy=test.accuracy,
                test_loss=test.loss,
                validation_accuracy=held_out.accuracy if held_out else None,
                validation_loss=held_out.loss if held_out else None,
                start_cpu_ns=start_cpu_ns,
                start_wall_ns=start_wall_ns,
            )
            start_cpu_ns = start_wall_ns = 0
            _save_checkpoint(job, folder, scratch, worker, [*history, epoch])
            history.append(epoch)
            validation = f", validation {held_out.accuracy:.2%}" if held_out else ""
            progress.step(
                1,
                f"epoch {epoch.epoch} of {job.epochs}: loss {result.loss:.4f}, "
                f"test accuracy {test.accuracy:.2%}{validation}, {duration(result.wall_ns / 1e9)}",
            )


def _save_checkpoint(job: Job, folder: Path, scratch: Path, worker: Worker, history: list[Epoch]) -> None:
    weights, state = scratch / "epoch.safetensors", scratch / "state.safetensors"
    worker.request(SaveCheckpoint(str(weights), str(state)), BUILD_TIMEOUT_S)
    parts = {"weights": load_arrays(weights), "state": load_arrays(state)}
    if job.recipe.patience:
        is_best = kept_epoch(job.recipe, history) == len(history) - 1
        parts["best"] = parts["weights"] if is_best else _part(load_arrays(folder / CHECKPOINT_FILE), "best")
    arrays = {f"{part}/{name}": array for part, content in parts.items() for name, array in content.items()}
    save_weights(folder / CHECKPOINT_FILE, arrays, {"history": history_to_json(history)})
    write_history(folder, history)


def _part(arrays: Weights, part: str) -> Weights:
    return {name.removeprefix(f"{part}/"): array for name, array in arrays.items() if name.startswith(f"{part}/")}


def _write_model(job: Job, folder: Path, history: list[Epoch]) -> None:
    """Write the weights of the kept epoch, with metadata on where they come from."""
    kept = history[kept_epoch(job.recipe, history)]
    metadata: dict[str, Any] = {
        "recipe": job.recipe.name,
        "network": job.network.name,
        "spec": job.network.digest,
        "stack": job.stack.name,
        "variant": job.variant,
        "precision": job.precision,
        "epoch": kept.epoch,
        "epochs": len(history),
        "seed": job.seed,
        "data": job.data.name,
        "data_digest": job.data.digest,
        "final_loss": f"{kept.result.loss:.6f}",
        "test_accuracy": f"{kept.test_accuracy:.4f}",
    }
    weights = _part(load_arrays(folder / CHECKPOINT_FILE), "best" if job.recipe.patience else "weights")
    save_weights(folder / MODEL_FILE, weights, {name: str(value) for name, value in metadata.items()})
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
