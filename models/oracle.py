"""Compute logits in plain NumPy in float64: slow and simple, the reference for every backend."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, TypeAlias, assert_never

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from models.spec import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, ReLU

if TYPE_CHECKING:
    from models.spec import Layer, Network
    from models.weights import Weights

F64: TypeAlias = NDArray[np.float64]

# The memory for the unfolded windows of the images that are computed at a time: small enough for a cache, because fresh
# memory for larger ones takes longer than the sums.
CHUNK_BYTES = 16_000_000


def logits(network: Network, weights: Weights, images: NDArray[np.float32]) -> F64:
    """Return the logits, shape (images, classes), of standardised NHWC images."""
    size = max(1, CHUNK_BYTES // _unfolded_bytes(network))
    chunks = (images[start : start + size] for start in range(0, len(images), size))
    return np.concatenate([_forward(network, weights, chunk.astype(np.float64)) for chunk in chunks])


def _unfolded_bytes(network: Network) -> int:
    """Return the size in bytes of the largest unfolded input of a convolution, for one image."""
    unfolded = [
        prod(placed.input_shape) * placed.layer.kernel_size**2
        for placed in network.place()
        if isinstance(placed.layer, Conv2d)
    ]
    return 8 * max(unfolded, default=prod(network.input_shape))


def _forward(network: Network, weights: Weights, tensor: F64) -> F64:
    for placed in network.place():
        parameters = [weights[name].astype(np.float64) for name in placed.parameter_shapes]
        tensor = _apply(placed.layer, tensor, parameters)
    return tensor


def _apply(layer: Layer, tensor: F64, parameters: list[F64]) -> F64:
    match layer:
        case Conv2d():
            return convolve(tensor, *parameters)
        case ReLU():
            return np.maximum(tensor, 0)
        case BatchNorm(epsilon):
            scale, shift, mean, variance = parameters
            return batch_norm(tensor, scale, shift, mean, variance, epsilon)
        case MaxPool2d(size):
            pooled: F64 = tiles(tensor, size).max(axis=(2, 4))
            return pooled
        case Dropout():
            return tensor
        case Flatten():
            return tensor.reshape(len(tensor), -1)
        case Dense():
            kernel, bias = parameters
            return tensor @ kernel + bias
    assert_never(layer)


def convolve(tensor: F64, kernel: F64, bias: F64) -> F64:
    """Contract the unfolded windows with the HWIO kernel."""
    return np.tensordot(unfold(tensor, kernel.shape[0]), kernel, axes=((4, 5, 3), (0, 1, 2))) + bias


def unfold(tensor: F64, size: int) -> F64:
    """Return the zero-padded windows around each pixel, (N, H, W, C, size, size)."""
    before = (size - 1) // 2
    after = size - 1 - before
    padded = np.pad(tensor, ((0, 0), (before, after), (before, after), (0, 0)))
    # The stubs of NumPy 1.26 do not accept a pair of axes.
    windows: F64 = sliding_window_view(padded, (size, size), axis=(1, 2))  # type: ignore[call-overload]
    return windows


def batch_norm(tensor: F64, scale: F64, shift: F64, mean: F64, variance: F64, epsilon: float) -> F64:
    """Standardise the last axis by `mean` and `variance`, then scale and shift it."""
    normalised: F64 = (tensor - mean) / np.sqrt(variance + epsilon) * scale + shift
    return normalised


def tiles(tensor: F64, size: int) -> F64:
    """Return the size x size tiles, (N, rows, size, columns, size, C); a remainder at the border is dropped."""
    count, height, width, channels = tensor.shape
    rows, columns = height // size, width // size
    return tensor[:, : rows * size, : columns * size].reshape(count, rows, size, columns, size, channels)
