"""The newest PyTorch: what an upgrade gives, compared with an extension that ties its users to an old version."""

from __future__ import annotations

from dataclasses import replace

from backends import pytorch
from backends.builders import FLOATS, variants_of
from backends.pytorch import PyTorch, read_contents, write_model
from backends.pytorch.inference import INFERENCE_BUILDERS
from backends.pytorch.training import TRAINING_BUILDERS

__all__ = ["STACK", "open_backend", "read_contents", "write_model"]

# Quantisation has moved out of the framework into a package of its own. TorchScript is deprecated. The C++ wrapper is
# part of what ahead-of-time compilation does.
BUILDERS = {
    name: replace(builder, variant=replace(builder.variant, precisions=FLOATS))
    for name, builder in INFERENCE_BUILDERS.items()
    if name not in ("jit", "cpp-wrapper")
}

STACK = replace(
    pytorch.STACK,
    name="pytorch-latest",
    summary="PyTorch, vanilla, newest version: what an upgrade alone gives",
    environment="latest",
    variants=variants_of(BUILDERS, TRAINING_BUILDERS),
    baselines=("pytorch",),
    upgrade_of="pytorch",
)


class Latest(PyTorch):
    inference_builders = BUILDERS


def open_backend(threads: int) -> Latest:
    return Latest(threads)
