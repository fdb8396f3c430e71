"""Learning-rate schedules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from models.recipes import COSINE, PLATEAU

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
    if recipe.schedule == COSINE:
        before, total = epoch * batches, epochs * batches
        return [recipe.learning_rate * (1 + math.cos(math.pi * (before + step) / total)) / 2 for step in range(batches)]
    reductions = 0
    if recipe.schedule == PLATEAU:
        best, waited = math.inf, 0
        for loss in validation_losses:
            best, waited = (loss, 0) if loss < best - MIN_DELTA else (best, waited + 1)
            if waited == recipe.plateau_patience:
                waited, reductions = 0, reductions + 1
    return [recipe.learning_rate * recipe.plateau_factor**reductions] * batches
