"""Learning rates, when to stop and which epoch was the best, from made-up histories."""

import math
from dataclasses import replace

import pytest

from bench.training.course import Epoch, best_epoch, is_over, learning_rates
from models.recipes.parse import load_recipe

ADAM, VGG = load_recipe("adam"), load_recipe("vgg")
EPOCH = Epoch(1, 0.1, 10, 1.0, 5, 5, 0, "", 1, 0, 0.5, 1.0, None, None)


def history(*losses, accuracies=()):
    """Return epochs with these validation losses, or test accuracies."""
    if accuracies:
        return [replace(EPOCH, test_accuracy=accuracy) for accuracy in accuracies]
    return [replace(EPOCH, validation_loss=loss) for loss in losses]


def test_a_cosine_falls_from_the_rate_to_zero_over_all_epochs() -> None:
    rates = [rate for epoch in range(3) for rate in learning_rates(ADAM, 3, 4, epoch)]
    assert rates[0] == ADAM.learning_rate
    assert rates[6] == pytest.approx(ADAM.learning_rate / 2)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.05 * ADAM.learning_rate


def test_a_constant_rate_is_constant() -> None:
    assert learning_rates(replace(ADAM, schedule="constant"), 9, 3, 5) == [ADAM.learning_rate] * 3


@pytest.mark.parametrize(("losses", "reductions"), [
    ((), 0),
    ((1.0, 0.9, 0.8), 0),
    ((1.0, 1.1), 0),
    ((1.0, 1.1, 1.2), 1),
    ((1.0, 1.1, 1.2, 1.3), 1),
    ((1.0, 1.1, 1.2, 1.3, 1.4), 2),
    ((1.0, 1.1, 0.9, 1.1, 1.1), 1),
    ((1.0, 0.99995, 0.99991), 1),  # too little to be better
])  # fmt: skip
def test_a_plateau_of_two_epochs_reduces_the_rate(losses, reductions) -> None:
    rates = learning_rates(VGG, 50, 2, len(losses), history(*losses))
    assert rates == [pytest.approx(VGG.learning_rate * VGG.plateau_factor**reductions)] * 2


def test_a_training_is_over_after_its_epochs_or_when_its_patience_is() -> None:
    patient = replace(VGG, patience=2)
    assert not is_over(patient, 5, [])
    assert not is_over(patient, 5, history(3.0, 1.0, 2.0))
    assert is_over(patient, 5, history(3.0, 1.0, 2.0, 2.0))
    assert is_over(replace(VGG, patience=0), 2, history(1.0, 2.0))
    assert not is_over(replace(VGG, patience=0), 3, history(1.0, 2.0))


def test_the_best_epoch_has_the_lowest_validation_loss() -> None:
    assert best_epoch(history(3.0, 1.0, 2.0, 1.0)) == 1
    assert best_epoch(history(math.inf)) == 0
