"""The newest PyTorch: what an upgrade gives, compared with an extension that ties its users to an old version."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from backends import pytorch
from backends.builders import variants_of
from backends.pytorch import PyTorch, read_contents, write_model
from backends.pytorch.framework import quantise_exported
from backends.pytorch.inference import INFERENCE_BUILDERS, autotuned
from backends.pytorch.training import TRAINING_BUILDERS

__all__ = ["STACK", "open_backend", "read_contents", "write_model"]

# TorchScript is deprecated. The C++ wrapper is part of what ahead-of-time compilation does.
BUILDERS = {name: builder for name, builder in INFERENCE_BUILDERS.items() if name not in ("jit", "cpp-wrapper")}
BUILDERS["max-autotune"] = replace(BUILDERS["max-autotune"], build=autotuned({"max_autotune": True}))

STACK = replace(
    pytorch.STACK,
    name="pytorch-latest",
    summary="PyTorch, vanilla, newest version: what an upgrade alone gives",
    environment="latest",
    packages=("torch", "torchao"),
    variants=variants_of(BUILDERS, TRAINING_BUILDERS),
    baselines=("pytorch",),
    upgrade_of="pytorch",
)


class Latest(PyTorch):
    inference_builders = BUILDERS

    def quantise(self, module: Any, example: Any, batches: list[Any]) -> Any:
        """Quantise with torchao, to which PyTorch has moved PT2E and the compiler's patterns for int8."""
        import torch
        from torchao.quantization.pt2e import quantize_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer

        # Tensors of inference mode can't be exported.
        exported = torch.export.export(module, (example.clone(),)).module()
        return quantise_exported(exported, batches, quantize_pt2e, x86_inductor_quantizer)


def open_backend(threads: int) -> Latest:
    return Latest(threads)
