import itertools

import numpy as np
import pytest

from models import oracle
from models.spec import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, Network, ReLU
from models.weights import initial_weights
from models.zoo import CNN_SMALL


def slow_convolution(images, kernel, bias):
    """Compute zero-padded cross-correlation from its definition, with explicit loops."""
    count, height, width, _ = images.shape
    size = kernel.shape[0]
    out = np.zeros((count, height, width, kernel.shape[3]))
    for n, y, x, dy, dx in itertools.product(*map(range, (count, height, width, size, size))):
        row, column = y + dy - (size - 1) // 2, x + dx - (size - 1) // 2
        if 0 <= row < height and 0 <= column < width:
            out[n, y, x] += images[n, row, column] @ kernel[dy, dx]
    return out + bias


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_convolution_agrees_with_its_definition(size: int) -> None:
    random = np.random.default_rng(size)
    network = Network("n", "", (Conv2d(4, size),), input_shape=(6, 5, 3))
    weights = {"conv2d1.weight": random.standard_normal((size, size, 3, 4)), "conv2d1.bias": random.standard_normal(4)}
    images = random.standard_normal((2, 6, 5, 3))
    expected = slow_convolution(images, *weights.values())
    np.testing.assert_allclose(oracle.logits(network, weights, images), expected, atol=1e-12)


def test_pooling_takes_maxima_and_drops_the_remainder_at_the_border() -> None:
    images = np.arange(25, dtype=np.float32).reshape(1, 5, 5, 1)
    network = Network("n", "", (MaxPool2d(2), Flatten()), input_shape=(5, 5, 1))
    assert oracle.logits(network, {}, images).tolist() == [[6, 8, 16, 18]]


def test_relu_clips_and_dense_multiplies_and_adds() -> None:
    network = Network("n", "", (Flatten(), ReLU(), Dense(2)), input_shape=(1, 2, 1))
    weights = {"dense1.weight": np.array([[1.0, 2.0], [3.0, 4.0]]), "dense1.bias": np.array([10.0, 20.0])}
    images = np.array([[[[-5.0], [2.0]]]], dtype=np.float32)
    assert oracle.logits(network, weights, images).tolist() == [[16.0, 28.0]]


def test_the_chunk_size_does_not_change_the_logits(monkeypatch: pytest.MonkeyPatch, images) -> None:
    weights = initial_weights(CNN_SMALL, 3)
    expected = oracle.logits(CNN_SMALL, weights, images)
    monkeypatch.setattr(oracle, "CHUNK_BYTES", 7 * oracle._unfolded_bytes(CNN_SMALL))
    np.testing.assert_array_equal(oracle.logits(CNN_SMALL, weights, images).argmax(1), expected.argmax(1))
    np.testing.assert_allclose(oracle.logits(CNN_SMALL, weights, images), expected, atol=1e-12)


def test_batch_normalisation_uses_the_running_statistics_and_dropout_has_no_effect() -> None:
    network = Network("n", "", (BatchNorm(epsilon=0.25), Dropout(0.5), Flatten()), input_shape=(1, 1, 2))
    parameters = {"scale": [2.0, 3.0], "shift": [10.0, 20.0], "mean": [1.0, 2.0], "variance": [0.75, 2.0]}
    weights = {f"batchnorm1.{name}": np.array(values) for name, values in parameters.items()}
    images = np.array([[[[3.0, 5.0]]]], dtype=np.float32)
    assert oracle.logits(network, weights, images).tolist() == [[14.0, 26.0]]
