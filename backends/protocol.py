"""What a stack says of itself, and what its backend does."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import backends
from models.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    import numpy as np
    from numpy.typing import NDArray

    from models.recipes import Recipe
    from models.spec import Network
    from models.weights import Weights

F32: TypeAlias = "NDArray[np.float32]"


class UnsupportedError(Exception):
    """The stack can't do what was asked; the arm is skipped with this reason."""


class ProofError(Exception):
    """The process can't prove that it ran what it claims; the arm is failed with this reason."""


@dataclass(frozen=True)
class Stack:
    """A software stack in its own environment.

    `environment` is the name of its tox environment; None means the harness's own interpreter. `baseline` is the stack
    that its speedups are against; None marks a vanilla stack. `variants` maps each name to one line about it.

    `settings` are environment variables that all arms of all stacks run under; `restart_settings` shorten the start of
    a block's processes, never of the start that is reported. `cache_variables` name folders of compiled code.
    """

    name: str
    summary: str
    environment: str | None
    packages: tuple[str, ...]
    variants: dict[str, str]
    baseline: str | None = None
    precisions: tuple[str, ...] = ("fp32",)
    settings: dict[str, str] = field(default_factory=dict)
    restart_settings: dict[str, str] = field(default_factory=dict)
    cache_variables: tuple[str, ...] = ()
    internal: bool = False


@dataclass(frozen=True)
class Proof:
    """What was read back from a session: effective precision, threads, and the kernels that ran."""

    precision: str
    threads: int
    kernels: tuple[str, ...]
    versions: dict[str, str]


class Session(Protocol):
    """A network built for inference at one batch size.

    The timed region is `step`: from a batch that lies in host memory, as the stack's own tensor, until its logits do.
    """

    def prepare(self, images: F32) -> Any:
        """Turn a neutral NHWC batch into the stack's own tensor; never timed."""

    def step(self, batch: Any) -> Any:
        """Return the logits of a prepared batch, in host memory, as the stack's own tensor."""

    def to_numpy(self, logits: Any) -> F32:
        """Return logits as an array of shape (batch, classes); never timed."""

    def prove(self, batch: Any) -> Proof:
        """Run `step` under the stack's profiler; never while timing.

        Raises ProofError when the optimised path did not run.
        """


class Training(Protocol):
    """A network being trained."""

    def step(self, images: F32, labels: NDArray[np.int64], learning_rate: float) -> float:
        """Take one optimiser step on a neutral batch and return its mean loss."""

    def weights(self) -> Weights:
        """Return the current weights in neutral layout."""


class Backend(Protocol):
    """A framework, imported and set to a number of threads."""

    def inference(self, network: Network, weights: Weights, variant: str, precision: str, batch_size: int) -> Session:
        """Build a session.

        Raises UnsupportedError when the stack has no such variant or precision here.
        """

    def training(self, network: Network, weights: Weights, recipe: Recipe) -> Training:
        """Build a training; raises UnsupportedError for a stack that does not train."""


def described(builders: Mapping[str, Callable[..., Any]]) -> dict[str, str]:
    """Return {variant: first line of its builder's docstring}."""
    return {name: (inspect.getdoc(builder) or "").splitlines()[0] for name, builder in builders.items()}


def open_backend(stack: str, threads: int) -> Backend:
    """Import the framework of `stack`."""
    backend: Backend = _module(stack).open_backend(threads)
    return backend


@cache
def stacks() -> dict[str, Stack]:
    """Return every stack by name, vanilla stacks first; a module without a STACK is none."""
    names = [module.name for module in pkgutil.iter_modules(backends.__path__)]
    found = [stack for name in names if (stack := _stack_in(name))]
    return {stack.name: stack for stack in sorted(found, key=lambda stack: (stack.baseline is not None, stack.name))}


def _stack_in(name: str) -> Stack | None:
    try:
        stack = getattr(_module(name), "STACK", None)
    except Exception as error:
        raise InputError(f"backends/{name}.py: can't be imported ({type(error).__name__}: {error})") from error
    if not isinstance(stack, Stack | None):
        raise InputError(f"backends/{name}.py: STACK must be a Stack, not {stack!r}")
    return stack


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"backends.{name}")
