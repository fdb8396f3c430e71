"""Gradient descent steps, plain and sharpness-aware, in NumPy and float64: the reference for every stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, assert_never

import numpy as np

from models.oracle import F64, batch_norm, convolve, tiles, unfold
from models.spec import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, ReLU, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from models.spec import Layer, Network
    from models.weights import Weights

# Takes the gradient of a layer's output; returns that of its input, and those of its parameters in order.
Backward: TypeAlias = "Callable[[F64], tuple[F64, tuple[F64, ...]]]"


def sgd_step(
    network: Network,
    weights: Weights,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    learning_rate: float,
    *,
    label_smoothing: float = 0.0,
) -> tuple[float, Weights]:
    """Return the mean cross-entropy of a batch and the weights after one step: w - learning_rate * gradient.

    Raises SpecError for a network with dropout, because no two stacks drop the same units.
    """
    loss, gradients, moved = _descend(network, _exact(weights), images, labels, label_smoothing)
    return loss, _stepped(weights, gradients, moved, learning_rate)


def sam_step(
    network: Network,
    weights: Weights,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    learning_rate: float,
    *,
    rho: float,
) -> tuple[float, Weights]:
    """Return the loss and the weights after a sharpness-aware step (Foret et al. 2021, algorithm 1).

    The gradient is that at w + rho * g / |g|, where g is the gradient at w and |g| its norm over all parameters. The
    running statistics are those of the first pass.
    """
    exact = _exact(weights)
    loss, gradients, moved = _descend(network, exact, images, labels)
    norm = np.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
    nearby = exact | {name: exact[name] + rho / norm * gradient for name, gradient in gradients.items()}
    _, sharp, _ = _descend(network, nearby, images, labels)
    return loss, _stepped(weights, sharp, moved, learning_rate)


def _exact(weights: Weights) -> dict[str, F64]:
    return {name: array.astype(np.float64) for name, array in weights.items()}


def _stepped(weights: Weights, gradients: dict[str, F64], moved: dict[str, F64], learning_rate: float) -> Weights:
    stepped = {name: weights[name] - learning_rate * gradient for name, gradient in gradients.items()} | moved
    return {name: stepped[name].astype(np.float32) for name in weights}


def _descend(
    network: Network,
    weights: dict[str, F64],
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    label_smoothing: float = 0.0,
) -> tuple[float, dict[str, F64], dict[str, F64]]:
    """Return the loss of a batch, the gradients of the trained parameters, and the updated running statistics."""
    tensor = images.astype(np.float64)
    tape: list[tuple[list[str], Backward]] = []
    moved: dict[str, F64] = {}
    for placed in network.place():
        names = list(placed.parameter_shapes)
        parameters = [weights[name] for name in names]
        if isinstance(placed.layer, BatchNorm):
            moved |= zip(names[2:], _moved(placed.layer, tensor, *parameters[2:]), strict=True)
        tensor, backward = _apply(placed.layer, tensor, parameters)
        tape.append((names, backward))
    loss, gradient = _cross_entropy(tensor, labels, label_smoothing)
    gradients = dict[str, F64]()
    for names, backward in reversed(tape):
        gradient, of_parameters = backward(gradient)
        gradients |= zip(names, of_parameters, strict=False)
    return loss, gradients, moved


def _cross_entropy(logits: F64, labels: NDArray[np.int64], label_smoothing: float) -> tuple[float, F64]:
    """Return the mean cross-entropy with smoothed labels (Szegedy et al. 2016, section 7), and its gradient."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    classes = logits.shape[1]
    target = (1 - label_smoothing) * np.eye(classes)[labels] + label_smoothing / classes
    loss = float(-(target * log_softmax).sum(axis=1).mean())
    return loss, (np.exp(log_softmax) - target) / len(labels)


