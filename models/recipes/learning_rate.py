"""Learning-rate schedules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from models.recipes import COSINE, ONE_CYCLE, PLATEAU

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.recipes import Recipe

# A smaller decrease of the validation loss does not count as an improvement (as in Keras's ReduceLROnPlateau).
MIN_DELTA = 1e-4


def learning_rates(
    recipe: Recipe, epochs: int, batches: int, epoch: int, validation_losses: Sequence[float] = ()
) -> list[float]:
    """Return the learning rate of each step of an epoch, counted from 0.

    A plateau schedule depends on the validation losses of the epochs before it.
    """
    total = epochs * batches
    steps = range(epoch * batches, (epoch + 1) * batches)
    if recipe.schedule == COSINE:
        return [recipe.learning_rate * (1 + math.cos(math.pi * step / total)) / 2 for step in steps]
    if recipe.schedule == ONE_CYCLE:
        # The middle of each step, so that no step has a rate of zero.
        progress = [(step + 1 / 2) / total for step in steps]
        return [recipe.learning_rate * _one_cycle(done, recipe.warmup) for done in progress]
    reductions = 0
    if recipe.schedule == PLATEAU:
        best, waited = math.inf, 0
        for loss in validation_losses:
            best, waited = (loss, 0) if loss < best - MIN_DELTA else (best, waited + 1)
            if waited == recipe.plateau_patience:
                waited, reductions = 0, reductions + 1
    return [recipe.learning_rate * recipe.plateau_factor**reductions] * batches


def _one_cycle(done: float, warmup: float) -> float:
    """Return the fraction of the highest learning rate after the fraction `done` of all steps."""
    return done / warmup if done < warmup else (1 - done) / (1 - warmup)
