"""PyTorch as everyone installs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from backends import onednn
from backends.protocol import (
    F32,
    FileFormat,
    InferenceSpec,
    Proof,
    Session,
    Stack,
    Training,
    TrainingSpec,
    Variant,
    first_line,
    require_evidence,
    variants_of,
    way_of,
)
from backends.pytorch_modules import as_nchw, build_module, observed, read_pth, write_pth
from backends.pytorch_training import TRAININGS, TorchTraining, TrainingWay

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


# From a module, an example batch and a precision to what is called.
Builder: TypeAlias = Callable[[Any, Any, str], Any]


@dataclass(frozen=True)
class Way:
    """How a variant is built, at which precisions, and how it shows.

    Of each precision's kernels one must appear in the profile, as proof that the variant ran; any of the prefixes will
    do. `memory_format` is that of weights and inputs.
    """

    build: Builder
    evidence: Mapping[str, tuple[str, ...]]
    memory_format: str = "channels_last"

    @property
    def variant(self) -> Variant:
        """Return what the stack says of it."""
        return Variant(first_line(self.build), precisions=tuple(self.evidence))


def eager(module: Any, example: Any, precision: str) -> Any:
    """Call the module as people write it (NCHW, inference mode)."""
    return module


def channels_last(module: Any, example: Any, precision: str) -> Any:
    """Call the module with weights and activations in channels-last memory format."""
    import torch

    return module.to(memory_format=torch.channels_last)


def jit(module: Any, example: Any, precision: str) -> Any:
    """Trace and freeze with TorchScript, channels-last."""
    return traced(channels_last(module, example, precision), example)


def compiled(module: Any, example: Any, precision: str) -> Any:
    """Compile with TorchInductor, channels-last, weights frozen: the strongest stock inference."""
    return frozen_by_inductor(channels_last(module, example, precision), "inductor")


def frozen_by_inductor(module: Any, backend: str) -> Any:
    """Compile for one batch size with frozen weights; a graph that breaks or a compiler that fails is an error."""
    import torch
    import torch._inductor.config

    # Freezing needs gradients to be off, as they are in inference mode.
    torch._inductor.config.freezing = True
    return torch.compile(module, backend=backend, dynamic=False, fullgraph=True)


PROFILING_RUNS = 3  # the TorchScript executor specialises over its first runs


def traced(module: Any, example: Any) -> Any:
    """Trace, freeze and let the executor specialise."""
    import torch

    # Without autocast's cache, whose first use would make every trace another graph.
    enabled = torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled, cache_enabled=False):
        frozen = torch.jit.freeze(torch.jit.trace(module, example))
    for _ in range(PROFILING_RUNS):
        frozen(example)
    return frozen


# For one image of few channels stock PyTorch takes its own convolution instead of oneDNN's.
CONVOLUTIONS = {"fp32": ("aten::mkldnn_convolution", "aten::thnn_conv2d"), "bf16": ("aten::mkldnn_convolution",)}
FUSED = {"fp32": ("mkldnn::_convolution_pointwise",), "bf16": ("mkldnn::_convolution_pointwise",)}
WAYS = {
    "eager": Way(eager, CONVOLUTIONS, memory_format="contiguous_format"),
    "channels_last": Way(channels_last, CONVOLUTIONS),
    "jit": Way(jit, CONVOLUTIONS),
    "compile": Way(compiled, FUSED | {"int8": ("onednn::qconv",)}),
}

STACK = Stack(
    name="pytorch",
    summary="PyTorch, vanilla",
    environment="vanilla",
    packages=("torch",),
    variants=variants_of(WAYS, TRAININGS),
    modules=("torch",),
    settings={"TORCHINDUCTOR_COMPILE_THREADS": "1"},  # no pool of compiler processes beside the arm
    restart_settings={"TORCHINDUCTOR_VEC_ISA_OK": "1"},  # the proof pass has compiled with this machine's ISA before
    cache_variables=("TORCHINDUCTOR_CACHE_DIR",),
    products=("fp32", "bf16", "int8"),
)


FILES = {".pth": FileFormat(write_pth, read_pth)}


class TorchSession:
    """A module built by one variant's builder."""

    def __init__(self, backend: PyTorch, deployment: InferenceSpec) -> None:
        import torch

        self._backend, self._deployment = backend, deployment
        self._way = way_of(backend.ways, deployment)
        self._format = getattr(torch, self._way.memory_format)
        example = self.prepare(np.zeros((deployment.batch_size, *deployment.network.input_shape), np.float32))
        with torch.inference_mode(mode=False):
            module = build_module(deployment.network, deployment.weights).eval()
            if deployment.precision == "int8":
                module = backend.quantise(module, example, self._batches(deployment.calibration))
            elif deployment.precision == "bf16":
                module = _returning_float32(module)
        enter_inference_mode()
        if deployment.precision == "bf16":
            enter_autocast()
        self.step: Callable[[Any], Any] = self._way.build(module, example, deployment.precision)
        self._dtypes = {str(parameter.dtype) for parameter in getattr(self.step, "parameters", list)()}

    def prepare(self, images: F32) -> Any:
        """Copy an NHWC batch into an NCHW tensor of the variant's memory format.

        The strides are set explicitly: with one channel they do not follow from the layout of the data, and PyTorch
        takes another path through the whole network for those of channels-last.
        """
        return as_nchw(images, self._format)

    def _batches(self, images: F32) -> list[Any]:
        """Return the images in batches of the deployment's size, the last one filled up from the front."""
        size = self._deployment.batch_size
        chosen = [np.arange(start, start + size) % len(images) for start in range(0, len(images), size)]
        return [self.prepare(images[each]) for each in chosen]

    def to_numpy(self, logits: Any) -> F32:
        """View the logits as an array."""
        array: F32 = logits.numpy()
        return array

    def prove(self, batch: Any) -> Proof:
        """Profile one step, and listen to oneDNN during another; look for the variant's kernels."""
        import torch

        names, lines, logits = observed(lambda: self.step(batch))
        require_evidence(names, self._way.evidence[self._deployment.precision])
        ran = onednn.kernels(lines)
        kernels = (*names, *sorted(map(str, ran)))
        versions = self._backend.versions() | onednn.information(lines)
        return Proof(self._precision(onednn.precision(ran), logits), torch.get_num_threads(), kernels, versions)

    def _precision(self, multiplied: str, logits: Any) -> str:
        """Return the precision of what oneDNN multiplied.

        Where that is fp32 or nothing, every parameter of the built module that is left and its outputs must agree.
        """
        if multiplied not in ("", "fp32"):
            return multiplied
        found = self._dtypes | {str(logits.dtype)}
        reduced = self._backend.reduced_arithmetic()
        if found == {"torch.float32"} and not reduced:
            return "fp32"
        return "+".join(sorted(found)) + (f" with {reduced}" if reduced else "")

    def save(self, folder: Path) -> None:
        """Write the scripted module where there is one, else the state that the same code would load."""
        import torch

        if isinstance(self.step, torch.jit.ScriptModule):
            torch.jit.save(self.step, folder / "model.pt")
        else:
            module = build_module(self._deployment.network, self._deployment.weights)
            torch.save(module.state_dict(), folder / "state.pth")