def _apply(layer: Layer, tensor: F64, parameters: list[F64]) -> tuple[F64, Backward]:
    """Return a layer's output in training, and its backward pass."""
    match layer:
        case Conv2d(_, size):
            return convolve(tensor, *parameters), lambda gradient: _convolve_back(tensor, parameters[0], size, gradient)
        case ReLU():
            return np.maximum(tensor, 0), lambda gradient: (gradient * (tensor > 0), ())
        case BatchNorm(epsilon):
            return _normalise(tensor, parameters[0], parameters[1], epsilon)
        case MaxPool2d(size):
            return tiles(tensor, size).max(axis=(2, 4)), lambda gradient: (_max_pool_back(tensor, size, gradient), ())
        case Dropout(rate):
            if rate:
                raise SpecError(f"{layer} drops units at random; use a rate of 0")
            return tensor, lambda gradient: (gradient, ())
        case Flatten():
            return tensor.reshape(len(tensor), -1), lambda gradient: (gradient.reshape(tensor.shape), ())
        case Dense():
            kernel, bias = parameters
            return tensor @ kernel + bias, lambda gradient: (
                gradient @ kernel.T,
                (tensor.T @ gradient, gradient.sum(axis=0)),
            )
    assert_never(layer)


def _convolve_back(tensor: F64, kernel: F64, size: int, gradient: F64) -> tuple[F64, tuple[F64, ...]]:
    """Correlate input and gradient for the kernel; convolve the gradient with the flipped kernel for the input."""
    if size % 2 == 0:
        raise SpecError("the backward pass of a convolution supports odd kernels only")
    flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    of_kernel = np.tensordot(unfold(tensor, size), gradient, axes=((0, 1, 2), (0, 1, 2))).transpose(1, 2, 0, 3)
    return convolve(gradient, flipped, np.zeros(1)), (of_kernel, gradient.sum(axis=(0, 1, 2)))


def _moved(layer: BatchNorm, tensor: F64, mean: F64, variance: F64) -> tuple[F64, F64]:
    """Return the running statistics after a batch, whose variance is divided by n - 1."""
    axes = tuple(range(tensor.ndim - 1))
    keep, take = layer.momentum, 1 - layer.momentum
    return keep * mean + take * tensor.mean(axis=axes), keep * variance + take * tensor.var(axis=axes, ddof=1)


def _normalise(tensor: F64, scale: F64, shift: F64, epsilon: float) -> tuple[F64, Backward]:
    """Normalise by the statistics of the batch (gradient: Ioffe & Szegedy 2015, section 3)."""
    axes = tuple(range(tensor.ndim - 1))
    mean, variance = tensor.mean(axis=axes), tensor.var(axis=axes)
    output = batch_norm(tensor, scale, shift, mean, variance, epsilon)
    standard = batch_norm(tensor, np.ones(1), np.zeros(1), mean, variance, epsilon)

    def backward(gradient: F64) -> tuple[F64, tuple[F64, ...]]:
        of_scale, of_shift = (gradient * standard).sum(axis=axes), gradient.sum(axis=axes)
        count = gradient.size // gradient.shape[-1]
        centred = gradient - (of_shift + standard * of_scale) / count
        return centred * scale / np.sqrt(variance + epsilon), (of_scale, of_shift)

    return output, backward


def _max_pool_back(tensor: F64, size: int, gradient: F64) -> F64:
    """Pass each tile's gradient to the first of its largest elements."""
    tiled = tiles(tensor, size)
    count, rows, _, columns, _, channels = tiled.shape
    flat = tiled.transpose(0, 1, 3, 5, 2, 4).reshape(count, rows, columns, channels, size * size)
    chosen = np.eye(size * size)[flat.argmax(axis=-1)] * gradient[..., None]
    back = chosen.reshape(count, rows, columns, channels, size, size).transpose(0, 1, 4, 2, 5, 3)
    result = np.zeros_like(tensor)
    result[:, : rows * size, : columns * size] = back.reshape(count, rows * size, columns * size, channels)
    return result
