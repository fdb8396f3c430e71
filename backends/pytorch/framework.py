"""PyTorch as inference and training use it: the hooks that derived stacks replace, and the profiler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backends import onednn

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.protocol import TrainingSpec


class Framework:
    """The imported framework, with the hooks that derived stacks replace."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)

    def versions(self) -> dict[str, str]:
        import torch

        return {"torch": torch.__version__, "isa": torch.backends.cpu.get_cpu_capability()}

    def reduced_arithmetic(self) -> str | None:
        """Return the setting that allows fp32 operations to use fewer bits, or None."""
        import torch

        if torch.is_autocast_enabled("cpu"):
            return "autocast"
        return None if torch.get_float32_matmul_precision() == "highest" else "reduced float32 matmul precision"

    def quantise(self, module: Any, example: Any, batches: list[Any]) -> Any:
        """Quantise a trained module with PT2E; the ranges come from the batches."""
        import torch
        from torch.ao.quantization import quantize_pt2e
        from torch.ao.quantization.quantizer import x86_inductor_quantizer

        # Without strict=True the quantizer finds no layers and leaves the model in fp32 (pytorch/pytorch#160095).
        exported = torch.export.export_for_training(module, (example,), strict=True).module()
        quantised = quantise_exported(exported, batches, quantize_pt2e, x86_inductor_quantizer)
        torch.ao.quantization.move_exported_model_to_eval(quantised)
        return quantised

    def optimise(self, module: Any, optimizer: Any, spec: TrainingSpec) -> tuple[Any, Any]:
        return module, optimizer

    def optimizer_tensor(self, stored: Any, parameter: Any) -> Any:
        """Return a stored tensor of the optimiser in its parameter's memory format, on which fused kernels rely."""
        import torch

        return torch.empty_like(parameter).copy_(stored) if stored.shape == parameter.shape else stored


def quantise_exported(exported: Any, batches: list[Any], pt2e: Any, x86: Any) -> Any:
    """Quantise an exported module; `pt2e` and `x86` are the modules with PT2E's steps and the quantizer for x86."""
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = pt2e.prepare_pt2e(exported, quantizer)
    for batch in batches:
        prepared(batch)
    return pt2e.convert_pt2e(prepared).requires_grad_(requires_grad=False)


def profile(run: Callable[[], Any]) -> tuple[tuple[str, ...], list[str], Any]:
    """Run twice, under PyTorch's profiler and with oneDNN's verbose output.

    Returns the operators, the verbose lines and the result of the first run.
    """
    import torch

    # Not torch.profiler: its first use loads half of the compiler, which an eager process does not need.
    with torch.autograd.profiler.profile(use_kineto=False) as recorded:
        result = run()
    operators = tuple(sorted({event.name for event in recorded.function_events}))
    with onednn.standard_output() as lines, torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        run()
    return operators, lines, result
