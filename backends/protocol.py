"""What a stack says of itself, and what its backend does."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from models.recipes import Recipe
    from models.spec import Network
    from models.weights import Weights

F32: TypeAlias = "NDArray[np.float32]"
State: TypeAlias = "dict[str, NDArray[np.float32]]"

PRECISIONS = ("fp32", "bf16", "int8")


class UnsupportedError(Exception):
    """The stack can't do what was asked; the arm is skipped with this reason."""


class ProofError(Exception):
    """The process can't prove that it ran what it claims; the arm is failed with this reason."""


@dataclass(frozen=True)
class Variant:
    """One documented way to use a stack.

    `settings` are environment variables of this variant's processes alone: they are what it is about. An `asynchronous`
    variant keeps several batches under way in one process and is measured for its throughput only. `conversion` names
    what makes the files that it starts from; empty for a variant that needs none. A `training` variant trains, and does
    nothing else.
    """

    summary: str
    precisions: tuple[str, ...] = ("fp32",)
    settings: dict[str, str] = field(default_factory=dict)
    asynchronous: bool = False
    conversion: str = ""
    training: bool = False


@dataclass(frozen=True)
class Stack:
    """A software stack in its own environment.

    `environment` is the name of its tox environment; None means the harness's own interpreter. `baselines` are the
    stacks that its speedups are against; none marks a vanilla stack. `needs` are instruction sets, any of which will
    do. `modules` are the frameworks that a measuring process of it imports, and no others.

    `settings` are environment variables that all arms of all stacks run under; `restart_settings` shorten the start of
    a block's processes, never of the start that is reported. `cache_variables` name folders of compiled code.
    `products` are the precisions in which its backend is a Multiplier.
    """

    name: str
    summary: str
    environment: str | None
    packages: tuple[str, ...]
    variants: dict[str, Variant]
    modules: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    restart_settings: dict[str, str] = field(default_factory=dict)
    cache_variables: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    internal: bool = False

    @property
    def trainings(self) -> dict[str, Variant]:
        """Return the variants that train, the one to take unless told otherwise first; none where it does not."""
        return {name: variant for name, variant in self.variants.items() if variant.training}


@dataclass(frozen=True)
class InferenceSpec:
    """A network that is to answer batches of one size, in one variant and precision.

    `calibration` are standardised NHWC training images, from which int8 takes its ranges; `files` is the folder that
    the variant's conversion has filled, or None.
    """

    network: Network
    weights: Weights
    variant: str
    precision: str
    batch_size: int
    calibration: F32
    files: Path | None = None


@dataclass(frozen=True)
class TrainingSpec:
    """A network that is to be trained from these weights, in one variant and precision.

    Its chances (dropout) follow from `seed`.
    """

    network: Network
    weights: Weights
    variant: str
    precision: str
    recipe: Recipe
    seed: int


@dataclass(frozen=True)
class Proof:
    """What was read back from a session: effective precision, threads, the kernels that ran, versions and settings."""

    precision: str
    threads: int
    kernels: tuple[str, ...]
    versions: dict[str, str]


class Session(Protocol):
    """A network built for inference at one batch size.

    The timed region is `step`: from a batch that lies in host memory, as the stack's own tensor, until its logits do,
    as fp32.
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

    def save(self, folder: Path) -> None:
        """Write into `folder` what a user of this variant would ship."""


class AsynchronousSession(Session, Protocol):
    """A session that works on several batches at a time."""

    def submit(self, batch: Any) -> None:
        """Begin with a prepared batch; wait while as many as there are streams are under way."""

    def drain(self) -> None:
        """Wait until the logits of all batches are in host memory."""


class Training(Protocol):
    """A network being trained, with the recipe's optimiser, sharpness-aware where it has a rho."""

    def begin_epoch(self, seed: int) -> None:
        """Let the chances (dropout) that follow come from `seed`."""

    def step(self, images: F32, labels: NDArray[np.int64], learning_rate: float) -> float:
        """Take one optimiser step on a neutral batch and return its mean loss."""

    def logits(self, images: F32) -> F32:
        """Return the logits of a neutral batch, as in inference; never timed."""

    def weights(self) -> Weights:
        """Return the current weights in neutral layout."""

    def state(self) -> State:
        """Return what the optimiser remembers."""

    def restore(self, state: State) -> None:
        """Continue with what the optimiser remembered; the weights are the course's."""

    def prove(self, images: F32, labels: NDArray[np.int64]) -> Proof:
        """Watch steps that change nothing; raises ProofError when the optimised path did not run.

        The training is of no use afterwards.
        """


class Backend(Protocol):
    """A framework, imported and set to a number of threads."""

    def inference(self, deployment: InferenceSpec) -> Session:
        """Build a session; one of an asynchronous variant is an AsynchronousSession.

        Raises UnsupportedError when the stack has no such variant or precision here.
        """


class Multiplier(Backend, Protocol):
    """A framework that multiplies large matrices: that of a stack with `products`."""

    def product(self, precision: str, order: int) -> Callable[[], object]:
        """Return a product of two square matrices, as fast as the framework can."""


class Trainer(Backend, Protocol):
    """A framework that trains: that of a stack with `trainings`."""

    def training(self, course: TrainingSpec) -> Training:
        """Build a training."""


@dataclass(frozen=True)
class FileFormat:
    """How a framework's own file of weights is written and read."""

    write: Callable[[Path, Network, Weights], None]
    read: Callable[[Path, Network], Weights]


class Way(Protocol):
    """How a backend builds one of its variants."""

    @property
    def variant(self) -> Variant:
        """Return what the stack says of it."""


AnyWay = TypeVar("AnyWay", bound=Way)


def way_of(ways: Mapping[str, AnyWay], deployment: InferenceSpec) -> AnyWay:
    """Return the way of a deployment's variant; raises UnsupportedError when there is none at its precision."""
    way = ways.get(deployment.variant)
    if way is None or deployment.precision not in way.variant.precisions:
        raise UnsupportedError(f"no variant {deployment.variant} at {deployment.precision}")
    return way


def require_evidence(ran: Iterable[str], evidence: tuple[str, ...], absent: tuple[str, ...] = ()) -> None:
    """Raise ProofError unless a name begins with one of `evidence`, or if one begins with one of `absent`."""
    names = list(ran)
    if not any(name.startswith(evidence) for name in names):
        raise ProofError(f"none of {', '.join(evidence)} ran")
    if unwanted := [name for name in names if name.startswith(absent)]:
        raise ProofError(f"{', '.join(unwanted)} ran")


def variants_of(*ways: Mapping[str, Way]) -> dict[str, Variant]:
    """Return what the stack says of these ways, by name."""
    return {name: way.variant for each in ways for name, way in each.items()}


def first_line(documented: object) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(documented) or "").partition("\n")[0]