class PyTorch:
    """The framework, and the hooks that a derived stack replaces."""

    ways: Mapping[str, Way] = WAYS
    trainings: Mapping[str, TrainingWay] = TRAININGS

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)

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

    def quantise(self, module: Any, example: Any, batches: list[Any]) -> Any:
        """Quantise after training by PT2E, with ranges seen in the batches."""
        import torch
        from torch.ao.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torch.ao.quantization.quantizer import x86_inductor_quantizer as x86

        # Without strict=True the quantizer finds no layers and leaves the model in fp32 (pytorch/pytorch#160095).
        exported = torch.export.export_for_training(module, (example,), strict=True).module()
        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(exported, quantizer)
        for batch in batches:
            prepared(batch)
        return _without_gradients(convert_pt2e(prepared))

    def with_optimizer(self, module: Any, optimizer: Any, course: TrainingSpec) -> tuple[Any, Any]:
        """Return what is trained, and by what."""
        return module, optimizer

    def moment(self, stored: Any, parameter: Any) -> Any:
        """Return what the optimiser remembers of a parameter in its memory format, which fused kernels rely on."""
        import torch

        return torch.empty_like(parameter).copy_(stored) if stored.shape == parameter.shape else stored

    def inference(self, deployment: InferenceSpec) -> Session:
        """Build a session; the process stays in inference mode, and in its precision, from here on."""
        return TorchSession(self, deployment)

    def training(self, course: TrainingSpec) -> Training:
        """Build a training."""
        return TorchTraining(self, course)

    def product(self, precision: str, order: int) -> Callable[[], object]:
        """Return a product of square matrices; that of int8 has sums of int32."""
        import torch

        kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[precision]
        one, other = (torch.ones(order, order, dtype=kind) for _ in range(2))
        multiply = torch._int_mm if precision == "int8" else torch.mm
        product = torch.empty(order, order, dtype=torch.int32 if precision == "int8" else kind)
        return lambda: multiply(one, other, out=product)


@cache
def enter_inference_mode() -> Any:
    """Enter inference mode for the life of the process, as people do around their loop: nothing is added to a call."""
    import torch

    mode = torch.inference_mode()
    mode.__enter__()
    return mode


@cache
def enter_autocast() -> Any:
    """Enter bf16 autocast for the life of the process, likewise."""
    import torch

    mode = torch.autocast("cpu", torch.bfloat16)
    mode.__enter__()
    return mode


def open_backend(threads: int) -> PyTorch:
    """Import PyTorch and set its threads."""
    return PyTorch(threads)


def _returning_float32(module: Any) -> Any:
    """Let a module of lower precision end with logits in fp32, as every arm does."""
    import torch

    class Float32(torch.nn.Module):  # type: ignore[misc] # torch is not there when types are checked
        """Turn the logits into fp32."""

        def forward(self, logits: Any) -> Any:
            return logits.float()

    return torch.nn.Sequential(module, Float32()).eval()


def _without_gradients(module: Any) -> Any:
    import torch

    torch.ao.quantization.move_exported_model_to_eval(module)
    return module.requires_grad_(requires_grad=False)
