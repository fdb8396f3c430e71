"""The epochs of a training: when to stop, and which of them was the best."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.recipes import Recipe


@dataclass(frozen=True)
class Epoch:
    """One epoch of a training: what was timed, and accuracy and loss afterwards, apart.

    `digest` identifies the order of the images and the augmented pixels. Validation figures are None where nothing is
    held out.
    """

    epoch: int
    learning_rate: float
    images: int
    loss: float
    wall_ns: int
    cpu_ns: int
    wait_ns: int
    digest: str
    memory_bytes: int
    involuntary_switches: int
    test_accuracy: float
    test_loss: float
    validation_accuracy: float | None
    validation_loss: float | None


def validation_losses(history: Sequence[Epoch]) -> list[float]:
    """Return the validation loss after each epoch."""
    return [math.inf if each.validation_loss is None else each.validation_loss for each in history]


def best_epoch(history: Sequence[Epoch]) -> int:
    """Return the index of the epoch with the lowest validation loss."""
    losses = validation_losses(history)
    return losses.index(min(losses))


def kept_epoch(recipe: Recipe, history: Sequence[Epoch]) -> int:
    """Return the index of the epoch whose weights are kept: the best, where a recipe waits for it, else the last."""
    return best_epoch(history) if recipe.patience else len(history) - 1


def is_over(recipe: Recipe, epochs: int, history: Sequence[Epoch]) -> bool:
    """Tell whether all epochs are done, or `patience` of them in a row brought no better validation loss."""
    if len(history) >= epochs:
        return True
    return bool(recipe.patience and history) and len(history) - 1 - best_epoch(history) >= recipe.patience
