"""PyTorch as everyone installs it."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.protocol import F32, Proof, ProofError, Session, Stack, Training, UnsupportedError, described
from models.spec import Conv2d, Dense, Flatten, MaxPool2d, ReLU

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from models.recipes import Recipe
    from models.spec import Network, PlacedLayer
    from models.weights import Weights


def eager(module: Any, example: Any) -> Any:
    """Call the module as people write it (NCHW, inference mode)."""
    return module


def channels_last(module: Any, example: Any) -> Any:
    """Call the module with weights and activations in channels-last memory format."""
    import torch

    return module.to(memory_format=torch.channels_last)


def compiled(module: Any, example: Any) -> Any:
    """Compile with TorchInductor, channels-last, weights frozen: the strongest stock inference."""
    import torch
    import torch._inductor.config

    # Freezing needs gradients to be off, as they are in inference mode.
    torch._inductor.config.freezing = True
    return torch.compile(channels_last(module, example), dynamic=False, fullgraph=True)


KERNEL_AXES = 4  # of a convolution's weights

VARIANTS: dict[str, Callable[..., Any]] = {"eager": eager, "channels_last": channels_last, "compile": compiled}

# A kernel that must show in the profile of a variant, as proof that it ran: any of the prefixes will do.
# (For one image of few channels stock PyTorch takes its own convolution instead of oneDNN's.)
EVIDENCE = {
    "eager": ("aten::mkldnn_convolution", "aten::thnn_conv2d"),
    "channels_last": ("aten::mkldnn_convolution", "aten::thnn_conv2d"),
    "compile": ("mkldnn::_convolution_pointwise",),
}

STACK = Stack(
    name="pytorch",
    summary="PyTorch, vanilla",
    environment="vanilla",
    packages=("torch",),
    variants=described(VARIANTS),
    settings={"TORCHINDUCTOR_COMPILE_THREADS": "1"},  # no pool of compiler processes beside the arm
    restart_settings={"TORCHINDUCTOR_VEC_ISA_OK": "1"},  # the proof pass has compiled with this machine's ISA before
    cache_variables=("TORCHINDUCTOR_CACHE_DIR",),
)


class TorchSession:
    """A module built by one variant's builder."""

    def __init__(
        self, backend: PyTorch, module: Any, variant: str, batch_size: int, input_shape: tuple[int, ...]
    ) -> None:
        enter_inference_mode()
        self._backend, self._variant = backend, variant
        self._format = backend.memory_format(variant)
        example = self.prepare(np.zeros((batch_size, *input_shape), np.float32))
        self.step: Callable[[Any], Any] = backend.variants[variant](module, example)
        self._dtypes = {str(parameter.dtype) for parameter in getattr(self.step, "parameters", list)()}

    def prepare(self, images: F32) -> Any:
        """Copy an NHWC batch into an NCHW tensor of the variant's memory format.

        The strides are set explicitly: with one channel they do not follow from the layout of the data, and PyTorch
        takes another path through the whole network for those of channels-last.
        """
        return as_nchw(images, self._format)

    def to_numpy(self, logits: Any) -> F32:
        """View the logits as an array."""
        array: F32 = logits.numpy()
        return array

    def prove(self, batch: Any) -> Proof:
        """Profile one step and look for the variant's kernels."""
        import torch

        # Not torch.profiler: its first use loads half of the compiler, for which an eager process has no use.
        with torch.autograd.profiler.profile(use_kineto=False) as profile:
            logits = self.step(batch)
        kernels = tuple(sorted({event.name for event in profile.function_events}))
        wanted = self._backend.evidence[self._variant]
        if not any(kernel.startswith(wanted) for kernel in kernels):
            raise ProofError(f"none of {', '.join(wanted)} ran")
        return Proof(self._precision(logits), torch.get_num_threads(), kernels, self._backend.versions())

    def _precision(self, logits: Any) -> str:
        """Return what the built module's parameters (where it still has any) and its outputs are made of."""
        found = self._dtypes | {str(logits.dtype)}
        reduced = self._backend.reduced_arithmetic()
        if found == {"torch.float32"} and not reduced:
            return "fp32"
        return "+".join(sorted(found)) + (f" with {reduced}" if reduced else "")


