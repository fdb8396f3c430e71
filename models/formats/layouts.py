"""The layouts of PyTorch and Keras, and changes of weights that leave a network's function as it is."""

from __future__ import annotations

from itertools import pairwise
from math import isclose
from typing import TYPE_CHECKING

import numpy as np

from models.spec import BatchNorm, Conv2d, Dense, Flatten, ReLU

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import Network, PlacedLayer, Shape
    from models.weights import Weights

    F32 = NDArray[np.float32]

# Kernels are OIHW and (out, in), or HWIO and (in, out) as in neutral layout.
PYTORCH_LAYOUT, KERAS_LAYOUT = "PyTorch", "Keras"
# The order in which feature maps are flattened in front of the first dense layer.
CHANNELS_FIRST, CHANNELS_LAST = "channels-first", "channels-last"
# The number of axes of a convolution's weights.
KERNEL_AXES = 4


def shape_in(layout: str, shape: Shape) -> Shape:
    """Return the shape of a parameter, of this neutral shape, in a layout."""
    if layout == KERAS_LAYOUT or len(shape) == 1:
        return shape
    return (shape[3], shape[2], *shape[:2]) if len(shape) == KERNEL_AXES else shape[::-1]


def from_layout(layout: str, array: F32) -> F32:
    """Return a parameter in neutral layout; rows of dense kernels keep their order."""
    if layout == KERAS_LAYOUT or array.ndim == 1:
        return np.array(array, order="C")
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0) if array.ndim == KERNEL_AXES else array.T)


def to_pytorch(network: Network, name: str, array: F32) -> F32:
    """Turn HWIO into OIHW, (in, out) into (out, in), and rows in NHWC flatten order into NCHW order."""
    if array.ndim == 1:
        return array.copy()
    if array.ndim == KERNEL_AXES:
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    if shape := flattened_shape(network, name):
        array = array.reshape(*shape, -1).transpose(2, 0, 1, 3).reshape(array.shape)
    return np.ascontiguousarray(array.T)


def from_pytorch(network: Network, name: str, array: F32) -> F32:
    """Undo `to_pytorch`."""
    return flattened_channels_last(network, name, from_layout(PYTORCH_LAYOUT, array))


def flattened_channels_last(network: Network, name: str, array: F32) -> F32:
    """Return a neutral parameter whose rows, if it follows the flattening, go from NCHW to NHWC order."""
    if array.ndim == 1 or not (shape := flattened_shape(network, name)):
        return array
    height, width, channels = shape
    return np.ascontiguousarray(
        array.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(array.shape), dtype=np.float32
    )


def flattened_shape(network: Network, name: str) -> Shape | None:
    """Return the shape (height, width, channels) that is flattened right before the layer of parameter `name`."""
    for before, layer in pairwise(network.place()):
        if name.startswith(f"{layer.name}.") and isinstance(before.layer, Flatten):
            return before.input_shape
    return None


def norms_of(network: Network) -> list[PlacedLayer]:
    return [placed for placed in network.place() if isinstance(placed.layer, BatchNorm)]


def fold_epsilons(network: Network, weights: Weights, epsilons: tuple[float, ...]) -> Weights:
    """Return weights for our epsilons that compute what the given ones do for these: the scales make up for it."""
    folded = dict(weights)
    for placed, epsilon in zip(norms_of(network), epsilons, strict=True):
        ours = placed.layer.epsilon if isinstance(placed.layer, BatchNorm) else epsilon
        # A file may have rounded its epsilon to fp32.
        if not isclose(epsilon, ours, rel_tol=1e-6):
            scale, variance = (weights[f"{placed.name}.{name}"].astype(np.float64) for name in ("scale", "variance"))
            folded[f"{placed.name}.scale"] = (scale * np.sqrt((variance + ours) / (variance + epsilon))).astype(
                np.float32
            )
    return folded


def fold_norms_before_activations(network: Network, weights: Weights, norm_first: tuple[bool, ...]) -> Weights:
    """Return weights of ours for a network some of whose batch normalisations come before the activation.

    Such a normalisation becomes a part of the layer in front of it, and ours leaves its input as it is.
    """
    folded = dict(weights)
    places = network.place()
    first = dict(zip((placed.name for placed in norms_of(network)), norm_first, strict=True))
    for kernel, activation, norm in zip(places, places[1:], places[2:], strict=False):
        if not (isinstance(kernel.layer, Conv2d | Dense) and isinstance(activation.layer, ReLU)):
            continue
        if not (isinstance(norm.layer, BatchNorm) and first[norm.name]):
            continue
        scale, shift, mean, variance = (weights[name].astype(np.float64) for name in norm.parameter_shapes)
        weight, bias = f"{kernel.name}.weight", f"{kernel.name}.bias"
        factor = scale / np.sqrt(variance + norm.layer.epsilon)
        folded[weight] = (weights[weight] * factor).astype(np.float32)
        folded[bias] = ((weights[bias] - mean) * factor + shift).astype(np.float32)
        neutral = (np.sqrt(1 + norm.layer.epsilon), 0, 0, 1)
        for name, value in zip(norm.parameter_shapes, neutral, strict=True):
            folded[name] = np.full(scale.shape, value, np.float32)
    return folded
