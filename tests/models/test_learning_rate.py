from dataclasses import replace

import numpy as np
import pytest

from models.recipes.learning_rate import learning_rates
from models.recipes.parse import load_recipe

ADAM, VGG = load_recipe("adam"), load_recipe("vgg")


def test_a_cosine_schedule_falls_from_the_initial_rate_to_zero_over_all_epochs() -> None:
    rates = [rate for epoch in range(3) for rate in learning_rates(ADAM, 3, 4, epoch)]
    assert rates[0] == ADAM.learning_rate
    assert rates[6] == pytest.approx(ADAM.learning_rate / 2)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.05 * ADAM.learning_rate


@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_a_one_cycle_schedule_rises_and_falls_linearly_over_all_epochs(warmup) -> None:
    """Each step has the rate of its middle, so that none has a rate of zero."""
    recipe = replace(ADAM, schedule="one-cycle", warmup=warmup, learning_rate=1.0)
    rates = [rate for epoch in range(3) for rate in learning_rates(recipe, 3, 8, epoch)]
    middles = [(step + 0.5) / 24 for step in range(24)]
    assert rates == pytest.approx(np.interp(middles, [0, warmup, 1], [0 if warmup else 1, 1, 0]))
    assert min(rates) > 0


def test_a_constant_schedule_keeps_the_rate() -> None:
    assert learning_rates(replace(ADAM, schedule="constant"), 9, 3, 5) == [ADAM.learning_rate] * 3


@pytest.mark.parametrize(("losses", "reductions"), [
    ((), 0),
    ((1.0, 0.9, 0.8), 0),
    ((1.0, 1.1), 0),
    ((1.0, 1.1, 1.2), 1),
    ((1.0, 1.1, 1.2, 1.3), 1),
    ((1.0, 1.1, 1.2, 1.3, 1.4), 2),
    ((1.0, 1.1, 0.9, 1.1, 1.1), 1),
    # Smaller decreases than MIN_DELTA.
    ((1.0, 0.99995, 0.99991), 1),
])  # fmt: skip
def test_the_rate_is_reduced_after_two_epochs_without_a_lower_loss(losses, reductions) -> None:
    rates = learning_rates(VGG, 50, 2, len(losses), losses)
    assert rates == [pytest.approx(VGG.learning_rate * VGG.plateau_factor**reductions)] * 2
