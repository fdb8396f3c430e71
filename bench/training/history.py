"""What the folder of a training holds: training.json says how it was started, history.json holds its epochs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.codec import FLAT, CodecError, decode, encode, read_json
from bench.journal import read_description, refuse_links, write_atomically
from bench.machine.facts import Machine
from bench.run_info import DataInfo
from bench.suite.user_variables import UserVariables
from bench.worker.messages import EpochReply, ProofReply
from models.errors import UserError
from models.recipes import Recipe

TRAINING_SCHEMA = 1
TRAINING_FILE, HISTORY_FILE, MODEL_FILE = "training.json", "history.json", "model.safetensors"


@dataclass(frozen=True)
class JobInfo:
    """What must be the same when an interrupted training is continued.

    `network` is a digest, `env` holds the variables that the user hands to the process.
    """

    recipe: Recipe
    network: str
    stack: str
    variant: str
    precision: str
    epochs: int
    seed: int
    threads: int
    data: DataInfo
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingRecord:
    """How a training was started, and what its process read back; the fields with a default are newer."""

    schema: int
    command: tuple[str, ...]
    started: str
    git_commit: str | None
    machine: Machine
    job: JobInfo = field(metadata=FLAT)
    variables: UserVariables | None = None
    proof: ProofReply | None = None


@dataclass(frozen=True)
class Epoch:
    """One epoch: the first step's learning rate, the timed part, and the evaluations after it.

    The validation results are None if no images are held out. The first epoch of a process has what its start took:
    CPU time and wall time until the training was built. Other epochs have zero.
    """

    epoch: int
    learning_rate: float
    result: EpochReply = field(metadata=FLAT)
    test_accuracy: float
    test_loss: float
    validation_accuracy: float | None
    validation_loss: float | None
    start_cpu_ns: int = 0
    start_wall_ns: int = 0


def is_complete(folder: Path) -> bool:
    """Whether a training has ended and written its model."""
    return (folder / MODEL_FILE).exists()


def write_training(folder: Path, record: TrainingRecord) -> None:
    write_atomically(folder / TRAINING_FILE, json.dumps(encode(record), indent=1) + "\n")


def read_training(folder: Path) -> TrainingRecord:
    """Read training.json; raises UserError if it is missing, damaged or of another schema."""
    path = folder / TRAINING_FILE
    refuse_links(folder)
    try:
        content = read_json(read_description(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({error}); name the folder of a training") from error
    if not isinstance(content, dict) or content.get("schema") != TRAINING_SCHEMA:
        raise UserError(f"{path}: does not describe a training that this version reads (schema {TRAINING_SCHEMA})")
    try:
        # Not strict: a later version may store more.
        return decode(TrainingRecord, content, strict=False)
    except CodecError as error:
        raise UserError(f"{path}: damaged: {error}; move the folder away, or train under another --name") from error


def write_history(folder: Path, history: Sequence[Epoch]) -> None:
    write_atomically(folder / HISTORY_FILE, history_to_json(history, indent=1) + "\n")


def read_history(folder: Path) -> list[Epoch]:
    """Read the epochs, none if there is no history.json; raises UserError if it is damaged."""
    path = folder / HISTORY_FILE
    try:
        return history_from_json(read_description(path))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); move the folder away, or train under another --name") from error


def history_to_json(history: Sequence[Epoch], indent: int | None = None) -> str:
    return json.dumps([encode(epoch) for epoch in history], indent=indent, allow_nan=False)


def history_from_json(text: str) -> list[Epoch]:
    """Return the epochs in a JSON text; raises CodecError, also for epochs that no training has."""
    history = list(decode(tuple[Epoch, ...], read_json(text)))
    for index, epoch in enumerate(history):
        counts = epoch.epoch, epoch.result.images, epoch.result.wall_ns
        losses = epoch.result.loss, epoch.test_loss, epoch.validation_loss or 0.0
        accuracies = epoch.test_accuracy, epoch.validation_accuracy or 0.0
        if min(counts) < 1 or min(losses) < 0 or not 0 <= min(accuracies) <= max(accuracies) <= 1:
            raise CodecError("is not an epoch that a training can have", str(index))
    return history


def validation_losses(history: Sequence[Epoch]) -> list[float]:
    """Return each epoch's validation loss, infinity where no images are held out."""
    return [math.inf if epoch.validation_loss is None else epoch.validation_loss for epoch in history]


def best_epoch(history: Sequence[Epoch]) -> int:
    """Return the index of the epoch with the lowest validation loss."""
    losses = validation_losses(history)
    return losses.index(min(losses))


def kept_epoch(recipe: Recipe, history: Sequence[Epoch]) -> int:
    """Return the index of the epoch whose weights are kept: the best one with early stopping, else the last."""
    return best_epoch(history) if recipe.patience else len(history) - 1


def is_over(recipe: Recipe, epochs: int, history: Sequence[Epoch]) -> bool:
    """Whether all epochs are done, or the last `patience` of them brought no lower validation loss."""
    if len(history) >= epochs:
        return True
    return bool(recipe.patience and history) and len(history) - 1 - best_epoch(history) >= recipe.patience
