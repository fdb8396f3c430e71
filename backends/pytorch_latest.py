"""The newest PyTorch: what upgrading gives, beside what an extension gives that keeps its users on an old one."""

from __future__ import annotations

from dataclasses import replace

from backends import pytorch
from backends.protocol import variants_of
from backends.pytorch import PyTorch
from backends.pytorch_training import TRAININGS

# Quantisation has left the framework for a package of its own.
WAYS = {
    name: replace(way, evidence={each: way.evidence[each] for each in ("fp32", "bf16")})
    for name, way in pytorch.WAYS.items()
    if name != "jit"
}

STACK = replace(
    pytorch.STACK,
    name="pytorch-latest",
    summary="PyTorch, vanilla, newest version: what simply upgrading gives",
    environment="latest",
    variants=variants_of(WAYS, TRAININGS),
    baselines=("pytorch",),
)


class Latest(PyTorch):
    """PyTorch, with the variants that its newest version still has."""

    ways = WAYS


def open_backend(threads: int) -> Latest:
    """Import PyTorch and set its threads."""
    return Latest(threads)
