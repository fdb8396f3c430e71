"""Declare a CNN as data: layers, shapes, parameter counts.

Tensors are NHWC, convolution kernels HWIO, dense kernels (in, out), and flattening keeps NHWC order. Each backend
translates from these conventions to its own.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

Shape: TypeAlias = tuple[int, ...]

RUNNING = ("mean", "variance")  # the parameters of batch normalisation that have no gradient


class SpecError(UserError):
    """A network whose layers do not fit together."""


@dataclass(frozen=True)
class Conv2d:
    """Convolve with stride 1, zero-padded so that height and width stay the same."""

    filters: int
    kernel_size: int = 3

    def output_shape(self, shape: Shape) -> Shape:
        """Return (height, width, filters)."""
        height, width, _ = _expect(shape, 3, self)
        return height, width, self.filters

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return the HWIO kernel's shape and the bias's."""
        return {"weight": (self.kernel_size, self.kernel_size, shape[-1], self.filters), "bias": (self.filters,)}

    def multiply_adds(self, shape: Shape) -> int:
        """Return the multiply-adds of one image."""
        return prod(shape) * self.filters * self.kernel_size**2


@dataclass(frozen=True)
class ReLU:
    """Clip at zero from below."""

    def output_shape(self, shape: Shape) -> Shape:
        """Return the input's shape."""
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
        """Return the input's shape."""
        return shape

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return the shapes of scale and shift, which are trained, and of the running mean and variance."""
        return dict.fromkeys(("scale", "shift", *RUNNING), (shape[-1],))


@dataclass(frozen=True)
class Dropout:
    """Zero a share `rate` of the activations in training, and scale up the others; do nothing in inference."""

    rate: float

    def output_shape(self, shape: Shape) -> Shape:
        """Return the input's shape."""
        return shape


@dataclass(frozen=True)
class MaxPool2d:
    """Take the maximum of each size x size window; a remainder at the border is dropped."""

    size: int = 2

    def output_shape(self, shape: Shape) -> Shape:
        """Return (height // size, width // size, channels)."""
        height, width, channels = _expect(shape, 3, self)
        if min(height, width) < self.size:
            raise SpecError(f"{self} does not fit an input of {height}x{width}")
        return height // self.size, width // self.size, channels


@dataclass(frozen=True)
class Flatten:
    """Lay the feature maps out as one vector, in NHWC order."""

    def output_shape(self, shape: Shape) -> Shape:
        """Return (features,)."""
        return (prod(shape),)


@dataclass(frozen=True)
class Dense:
    """Multiply by a matrix and add a bias."""

    units: int

    def output_shape(self, shape: Shape) -> Shape:
        """Return (units,)."""
        _expect(shape, 1, self)
        return (self.units,)

    def parameter_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return the (in, out) kernel's shape and the bias's."""
        return {"weight": (shape[0], self.units), "bias": (self.units,)}

    def multiply_adds(self, shape: Shape) -> int:
        """Return the multiply-adds of one image."""
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
        """Return the layer's type as the table of layers names it."""
        return type(self.layer).__name__

    @property
    def parameter_shapes(self) -> dict[str, Shape]:
        """Return {parameter name: shape}, names qualified by the layer's."""
        if not isinstance(self.layer, Conv2d | BatchNorm | Dense):
            return {}
        shapes = self.layer.parameter_shapes(self.input_shape)
        return {f"{self.name}.{name}": shape for name, shape in shapes.items()}

    @property
    def parameters(self) -> int:
        """Return the number of parameters."""
        return sum(prod(shape) for shape in self.parameter_shapes.values())

    @property
    def trainable_parameters(self) -> int:
        """Return the number of parameters that training changes by their gradients."""
        return sum(prod(shape) for name, shape in self.parameter_shapes.items() if is_trainable(name))

    @property
    def multiply_adds(self) -> int:
        """Return the multiply-adds of one image; layers without a kernel count none."""
        return self.layer.multiply_adds(self.input_shape) if isinstance(self.layer, Conv2d | Dense) else 0


@dataclass(frozen=True)
class Network:
    """A feed-forward CNN.

    `mean` and `std` say how pixels scaled to [0, 1] are standardised before the first layer.
    """

    name: str
    summary: str
    layers: tuple[Layer, ...]
    input_shape: Shape = (28, 28, 1)
    mean: float = 0.0
    std: float = 1.0

    def place(self) -> tuple[PlacedLayer, ...]:
        """Infer every shape.

        Raises SpecError when a layer does not fit what comes before it.
        """
        return tuple(self._walk())

    def _walk(self) -> Iterator[PlacedLayer]:
        shape, seen = self.input_shape, dict[str, int]()
        for layer in self.layers:
            stem = type(layer).__name__.lower()
            seen[stem] = seen.get(stem, 0) + 1
            output = layer.output_shape(shape)
            yield PlacedLayer(f"{stem}{seen[stem]}", layer, shape, output)
            shape = output

    @property
    def parameter_shapes(self) -> dict[str, Shape]:
        """Return {parameter name: shape} in order of the layers."""
        return {name: shape for placed in self.place() for name, shape in placed.parameter_shapes.items()}

    @property
    def parameters(self) -> int:
        """Return the number of parameters."""
        return sum(placed.parameters for placed in self.place())

    @property
    def trainable_parameters(self) -> int:
        """Return the number of parameters that training changes by their gradients."""
        return sum(placed.trainable_parameters for placed in self.place())

    @property
    def multiply_adds(self) -> int:
        """Return the multiply-adds of one image."""
        return sum(placed.multiply_adds for placed in self.place())

    @property
    def digest(self) -> str:
        """Return the SHA-256 of what the network computes (its name and summary left out)."""
        layers = [[type(layer).__name__, asdict(layer)] for layer in self.layers]
        canonical = json.dumps([layers, self.input_shape, self.mean, self.std])
        return hashlib.sha256(canonical.encode()).hexdigest()


def is_trainable(parameter: str) -> bool:
    """Tell whether training changes a parameter by its gradient; running statistics it does not."""
    return parameter.rpartition(".")[2] not in RUNNING


def _expect(shape: Shape, rank: int, layer: Layer) -> Shape:
    if len(shape) != rank:
        raise SpecError(f"{layer} takes an input of {rank} axes, not {shape}")
    return shape
