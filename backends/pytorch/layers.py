"""Build the networks from torch.nn modules, and convert batches and weights between neutral layout and PyTorch's."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from models.spec import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, ReLU
from models.weights import WeightsError

if TYPE_CHECKING:
    from pathlib import Path

    from backends.protocol import F32
    from models.spec import Network, PlacedLayer
    from models.weights import Weights

# The number of axes of a convolution's weights.
KERNEL_AXES = 4
NORM_NAMES = {"scale": "weight", "shift": "bias", "mean": "running_mean", "variance": "running_var"}


def as_nchw(images: F32, memory_format: Any) -> Any:
    """Copy an NHWC batch into an NCHW tensor with exactly the strides of `memory_format`.

    With a single channel the strides do not follow from the layout of the data, and PyTorch takes another path through
    the whole network if they are those of channels-last.
    """
    import torch

    view = torch.from_numpy(images).permute(0, 3, 1, 2)
    return torch.empty(view.shape, dtype=view.dtype, memory_format=memory_format).copy_(view)


def build_module(network: Network, weights: Weights) -> Any:
    import torch

    module = torch.nn.Sequential()
    for layer in network.place():
        module.add_module(layer.name, _module(layer))
    # Start from the module's own state: its counters of batches have no neutral counterpart.
    state = module.state_dict()
    state |= {_torch_name(name): torch.from_numpy(to_torch(network, name, array)) for name, array in weights.items()}
    module.load_state_dict(state)
    return module


def _module(placed: PlacedLayer) -> Any:
    from torch import nn

    match placed.layer:
        case Conv2d(filters, size):
            # As a number where possible: quantizers do not know "same".
            return nn.Conv2d(placed.input_shape[-1], filters, size, padding=size // 2 if size % 2 else "same")
        case ReLU():
            return nn.ReLU()
        case BatchNorm(epsilon, momentum):
            kind = nn.BatchNorm2d if len(placed.input_shape) > 1 else nn.BatchNorm1d
            return kind(placed.input_shape[-1], eps=epsilon, momentum=1 - momentum)
        case MaxPool2d(size):
            return nn.MaxPool2d(size)
        case Dropout(rate):
            return nn.Dropout(rate)
        case Flatten():
            return nn.Flatten()
        case Dense(units):
            return nn.Linear(placed.input_shape[0], units)


def neutral_weights(network: Network, module: Any) -> Weights:
    return _from_state_dict(network, module.state_dict())


def read_model(path: Path, network: Network) -> Weights:
    """Read a state dict, by our names or, with other names, by the order and shapes of its tensors.

    Raises WeightsError when it holds anything but tensors, or tensors that do not fit the network.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{path}: can't be read as a file of tensors, and nothing else is allowed ({type(error).__name__})"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsError(f"{path}: not a state dict: it must hold tensors by name")
    tensors = {name: tensor for name, tensor in content.items() if not name.endswith("num_batches_tracked")}
    zeros = {name: np.zeros(shape, np.float32) for name, shape in network.parameter_shapes.items()}
    shapes = {_torch_name(name): to_torch(network, name, array).shape for name, array in zeros.items()}
    if tensors.keys() != shapes.keys():
        tensors = dict(zip(shapes, tensors.values(), strict=False)) if len(tensors) == len(shapes) else {}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes:
        count = sum(tensor.numel() for tensor in content.values())
        raise WeightsError(
            f"{path}: does not fit {network.name}: {count:,} numbers in {len(content)} tensors, not "
            f"{network.parameters:,}"
        )
    return _from_state_dict(network, {name: tensor.float() for name, tensor in tensors.items()})


def write_model(path: Path, network: Network, weights: Weights) -> None:
    import torch

    torch.save(build_module(network, weights).state_dict(), path)


def _from_state_dict(network: Network, tensors: dict[str, Any]) -> Weights:
    return {
        name: _from_torch(network, name, tensors[_torch_name(name)].contiguous().numpy())
        for name in network.parameter_shapes
    }


def _torch_name(name: str) -> str:
    layer, _, parameter = name.rpartition(".")
    return f"{layer}.{NORM_NAMES.get(parameter, parameter)}"


def to_torch(network: Network, name: str, array: F32) -> F32:
    """Turn HWIO into OIHW, (in, out) into (out, in), and rows in NHWC flatten order into NCHW order."""
    if array.ndim == 1:
        return array.copy()
    if array.ndim == KERNEL_AXES:
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    if shape := _flattened_shape(network, name):
        array = array.reshape(*shape, -1).transpose(2, 0, 1, 3).reshape(array.shape)
    return np.ascontiguousarray(array.T)


def _from_torch(network: Network, name: str, array: F32) -> F32:
    """Undo `to_torch`."""
    if array.ndim == 1:
        return array.copy()
    if array.ndim == KERNEL_AXES:
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    array = array.T
    if shape := _flattened_shape(network, name):
        height, width, channels = shape
        array = array.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(array.shape)
    return np.ascontiguousarray(array)


def _flattened_shape(network: Network, name: str) -> tuple[int, ...] | None:
    """Return the shape (height, width, channels) that is flattened right before the layer of parameter `name`."""
    for before, layer in pairwise(network.place()):
        if name.startswith(f"{layer.name}.") and isinstance(before.layer, Flatten):
            return before.input_shape
    return None