def as_nchw(images: F32, memory_format: Any) -> Any:
    """Return a copy of an NHWC batch with exactly the strides of `memory_format`."""
    import torch

    view = torch.from_numpy(images).permute(0, 3, 1, 2)
    return torch.empty(view.shape, dtype=view.dtype, memory_format=memory_format).copy_(view)


class TorchTraining:
    """A module and its optimiser."""

    def __init__(self, network: Network, module: Any, recipe: Recipe) -> None:
        import torch

        self._network = network
        self._module = module.to(memory_format=torch.channels_last).train()
        self._optimizer = torch.optim.Adam(self._module.parameters(), lr=recipe.learning_rate)
        self._loss = torch.nn.CrossEntropyLoss()

    def step(self, images: F32, labels: NDArray[np.int64], learning_rate: float) -> float:
        """Take one step of Adam on the mean cross-entropy."""
        import torch

        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        batch = as_nchw(images, torch.channels_last)
        loss = self._loss(self._module(batch), torch.from_numpy(labels))
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())

    def weights(self) -> Weights:
        """Return the weights in neutral layout."""
        return neutral_weights(self._network, self._module)


class PyTorch:
    """The framework, and the hooks that a derived stack replaces: its variants, their evidence, its versions."""

    variants: Mapping[str, Callable[..., Any]] = VARIANTS
    evidence: Mapping[str, tuple[str, ...]] = EVIDENCE

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)

    def memory_format(self, variant: str) -> Any:
        """Return the memory format of a variant's inputs: plain for `eager`, as people write it."""
        import torch

        return torch.contiguous_format if variant == "eager" else torch.channels_last

    def reduced_arithmetic(self) -> str:
        """Return what permits fewer bits inside fp32 operations, or nothing."""
        import torch

        if torch.is_autocast_enabled("cpu"):
            return "autocast"
        return "" if torch.get_float32_matmul_precision() == "highest" else "reduced float32 matmul precision"

    def versions(self) -> dict[str, str]:
        """Return the framework's version and the instruction set that its own kernels use."""
        import torch

        return {"torch": torch.__version__, "isa": torch.backends.cpu.get_cpu_capability()}

    def inference(self, network: Network, weights: Weights, variant: str, precision: str, batch_size: int) -> Session:
        """Build a session; the process stays in inference mode from here on."""
        if variant not in self.variants or precision not in STACK.precisions:
            raise UnsupportedError(f"no variant {variant} at {precision}")
        module = build_module(network, weights).eval()
        return TorchSession(self, module, variant, batch_size, network.input_shape)

    def training(self, network: Network, weights: Weights, recipe: Recipe) -> Training:
        """Build a training with channels-last weights."""
        if recipe.optimizer != "adam":
            raise UnsupportedError(f"no optimiser {recipe.optimizer}")
        return TorchTraining(network, build_module(network, weights), recipe)


@cache
def enter_inference_mode() -> Any:
    """Enter inference mode for the life of the process, as people do around their loop: nothing is added to a call."""
    import torch

    mode = torch.inference_mode()
    mode.__enter__()
    return mode


def open_backend(threads: int) -> PyTorch:
    """Import PyTorch and set its threads."""
    return PyTorch(threads)


def build_module(network: Network, weights: Weights) -> Any:
    """Build `network` from torch.nn modules and load neutral weights into it."""
    import torch

    placed = network.place()
    module = torch.nn.Sequential()
    for layer in placed:
        module.add_module(layer.name, _module(layer))
    state = {name: torch.from_numpy(_to_torch(network, name, array)) for name, array in weights.items()}
    module.load_state_dict(state)
    return module


def _module(placed: PlacedLayer) -> Any:
    from torch import nn

    match placed.layer:
        case Conv2d(filters, kernel_size):
            return nn.Conv2d(placed.input_shape[-1], filters, kernel_size, padding="same")
        case ReLU():
            return nn.ReLU()
        case MaxPool2d(size):
            return nn.MaxPool2d(size)
        case Flatten():
            return nn.Flatten()
        case Dense(units):
            return nn.Linear(placed.input_shape[0], units)


def neutral_weights(network: Network, module: Any) -> Weights:
    """Return the parameters of a module made by `build_module` in neutral layout."""
    state = module.state_dict()
    return {name: _from_torch(network, name, state[name].contiguous().numpy()) for name in network.parameter_shapes}


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
