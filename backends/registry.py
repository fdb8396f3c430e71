"""Which stacks there are; opening one."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, cast

import backends
from backends.protocol import Stack, UnsupportedError
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from backends.protocol import Backend, InferenceSpec, Multiplier, Trainer, Training, TrainingSpec
    from models.spec import Network
    from models.weights import Weights


def open_backend(stack: str, threads: int) -> Backend:
    """Import the framework of `stack`."""
    backend: Backend = _module(stack).open_backend(threads)
    return backend


def open_training(stack: str, threads: int, course: TrainingSpec) -> Training:
    """Import the framework of `stack` and build a training; raises UnsupportedError where it has no such one."""
    trainings = stacks()[stack].trainings
    if course.variant not in trainings or course.precision not in trainings[course.variant].precisions:
        offered = ", ".join(trainings) if trainings else "none: it does not train"
        raise UnsupportedError(f"{stack} has no training {course.variant} at {course.precision}; it has {offered}")
    return cast("Trainer", open_backend(stack, threads)).training(course)


def open_product(stack: str, threads: int, precision: str, order: int) -> Callable[[], object]:
    """Import the framework of `stack` and return a product of two square matrices of this order."""
    return cast("Multiplier", open_backend(stack, threads)).product(precision, order)


def convert(stack: str, conversion: str, deployment: InferenceSpec, folder: Path) -> None:
    """Fill `folder` with the files that the variants of this conversion start from."""
    _module(stack).convert(conversion, deployment, folder)


def write_model(stack: str, path: Path, network: Network, weights: Weights) -> None:
    """Write weights in the file format of a stack's framework, which its FILES names."""
    _module(stack).FILES[path.suffix].write(path, network, weights)


def read_model(stack: str, path: Path, network: Network) -> Weights:
    """Read weights from such a file; raises UserError when it is none, or does not fit the network."""
    weights: Weights = _module(stack).FILES[path.suffix].read(path, network)
    return weights


@cache
def stacks() -> dict[str, Stack]:
    """Return every stack by name, vanilla stacks first; a module without a STACK is none."""
    names = [module.name for module in pkgutil.iter_modules(backends.__path__)]
    found = [stack for name in names if (stack := _stack_in(name))]
    return {stack.name: stack for stack in sorted(found, key=lambda stack: (bool(stack.baselines), stack.name))}


def _stack_in(name: str) -> Stack | None:
    try:
        stack = getattr(_module(name), "STACK", None)
    except Exception as error:
        raise UserError(f"backends/{name}.py: can't be imported ({type(error).__name__}: {error})") from error
    if not isinstance(stack, Stack | None):
        raise UserError(f"backends/{name}.py: STACK must be a Stack, not {stack!r}")
    return stack


def _module(stack: str) -> ModuleType:
    return importlib.import_module(f"backends.{stack.replace('-', '_')}")
