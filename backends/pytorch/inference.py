"""Inference with PyTorch: its variants, and the session that they share."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from backends import onednn
from backends.builders import FLOATS, require_evidence
from backends.protocol import F32, InferenceSpec, Proof, Variant
from backends.pytorch.framework import profile
from backends.pytorch.layers import as_nchw, build_module

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backends.pytorch.framework import Framework

# Takes a module, an example batch and a precision; returns the callable that is timed.
Build: TypeAlias = Callable[[Any, Any, str], Any]


@dataclass(frozen=True)
class InferenceBuilder:
    """How a variant is built, and by which operators it is recognised.

    `evidence` holds prefixes of the names of operators and of oneDNN's primitives by precision; one of them must run.
    `memory_format` is that of weights and inputs.
    """

    variant: Variant
    build: Build
    evidence: Mapping[str, tuple[str, ...]]
    memory_format: str = "channels_last"


def eager(module: Any, example: Any, precision: str) -> Any:
    return module


def channels_last(module: Any, example: Any, precision: str) -> Any:
    import torch

    return module.to(memory_format=torch.channels_last)


def jit(module: Any, example: Any, precision: str) -> Any:
    return trace_and_freeze(channels_last(module, example, precision), example)


def compiled(module: Any, example: Any, precision: str) -> Any:
    return compile_frozen(channels_last(module, example, precision), "inductor")


def wrapped_in_cpp(module: Any, example: Any, precision: str) -> Any:
    return compile_frozen(channels_last(module, example, precision), "inductor", {"cpp_wrapper": True})


# With max_autotune TorchInductor also generates matrix products itself, and takes the fastest. With several threads
# PyTorch 2.8 opens a second parallel region for what is fused into them, and never closes it: the compiler fails.
# Without fusion only candidates fail, and another one is taken.
AUTOTUNE = {"max_autotune": True, "epilogue_fusion": False}


def autotuned(options: dict[str, bool]) -> Build:
    def build(module: Any, example: Any, precision: str) -> Any:
        return compile_frozen(channels_last(module, example, precision), "inductor", options)

    return build


def compile_frozen(module: Any, backend: str, options: dict[str, bool] | None = None) -> Any:
    """Compile for one batch size with frozen weights; a graph break or a compiler failure is an error.

    `options` are settings of TorchInductor for this module.
    """
    import torch
    import torch._inductor.config

    # Freezing requires gradients to be off, as they are in inference mode.
    torch._inductor.config.freezing = True
    return torch.compile(module, backend=backend, dynamic=False, fullgraph=True, options=options)


def ahead_of_time(module: Any, example: Any, precision: str) -> Any:
    """Compile to a package that runs without Python, and load it; a package that exists is loaded again."""
    import torch
    import torch._inductor

    weights = hashlib.sha256(str(module).encode())
    for tensor in module.state_dict().values():
        weights.update(tensor.numpy().tobytes())
    name = "-".join((weights.hexdigest(), precision, str(len(example))))
    package = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / f"{name}.pt2"
    if not package.exists():
        package.parent.mkdir(parents=True, exist_ok=True)
        # Other workers of the arm may compile the same package.
        own = package.with_stem(f"{package.stem}-{os.getpid()}")
        # Tensors of inference mode can't be exported.
        with torch.inference_mode(mode=False), torch.no_grad():
            exported = torch.export.export(channels_last(module, example, precision), (example.clone(),))
            torch._inductor.aoti_compile_and_package(
                exported, package_path=str(own), inductor_configs={"freezing": True}
            )
        own.replace(package)
    loaded = torch._inductor.aoti_load_package(str(package))
    loaded.package = package
    return loaded


# The TorchScript executor specialises the graph during its first runs.
PROFILING_RUNS = 3


def trace_and_freeze(module: Any, example: Any) -> Any:
    import torch

    # Autocast's cache is off, because its first use would make every trace a different graph.
    enabled = torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled, cache_enabled=False):
        frozen = torch.jit.freeze(torch.jit.trace(module, example))
    for _ in range(PROFILING_RUNS):
        frozen(example)
    return frozen


# For one image with few channels stock PyTorch uses its own convolution instead of oneDNN's.
CONVOLUTIONS = {"fp32": ("aten::mkldnn_convolution", "aten::thnn_conv2d"), "bf16": ("aten::mkldnn_convolution",)}
FUSED = {"fp32": ("mkldnn::_convolution_pointwise",), "bf16": ("mkldnn::_convolution_pointwise",)}
# C++ calls oneDNN without an operator that the profiler sees.
COMPILED_CALLS = {"fp32": ("convolution ",), "bf16": ("convolution ",)}
INFERENCE_BUILDERS = {
    "eager": InferenceBuilder(
        Variant("The module in NCHW and inference mode: the common idiom", FLOATS),
        eager,
        CONVOLUTIONS,
        memory_format="contiguous_format",
    ),
    "channels_last": InferenceBuilder(
        Variant("Weights and activations in channels-last memory format", FLOATS), channels_last, CONVOLUTIONS
    ),
    "jit": InferenceBuilder(Variant("Traced and frozen with TorchScript, channels-last", FLOATS), jit, CONVOLUTIONS),
    "compile": InferenceBuilder(
        Variant(
            "Compiled with TorchInductor, channels-last, weights frozen",
            (*FLOATS, "int8"),
            compiles=True,
        ),
        compiled,
        FUSED | {"int8": ("onednn::qconv",)},
    ),
    "cpp-wrapper": InferenceBuilder(
        Variant("Compiled like `compile`, with the kernels called from C++ (cpp_wrapper)", FLOATS, compiles=True),
        wrapped_in_cpp,
        COMPILED_CALLS,
    ),
    "max-autotune": InferenceBuilder(
        Variant("Compiled like `compile`, with the fastest of several matrix products", FLOATS, compiles=True),
        autotuned(AUTOTUNE),
        FUSED,
    ),
    "aot": InferenceBuilder(
        Variant("Exported, and compiled ahead of time to a package (AOTInductor)", FLOATS, compiles=True),
        ahead_of_time,
        COMPILED_CALLS,
    ),
}


class TorchSession:
    def __init__(self, framework: Framework, builder: InferenceBuilder, spec: InferenceSpec) -> None:
        import torch

        self._framework, self._builder, self._spec = framework, builder, spec
        self._format = getattr(torch, builder.memory_format)
        example = self.prepare(np.zeros((spec.batch_size, *spec.network.input_shape), np.float32))
        with torch.inference_mode(mode=False):
            module = build_module(spec.network, spec.weights).eval()
            if spec.precision == "int8":
                module = framework.quantise(module, example, self._batches(spec.calibration))
            elif spec.precision == "bf16":
                module = _with_float32_logits(module)
        enter_inference_mode()
        if spec.precision == "bf16":
            enter_autocast()
        self.step: Callable[[Any], Any] = builder.build(module, example, spec.precision)
        self._dtypes = {str(parameter.dtype) for parameter in getattr(self.step, "parameters", list)()}

    def prepare(self, images: F32) -> Any:
        return as_nchw(images, self._format)

    def _batches(self, images: F32) -> list[Any]:
        """Return the images in full batches; the last one is filled up with the first images."""
        size = self._spec.batch_size
        starts = range(0, len(images), size)
        return [self.prepare(images[np.arange(start, start + size) % len(images)]) for start in starts]

    def to_numpy(self, logits: Any) -> F32:
        array: F32 = logits.numpy()
        return array

    def prove(self, batch: Any) -> Proof:
        import torch

        operators, lines, logits = profile(lambda: self.step(batch))
        kernels = onednn.kernels(lines)
        names = (*operators, *sorted(map(str, kernels)))
        require_evidence(names, self._builder.evidence[self._spec.precision])
        return Proof(
            self._effective_precision(onednn.precision(kernels), logits),
            torch.get_num_threads(),
            names,
            self._framework.versions() | onednn.information(lines),
        )

    def _effective_precision(self, multiplied: str, logits: Any) -> str:
        """Return the precision of oneDNN's multiplications.

        If that is fp32, or if oneDNN multiplied nothing, all parameters that are left in the built module and the
        logits must be fp32 as well.
        """
        if multiplied not in ("", "fp32"):
            return multiplied
        dtypes = self._dtypes | {str(logits.dtype)}
        reduced = self._framework.reduced_arithmetic()
        if dtypes == {"torch.float32"} and not reduced:
            return "fp32"
        return "+".join(sorted(dtypes)) + (f" with {reduced}" if reduced else "")

    def save(self, folder: Path) -> None:
        """Write the package or the scripted module if there is one, otherwise a state dict."""
        import torch

        if package := getattr(self.step, "package", None):
            shutil.copy(package, folder)
        elif isinstance(self.step, torch.jit.ScriptModule):
            torch.jit.save(self.step, folder / "model.pt")
        else:
            module = build_module(self._spec.network, self._spec.weights)
            torch.save(module.state_dict(), folder / "state.pth")


@cache
def enter_inference_mode() -> Any:
    """Enter inference mode for the life of the process, so that no call pays for it.

    Users write it around their loop. The context manager is returned, and kept by the cache, to stay alive.
    """
    import torch

    mode = torch.inference_mode()
    mode.__enter__()
    return mode


@cache
def enter_autocast() -> Any:
    """Enter bf16 autocast for the life of the process, for the same reasons."""
    import torch

    mode = torch.autocast("cpu", torch.bfloat16)
    mode.__enter__()
    return mode


def _with_float32_logits(module: Any) -> Any:
    """Append a cast to fp32, because every arm returns fp32 logits."""
    import torch

    class Float32(torch.nn.Module):  # type: ignore[misc] # torch is not installed where types are checked
        def forward(self, logits: Any) -> Any:
            return logits.float()

    return torch.nn.Sequential(module, Float32()).eval()
