"""The reference step compared with finite differences."""

from dataclasses import replace

import numpy as np
import pytest

from models import oracle
from models.spec import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, Network, ReLU, SpecError
from models.weights import initial_weights
from models.zoo import CNN_BN
from tests.models import gradient

SMALL = Network(
    "n", "", (Conv2d(3), ReLU(), BatchNorm(), MaxPool2d(2), Flatten(), Dense(5), ReLU(), BatchNorm(), Dense(4)),
    input_shape=(5, 5, 2),
)  # fmt: skip
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.standard_normal((6, 5, 5, 2)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 0, 1])


def weights():
    """Return weights in which no parameter is zero."""
    initial = initial_weights(SMALL, 1)
    return {name: array + RANDOM.uniform(0.1, 0.2, array.shape).astype(np.float32) for name, array in initial.items()}


def loss(changed):
    """Return the training loss of the batch, from the step's own forward pass."""
    return gradient.sgd_step(SMALL, changed, IMAGES, LABELS, 0.0)[0]


def test_the_step_follows_the_negative_gradient() -> None:
    before = {name: array.astype(np.float64) for name, array in weights().items()}
    _, after = gradient.sgd_step(SMALL, before, IMAGES, LABELS, 1.0)
    for name, array in before.items():
        if name.endswith((".mean", ".variance")):
            continue
        index = tuple(RANDOM.integers(0, size) for size in array.shape)
        step = 1e-5
        up, down = (before | {name: _moved(array, index, sign * step)} for sign in (1, -1))
        slope = (loss(up) - loss(down)) / (2 * step)
        assert array[index] - after[name][index] == pytest.approx(slope, rel=1e-2, abs=1e-5), name


def _moved(array, index, step):
    copy = array.copy()
    copy[index] += step
    return copy


def test_smoothed_labels_are_spread_over_all_classes() -> None:
    """Loss and gradient are linear in the target: a part of it counts for the label, the rest for all classes alike."""

    def step(labels, label_smoothing=0.0):
        loss, after = gradient.sgd_step(SMALL, before, IMAGES, labels, 1.0, label_smoothing=label_smoothing)
        return np.append(after["dense2.bias"], loss)

    before = weights()
    of_classes = [step(np.full(len(LABELS), label)) for label in range(4)]
    expected = 0.7 * step(LABELS) + 0.3 * np.mean(of_classes, axis=0)
    np.testing.assert_allclose(step(LABELS, label_smoothing=0.3), expected, rtol=1e-5)


def test_the_running_statistics_move_towards_those_of_the_batch() -> None:
    """The variance of the batch is divided by n - 1, as PyTorch and TensorFlow's operator for images do."""
    _, after = gradient.sgd_step(SMALL, before := weights(), IMAGES, LABELS, 0.1)
    first = Network("n", "", SMALL.layers[:2], input_shape=(5, 5, 2))
    activations = oracle.logits(first, before, IMAGES)
    mean, variance = activations.mean(axis=(0, 1, 2)), activations.var(axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(after["batchnorm1.mean"], 0.99 * before["batchnorm1.mean"] + 0.01 * mean, rtol=1e-5)
    expected = 0.99 * before["batchnorm1.variance"] + 0.01 * variance
    np.testing.assert_allclose(after["batchnorm1.variance"], expected, rtol=1e-5)


def test_dropout_and_even_kernels_are_refused() -> None:
    with pytest.raises(SpecError, match="drops units at random"):
        gradient.sgd_step(CNN_BN, initial_weights(CNN_BN, 0), np.zeros((2, 28, 28, 1), np.float32), LABELS[:2], 0.1)
    even = replace(SMALL, layers=(Conv2d(3, 2), Flatten(), Dense(4)))
    with pytest.raises(SpecError, match="odd kernels only"):
        gradient.sgd_step(even, initial_weights(even, 0), IMAGES, LABELS, 0.1)


def test_a_dropout_rate_of_zero_has_no_effect() -> None:
    network = replace(SMALL, layers=(*SMALL.layers[:1], Dropout(0.0), *SMALL.layers[1:]))
    assert gradient.sgd_step(network, before := weights(), IMAGES, LABELS, 0.1)[0] == loss(before)
