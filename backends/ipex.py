"""PyTorch with the Intel extension: PyTorch's sessions with other builders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backends.builders import FLOATS, variants_of
from backends.protocol import Stack, Variant
from backends.pytorch import PyTorch, read_contents, write_model
from backends.pytorch.inference import FUSED, InferenceBuilder, compile_frozen, trace_and_freeze
from backends.pytorch.ranks import CCL
from backends.pytorch.training import TrainingBuilder
from models.formats.kind import PYTORCH

if TYPE_CHECKING:
    from backends.protocol import TrainingSpec

__all__ = ["STACK", "open_backend", "read_contents", "write_model"]


def eager(module: Any, example: Any, precision: str) -> Any:
    import intel_extension_for_pytorch as ipex
    import torch

    # The type must be autocast's: weights that are prepacked in another type abort the process.
    dtype = torch.bfloat16 if precision == "bf16" else None
    return ipex.optimize(module, dtype=dtype, sample_input=example)


def jit(module: Any, example: Any, precision: str) -> Any:
    return trace_and_freeze(module if precision == "int8" else eager(module, example, precision), example)


def compiled(module: Any, example: Any, precision: str) -> Any:
    import intel_extension_for_pytorch as ipex

    return compile_frozen(ipex.optimize(module, weights_prepack=False), "ipex")


OPERATORS = ("torch_ipex::", "ipex_prepack::")
INFERENCE_BUILDERS = {
    "eager": InferenceBuilder(
        Variant("The module after ipex.optimize: weights prepacked for this batch shape", FLOATS),
        eager,
        {"fp32": OPERATORS, "bf16": OPERATORS},
    ),
    "jit": InferenceBuilder(
        Variant("Traced and frozen after ipex.optimize: the path that the extension recommends", (*FLOATS, "int8")),
        jit,
        {"fp32": ("ipex_prepack::",), "bf16": ("ipex_prepack::",), "int8": ("LLGA_bridge::",)},
    ),
    "compile": InferenceBuilder(
        Variant(
            "Compiled with the extension's backend, weights frozen; close to stock torch.compile, as a control",
            compiles=True,
        ),
        compiled,
        FUSED,
    ),
}
TRAINING_BUILDERS = {
    "train": TrainingBuilder(
        Variant("Training after ipex.optimize: weights prepacked, optimiser step fused", FLOATS, trains=True),
        ("torch_ipex::", "IPEX"),
        # The extension fuses the optimiser's step itself.
        fused=False,
    ),
    "train-ccl": TrainingBuilder(
        Variant("As train; the workers of a group communicate through oneCCL", FLOATS, trains=True, optional=True),
        ("torch_ipex::", "IPEX"),
        fused=False,
        transport=CCL,
    ),
}

STACK = Stack(
    name="ipex",
    summary="PyTorch with the Intel extension (archived by its authors; last release 2.8)",
    environment="ipex",
    packages=("torch", "intel-extension-for-pytorch"),
    variants=variants_of(INFERENCE_BUILDERS, TRAINING_BUILDERS),
    default_variant="jit",
    default_training="train",
    modules=("torch", "intel_extension_for_pytorch"),
    baselines=("pytorch",),
    intel=True,
    needs=("avx2",),
    cache_variables=("TORCHINDUCTOR_CACHE_DIR",),
    reads=(PYTORCH,),
    writes=(".pth",),
)


class Ipex(PyTorch):
    inference_builders = INFERENCE_BUILDERS
    training_builders = TRAINING_BUILDERS

    def __init__(self, threads: int) -> None:
        # Importing the extension registers its kernels.
        import intel_extension_for_pytorch  # noqa: F401

        super().__init__(threads)

    def reduced_arithmetic(self) -> str | None:
        import intel_extension_for_pytorch as ipex

        exact = ipex.get_fp32_math_mode() == ipex.FP32MathMode.FP32
        return super().reduced_arithmetic() or (None if exact else "reduced fp32 math mode")

    def versions(self) -> dict[str, str]:
        import intel_extension_for_pytorch as ipex

        isa = ipex._C._get_current_isa_level()
        return super().versions() | {"intel_extension_for_pytorch": ipex.__version__, "ipex_isa": isa}

    def quantise(self, module: Any, example: Any, batches: list[Any]) -> Any:
        """Quantise statically with the extension's default mapping; the ranges come from the batches."""
        import torch
        from intel_extension_for_pytorch import quantization

        mapping = quantization.default_static_qconfig_mapping
        with torch.no_grad():
            prepared = quantization.prepare(module, mapping, example_inputs=example, inplace=False)
            for batch in batches:
                prepared(batch)
            return quantization.convert(prepared)

    def optimise(self, module: Any, optimizer: Any, spec: TrainingSpec) -> tuple[Any, Any]:
        """Let the extension prepack the weights and fuse the optimiser's step.

        For bf16 it splits each weight into two halves, of which sharpness-aware minimisation would move only one.
        There the weights stay unchanged.
        """
        import intel_extension_for_pytorch as ipex
        import torch

        reduced, sharpness_aware = spec.precision == "bf16", spec.recipe.rho is not None
        optimised: tuple[Any, Any] = ipex.optimize(
            module,
            optimizer=optimizer,
            dtype=torch.bfloat16 if reduced and not sharpness_aware else None,
            weights_prepack=not (reduced and sharpness_aware),
        )
        return optimised

    def optimizer_tensor(self, stored: Any, parameter: Any) -> Any:
        """Return the tensor unchanged: the extension packs it as it packed the parameter."""
        return stored


def open_backend(threads: int) -> Ipex:
    return Ipex(threads)
