"""Discover the stacks, and import the one that is needed."""

from __future__ import annotations

import importlib
import os
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, cast

import backends
from backends.protocol import Stack, UnsupportedError
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backends.protocol import Backend, InferenceSpec, Multiplier, StackModule, Trainer, Training, TrainingSpec
    from models.formats.contents import Contents
    from models.spec import Network
    from models.weights import Weights

if os.environ.get("BENCH_BACKENDS"):
    # Absolute, because workers run in another folder; os.path, because pathlib would load more modules into them.
    os.environ["BENCH_BACKENDS"] = os.path.abspath(os.environ["BENCH_BACKENDS"])  # noqa: PTH100
    backends.__path__.append(os.environ["BENCH_BACKENDS"])


@cache
def stacks() -> dict[str, Stack]:
    """Return every stack by name, vanilla stacks first; a module without a STACK is a helper of others.

    Raises UserError when a module can't be imported, or when its STACK is not a Stack.
    """
    declared = []
    for info in pkgutil.iter_modules(backends.__path__):
        path = f"backends/{info.name}{'' if info.ispkg else '.py'}"
        try:
            stack = getattr(_module(info.name), "STACK", None)
        except Exception as error:
            raise UserError(f"{path}: can't be imported ({type(error).__name__}: {error})") from error
        if not isinstance(stack, Stack | None):
            raise UserError(f"{path}: STACK must be a Stack, not {stack!r}")
        if stack:
            declared.append(stack)
    return {stack.name: stack for stack in sorted(declared, key=lambda stack: (bool(stack.baselines), stack.name))}


def _module(stack: str) -> StackModule:
    return cast("StackModule", importlib.import_module(f"backends.{stack.replace('-', '_')}"))


def open_backend(stack: str, threads: int) -> Backend:
    return _module(stack).open_backend(threads)


def open_training(stack: str, threads: int, spec: TrainingSpec) -> Training:
    """Open the backend and build a training; raise UnsupportedError when the stack has no such training."""
    trainings = stacks()[stack].trainings
    if spec.variant not in trainings or spec.precision not in trainings[spec.variant].precisions:
        offered = ", ".join(trainings) if trainings else "none: it does not train"
        raise UnsupportedError(f"{stack} has no training {spec.variant} at {spec.precision}; it has {offered}")
    return cast("Trainer", open_backend(stack, threads)).training(spec)


def open_product(stack: str, threads: int, precision: str, order: int) -> Callable[[], object]:
    return cast("Multiplier", open_backend(stack, threads)).product(precision, order)


def convert(stack: str, conversion: str, spec: InferenceSpec, folder: Path) -> None:
    _module(stack).convert(conversion, spec, folder)


def read_contents(stack: str, path: Path) -> Contents:
    return _module(stack).read_contents(path)


def write_model(stack: str, path: Path, network: Network, weights: Weights) -> None:
    _module(stack).write_model(path, network, weights)
