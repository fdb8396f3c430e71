"""What follows from a recipe and the epochs behind: learning rates, when to stop, which epoch was the best."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.recipes import COSINE, PLATEAU

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.recipes import Recipe

MIN_DELTA = 1e-4  # a smaller fall of the validation loss is none (as in Keras's ReduceLROnPlateau)


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


def learning_rates(
    recipe: Recipe, epochs: int, batches: int, behind: int, history: Sequence[Epoch] = ()
) -> list[float]:
    """Return the learning rate of each step of the epoch that has `behind` of `epochs` behind it.

    On a plateau it follows from the `history` of validation losses.
    """
    if recipe.schedule == COSINE:
        before, total = behind * batches, epochs * batches
        return [recipe.learning_rate * (1 + math.cos(math.pi * (before + step) / total)) / 2 for step in range(batches)]
    reductions = _reductions(recipe, history) if recipe.schedule == PLATEAU else 0
    return [recipe.learning_rate * recipe.plateau_factor**reductions] * batches


def _reductions(recipe: Recipe, history: Sequence[Epoch]) -> int:
    """Return how often `plateau_patience` epochs in a row brought no better validation loss."""
    best, waited, reductions = math.inf, 0, 0
    for loss in validation_losses(history):
        better = loss < best - MIN_DELTA
        best, waited = (loss, 0) if better else (best, waited + 1)
        if waited == recipe.plateau_patience:
            waited, reductions = 0, reductions + 1
    return reductions


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
