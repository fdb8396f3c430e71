"""PyTorch with the Intel extension: the same session, other builders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backends.protocol import Stack, variants_of
from backends.pytorch import FILES, FUSED, PyTorch, Way, frozen_by_inductor, traced
from backends.pytorch_training import TrainingWay

if TYPE_CHECKING:
    from backends.protocol import TrainingSpec


def eager(module: Any, example: Any, precision: str) -> Any:
    """Call the module after ipex.optimize: weights prepacked for this batch shape."""
    import intel_extension_for_pytorch as ipex
    import torch

    # The type must be autocast's: prepacked weights of another one abort the process.
    dtype = torch.bfloat16 if precision == "bf16" else None
    return ipex.optimize(module, dtype=dtype, sample_input=example)


def jit(module: Any, example: Any, precision: str) -> Any:
    """Trace and freeze after ipex.optimize: the extension's intended best."""
    return traced(module if precision == "int8" else eager(module, example, precision), example)


def compiled(module: Any, example: Any, precision: str) -> Any:
    """Compile with the extension's own backend, weights frozen; close to stock torch.compile, as a control."""
    import intel_extension_for_pytorch as ipex

    return frozen_by_inductor(ipex.optimize(module, weights_prepack=False), "ipex")


OPERATORS = ("torch_ipex::", "ipex_prepack::")
WAYS = {
    "eager": Way(eager, {"fp32": OPERATORS, "bf16": OPERATORS}),
    "jit": Way(jit, {"fp32": ("ipex_prepack::",), "bf16": ("ipex_prepack::",), "int8": ("LLGA_bridge::",)}),
    "compile": Way(compiled, {"fp32": FUSED["fp32"]}),
}


def optimised(module: Any) -> Any:
    """Train after ipex.optimize: weights prepacked, the optimiser's step fused."""
    return module


TRAININGS = {"train": TrainingWay(optimised, ("torch_ipex::", "IPEX"), fused=False)}

STACK = Stack(
    name="ipex",
    summary="PyTorch with the Intel extension (archived by its authors; last release 2.8)",
    environment="ipex",
    packages=("torch", "intel-extension-for-pytorch"),
    variants=variants_of(WAYS, TRAININGS),
    modules=("torch", "intel_extension_for_pytorch"),
    baselines=("pytorch",),
    needs=("avx2",),
    cache_variables=("TORCHINDUCTOR_CACHE_DIR",),
)


__all__ = ["FILES", "STACK", "open_backend"]


class Ipex(PyTorch):
    """PyTorch, extended."""

    ways = WAYS
    trainings = TRAININGS

    def __init__(self, threads: int) -> None:
        import intel_extension_for_pytorch  # noqa: F401 - importing it registers its kernels

        super().__init__(threads)

    def reduced_arithmetic(self) -> str:
        """Return what PyTorch permits, or the extension's own math mode."""
        import intel_extension_for_pytorch as ipex

        exact = ipex.get_fp32_math_mode() == ipex.FP32MathMode.FP32
        return super().reduced_arithmetic() or ("" if exact else "reduced fp32 math mode")

    def versions(self) -> dict[str, str]:
        """Return the versions, and the instruction set that the extension picked."""
        import intel_extension_for_pytorch as ipex

        isa = ipex._C._get_current_isa_level()
        return super().versions() | {"intel_extension_for_pytorch": ipex.__version__, "ipex_isa": isa}

    def quantise(self, module: Any, example: Any, batches: list[Any]) -> Any:
        """Quantise statically with the extension's default mapping, with ranges seen in the batches."""
        import torch
        from intel_extension_for_pytorch import quantization

        mapping = quantization.default_static_qconfig_mapping
        with torch.no_grad():
            prepared = quantization.prepare(module, mapping, example_inputs=example, inplace=False)
            for batch in batches:
                prepared(batch)
            return quantization.convert(prepared)

    def with_optimizer(self, module: Any, optimizer: Any, course: TrainingSpec) -> tuple[Any, Any]:
        """Let the extension prepack the weights and fuse the optimiser's step.

        In bf16 it splits the weights in halves, of which sharpness-aware minimisation would move one only: there the
        weights stay as they are.
        """
        import intel_extension_for_pytorch as ipex
        import torch

        reduced, whole = course.precision == "bf16", course.recipe.rho is not None
        optimised: tuple[Any, Any] = ipex.optimize(
            module,
            optimizer=optimizer,
            dtype=torch.bfloat16 if reduced and not whole else None,
            weights_prepack=not (reduced and whole),
        )
        return optimised

    def moment(self, stored: Any, parameter: Any) -> Any:
        """Return it as it is: the extension packs it as it has packed the parameter."""
        return stored


def open_backend(threads: int) -> Ipex:
    """Import PyTorch and the extension."""
    return Ipex(threads)
