"""Build the networks from torch.nn modules, and convert batches and weights between neutral layout and PyTorch's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.formats.layouts import from_pytorch, to_pytorch
from models.spec import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, ReLU

if TYPE_CHECKING:
    from backends.protocol import F32
    from models.spec import Network, PlacedLayer
    from models.weights import Weights

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
    state |= {_torch_name(name): torch.from_numpy(to_pytorch(network, name, array)) for name, array in weights.items()}
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
    tensors = module.state_dict()
    return {
        name: from_pytorch(network, name, tensors[_torch_name(name)].contiguous().numpy())
        for name in network.parameter_shapes
    }


def _torch_name(name: str) -> str:
    layer, _, parameter = name.rpartition(".")
    return f"{layer}.{NORM_NAMES.get(parameter, parameter)}"
