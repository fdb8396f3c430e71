"""Compute the logits of a network in plain NumPy, in float64: slow, simple, and what every backend is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, assert_never

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from models.spec import Conv2d, Dense, Flatten, MaxPool2d, ReLU

if TYPE_CHECKING:
    from models.spec import Layer, Network
    from models.weights import Weights

F64: TypeAlias = NDArray[np.float64]

CHUNK = 500  # images at a time: bounds the memory of the unfolded windows to about 0.3 GB for `cnn-small`


def logits(network: Network, weights: Weights, images: NDArray[np.float32]) -> F64:
    """Return the logits, shape (images, classes), of standardised NHWC images."""
    chunks = (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
    return np.concatenate([_forward(network, weights, chunk.astype(np.float64)) for chunk in chunks])


def _forward(network: Network, weights: Weights, tensor: F64) -> F64:
    for placed in network.place():
        parameters = [weights[name].astype(np.float64) for name in placed.parameter_shapes]
        tensor = _apply(placed.layer, tensor, parameters)
    return tensor


def _apply(layer: Layer, tensor: F64, parameters: list[F64]) -> F64:
    match layer:
        case Conv2d():
            return _convolve(tensor, *parameters)
        case ReLU():
            return np.maximum(tensor, 0)
        case MaxPool2d(size):
            return _max_pool(tensor, size)
        case Flatten():
            return tensor.reshape(len(tensor), -1)
        case Dense():
            kernel, bias = parameters
            return tensor @ kernel + bias
    assert_never(layer)


def _convolve(tensor: F64, kernel: F64, bias: F64) -> F64:
    """Unfold the zero-padded windows, (N, H, W, C, kh, kw), and contract them with the HWIO kernel."""
    before = (kernel.shape[0] - 1) // 2
    after = kernel.shape[0] - 1 - before
    padded = np.pad(tensor, ((0, 0), (before, after), (before, after), (0, 0)))
    windows = sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))  # type: ignore[call-overload] # NumPy 1.26's stubs lack pairs of axes
    return np.tensordot(windows, kernel, axes=((4, 5, 3), (0, 1, 2))) + bias


def _max_pool(tensor: F64, size: int) -> F64:
    count, height, width, channels = tensor.shape
    rows, columns = height // size, width // size
    cropped = tensor[:, : rows * size, : columns * size]
    pooled: F64 = cropped.reshape(count, rows, size, columns, size, channels).max(axis=(2, 4))
    return pooled
