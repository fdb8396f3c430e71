"""PyTorch with the Intel extension: the same session, other builders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backends.protocol import Stack, described
from backends.pytorch import PyTorch

if TYPE_CHECKING:
    from collections.abc import Callable

PROFILING_RUNS = 3  # the TorchScript executor specialises over its first runs


def eager(module: Any, example: Any) -> Any:
    """Call the module after ipex.optimize: weights prepacked for this batch shape."""
    import intel_extension_for_pytorch as ipex

    return ipex.optimize(module, sample_input=example)


def jit(module: Any, example: Any) -> Any:
    """Trace and freeze after ipex.optimize: the extension's intended best."""
    import torch

    traced = torch.jit.freeze(torch.jit.trace(eager(module, example), example))
    for _ in range(PROFILING_RUNS):
        traced(example)
    return traced


VARIANTS: dict[str, Callable[..., Any]] = {"eager": eager, "jit": jit}

STACK = Stack(
    name="ipex",
    summary="PyTorch with the Intel extension (archived by its authors; last release 2.8)",
    environment="ipex",
    packages=("torch", "intel-extension-for-pytorch"),
    variants=described(VARIANTS),
    baseline="pytorch",
)


class Ipex(PyTorch):
    """PyTorch, extended."""

    variants = VARIANTS
    evidence = dict.fromkeys(VARIANTS, ("torch_ipex::", "ipex_prepack::"))

    def __init__(self, threads: int) -> None:
        import intel_extension_for_pytorch  # noqa: F401 - importing it registers its kernels

        super().__init__(threads)

    def memory_format(self, variant: str) -> Any:
        """Return channels-last for every variant: the extension converts the weights to it in any case."""
        import torch

        return torch.channels_last

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


def open_backend(threads: int) -> Ipex:
    """Import PyTorch and the extension."""
    return Ipex(threads)
