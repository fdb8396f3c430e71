"""Declare a CNN as data: layers, shapes, parameter counts.

The neutral layout is NHWC for tensors, HWIO for convolution kernels and (in, out) for dense kernels; flattening keeps
NHWC order. Each backend converts between this layout and its own.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from math import prod
from typing import TypeAlias

from models.errors import UserError

Shape: TypeAlias = tuple[int, ...]

# The parameters of batch normalisation that have no gradient.
RUNNING = ("mean", "variance")


class SpecError(UserError):
    """The layers of a network do not fit together."""


@dataclass(frozen=True)
class Conv2d:
    """Convolve with stride 1, zero-padded so that height and width stay the same."""

    filters: int
    kernel_size: int = 3

    def output_shape(self, shape: Shape) -> Shape:
        height, width, _ = _expect(shape, 3, self)
        return height, width, self.filters

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (self.kernel_size, self.kernel_size, shape[-1], self.filters), "bias": (self.filters,)}

    def multiply_adds(self, shape: Shape) -> int:
        return prod(shape) * self.filters * self.kernel_size**2


@dataclass(frozen=True)
class ReLU:
    def output_shape(self, shape: Shape) -> Shape:
        return shape


@dataclass(frozen=True)
class BatchNorm:
    """Standardise each channel, then scale and shift it (Ioffe & Szegedy 2015).

    Inference uses the running mean and variance. Training uses the batch's, divided by n, and moves the running ones by
    `1 - momentum` towards the batch's mean and its variance divided by n - 1.
    """

    epsilon: float = 1e-3
    momentum: float = 0.99

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        return dict.fromkeys(("scale", "shift", *RUNNING), (shape[-1],))


@dataclass(frozen=True)
class Dropout:
    """Zero a fraction `rate` of the activations in training and scale up the others; do nothing in inference."""

    rate: float

    def output_shape(self, shape: Shape) -> Shape:
        return shape


@dataclass(frozen=True)
class MaxPool2d:
    """Take the maximum of each size x size window; a remainder at the border is dropped."""

    size: int = 2

    def output_shape(self, shape: Shape) -> Shape:
        height, width, channels = _expect(shape, 3, self)
        if min(height, width) < self.size:
            raise SpecError(f"{self} does not fit an input of {height}x{width}")
        return height // self.size, width // self.size, channels


@dataclass(frozen=True)
class Flatten:
    """Reshape the feature maps into one vector, in NHWC order."""

    def output_shape(self, shape: Shape) -> Shape:
        return (prod(shape),)


@dataclass(frozen=True)
class Dense:
    units: int

    def output_shape(self, shape: Shape) -> Shape:
        _expect(shape, 1, self)
        return (self.units,)

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (shape[0], self.units), "bias": (self.units,)}

    def multiply_adds(self, shape: Shape) -> int:
        return shape[0] * self.units


Layer: TypeAlias = Conv2d | ReLU | BatchNorm | MaxPool2d | Dropout | Flatten | Dense


@dataclass(frozen=True)
class PlacedLayer:
    """A layer with its name and the shapes around it (without the batch axis)."""

    name: str
    layer: Layer
    input_shape: Shape
    output_shape: Shape

    @property
    def kind(self) -> str:
        return type(self.layer).__name__

    @property
    def parameter_shapes(self) -> dict[str, Shape]:
        """The shapes by parameter name, such as `conv2d1.weight`."""
        if not isinstance(self.layer, Conv2d | BatchNorm | Dense):
            return {}
        shapes = self.layer.parameter_shapes(self.input_shape)
        return {f"{self.name}.{name}": shape for name, shape in shapes.items()}

    @property
    def parameters(self) -> int:
        return sum(prod(shape) for shape in self.parameter_shapes.values())

    @property
    def trainable_parameters(self) -> int:
        return sum(prod(shape) for name, shape in self.parameter_shapes.items() if is_trainable(name))

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds of one image; only layers with a kernel count."""
        return self.layer.multiply_adds(self.input_shape) if isinstance(self.layer, Conv2d | Dense) else 0


@dataclass(frozen=True)
class Network:
    """A feed-forward CNN; pixels are scaled to [0, 1] and standardised with `mean` and `std` before the first layer.

    `checkpoint` is the path of the trained weights of a user's network; those of ours are found by name.
    """

    name: str
    summary: str
    layers: tuple[Layer, ...]
    input_shape: Shape = (28, 28, 1)
    mean: float = 0.0
    std: float = 1.0
    checkpoint: str | None = None

    def place(self) -> tuple[PlacedLayer, ...]:
        """Infer every shape; raise SpecError when a layer does not fit its input."""
        placed, shape, counts = list[PlacedLayer](), self.input_shape, dict[str, int]()
        for layer in self.layers:
            kind = type(layer).__name__.lower()
            counts[kind] = counts.get(kind, 0) + 1
            placed.append(PlacedLayer(f"{kind}{counts[kind]}", layer, shape, layer.output_shape(shape)))
            shape = placed[-1].output_shape
        return tuple(placed)

    @property
    def parameter_shapes(self) -> dict[str, Shape]:
        """The shapes by parameter name, in the order of the layers."""
        return {name: shape for placed in self.place() for name, shape in placed.parameter_shapes.items()}

    @property
    def parameters(self) -> int:
        return sum(placed.parameters for placed in self.place())

    @property
    def trainable_parameters(self) -> int:
        return sum(placed.trainable_parameters for placed in self.place())

    @property
    def multiply_adds(self) -> int:
        return sum(placed.multiply_adds for placed in self.place())

    @property
    def digest(self) -> str:
        """The SHA-256 of layers, input shape and standardisation, without name, summary and checkpoint."""
        layers = [[type(layer).__name__, asdict(layer)] for layer in self.layers]
        canonical = json.dumps([layers, self.input_shape, self.mean, self.std])
        return hashlib.sha256(canonical.encode()).hexdigest()


def is_trainable(parameter: str) -> bool:
    """Return whether a parameter has a gradient, unlike running statistics."""
    return parameter.rpartition(".")[2] not in RUNNING


def _expect(shape: Shape, rank: int, layer: Layer) -> Shape:
    if len(shape) != rank:
        raise SpecError(f"{layer} needs an input of {rank} axes, not {shape}")
    return shape
