"""When a training ends and which epoch is the best, from synthetic histories."""

import math
from dataclasses import replace

from bench.training.course import Epoch, best_epoch, is_over

from models.recipes.parse import load_recipe

VGG = load_recipe("vgg")
EPOCH = Epoch(1, 0.1, 10, 1.0, 5, 5, 0, "", 1, 0, 0.5, 1.0, None, None)


def history(*losses):
    """Return epochs with these validation losses."""
    return [replace(EPOCH, validation_loss=loss) for loss in losses]


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
