"""Build the networks from torch.nn modules, and carry weights and batches between PyTorch's layout and ours."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from backends import onednn
from models.spec import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, ReLU
from models.weights import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backends.protocol import F32
    from models.spec import Network, PlacedLayer
    from models.weights import Weights

KERNEL_AXES = 4  # of a convolution's weights
NORM_NAMES = {"scale": "weight", "shift": "bias", "mean": "running_mean", "variance": "running_var"}


def as_nchw(images: F32, memory_format: Any) -> Any:
    """Return a copy of an NHWC batch with exactly the strides of `memory_format`."""
    import torch

    view = torch.from_numpy(images).permute(0, 3, 1, 2)
    return torch.empty(view.shape, dtype=view.dtype, memory_format=memory_format).copy_(view)


def build_module(network: Network, weights: Weights) -> Any:
    """Build `network` from torch.nn modules and load neutral weights into it."""
    import torch

    module = torch.nn.Sequential()
    for layer in network.place():
        module.add_module(layer.name, _module(layer))
    state = module.state_dict()  # its counters of batches seen have no neutral counterpart
    state |= {_torch_name(name): torch.from_numpy(_to_torch(network, name, array)) for name, array in weights.items()}
    module.load_state_dict(state)
    return module


def _module(placed: PlacedLayer) -> Any:
    from torch import nn

    match placed.layer:
        case Conv2d(filters, size):
            # In numbers where it can be: quantizers do not know "same".
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
    """Return the parameters of a module made by `build_module` in neutral layout."""
    state = module.state_dict()
    return {
        name: _from_torch(network, name, state[_torch_name(name)].contiguous().numpy())
        for name in network.parameter_shapes
    }


def _torch_name(name: str) -> str:
    layer, _, parameter = name.rpartition(".")
    return f"{layer}.{NORM_NAMES.get(parameter, parameter)}"


def _to_torch(network: Network, name: str, array: F32) -> F32:
    """Turn HWIO into OIHW, (in, out) into (out, in), and rows in NHWC flatten order into NCHW order."""
    if array.ndim == 1:
        return array.copy()
    if array.ndim == KERNEL_AXES:
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    if before := _flattened(network, name):
        array = array.reshape(*before, -1).transpose(2, 0, 1, 3).reshape(array.shape)
    return np.ascontiguousarray(array.T)


def _from_torch(network: Network, name: str, array: F32) -> F32:
    """Undo `_to_torch`."""
    if array.ndim == 1:
        return array.copy()
    if array.ndim == KERNEL_AXES:
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    array = array.T
    if before := _flattened(network, name):
        height, width, channels = before
        array = array.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(array.shape)
    return np.ascontiguousarray(array)


def _flattened(network: Network, name: str) -> tuple[int, ...] | None:
    """Return the (height, width, channels) that were flattened right before the layer of parameter `name`."""
    placed = network.place()
    for before, layer in pairwise(placed):
        if name.startswith(f"{layer.name}.") and isinstance(before.layer, Flatten):
            return before.input_shape
    return None


def observed(run: Callable[[], Any]) -> tuple[tuple[str, ...], list[str], Any]:
    """Profile one run, and listen to oneDNN during another; return operators, oneDNN's lines, the first's result."""
    import torch

    # Not torch.profiler: its first use loads half of the compiler, for which an eager process has no use.
    with torch.autograd.profiler.profile(use_kineto=False) as profile:
        result = run()
    names = tuple(sorted({event.name for event in profile.function_events}))
    with onednn.standard_output() as lines, torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        run()
    return names, lines, result


def write_pth(path: Path, network: Network, weights: Weights) -> None:
    """Write a state dict, as `torch.save` does."""
    import torch

    torch.save(build_module(network, weights).state_dict(), path)


def read_pth(path: Path, network: Network) -> Weights:
    """Read a state dict, by our names or by the order and the shapes of its tensors.

    Raises WeightsError when it holds anything but tensors, or others than the network's.
    """
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{path}: no file of tensors alone, which is all that is read ({type(error).__name__})"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(each, torch.Tensor) for each in found.values()):
        raise WeightsError(f"{path}: no state dict: it must hold tensors by name")
    tensors = {name: each for name, each in found.items() if not name.endswith("num_batches_tracked")}
    shapes = {_torch_name(name): _to_torch(network, name, array).shape for name, array in _zeros(network).items()}
    if tensors.keys() != shapes.keys():
        tensors = dict(zip(shapes, tensors.values(), strict=False)) if len(tensors) == len(shapes) else {}
    if {name: tuple(each.shape) for name, each in tensors.items()} != shapes:
        held, wanted = sum(each.numel() for each in found.values()), network.parameters
        raise WeightsError(
            f"{path}: does not fit {network.name}: {held:,} numbers in {len(found)} tensors, not {wanted:,}"
        )
    return {
        name: _from_torch(network, name, tensors[_torch_name(name)].float().contiguous().numpy())
        for name in network.parameter_shapes
    }


def _zeros(network: Network) -> Weights:
    return {name: np.zeros(shape, np.float32) for name, shape in network.parameter_shapes.items()}
