"""The contract between the harness and a stack: what a stack declares, and what its backend provides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from models.formats.contents import Contents
    from models.recipes import Recipe
    from models.spec import Network
    from models.weights import Weights

F32: TypeAlias = "NDArray[np.float32]"
State: TypeAlias = "dict[str, NDArray[np.float32]]"

PRECISIONS = ("fp32", "bf16", "int8")


class UnsupportedError(Exception):
    """The stack does not support what was asked for; the arm is skipped, with this reason."""


class ProofError(Exception):
    """The process cannot prove that it ran what it claims; the arm fails, with this reason."""


@dataclass(frozen=True)
class Variant:
    """One documented way to use a stack, for inference or, if it `trains`, for training.

    `settings` are environment variables for this variant's processes only. An `asynchronous` variant keeps several
    batches in flight in one process; only its throughput is measured. `conversion` names the conversion whose files the
    variant starts from. A variant that `compiles` leaves compiled code in the folders of the stack's `cache_variables`.
    An `optional` one needs a package that the environment may lack.
    """

    summary: str
    precisions: tuple[str, ...] = ("fp32",)
    settings: dict[str, str] = field(default_factory=dict)
    asynchronous: bool = False
    conversion: str | None = None
    trains: bool = False
    compiles: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Stack:
    """A software stack in its own environment.

    `environment` is the name of its tox environment, None for the harness's own interpreter. `default_variant` and
    `default_training` are used where the user names no variant. `modules` are the frameworks that its worker may
    import. `baselines` are the stacks that it is compared with; a vanilla stack has none. `upgrade_of` is the stack of
    the same framework in an older version. An `intel` stack is by Intel. `needs` are instruction sets, any one of which
    suffices.

    `settings` are environment variables for the arms of all stacks. `restart_settings` shorten process starts in
    blocks, but never the starts that are reported. `cache_variables` name folders for compiled code.

    Where a stack `compiles_unbound`, no library looks after the import at the cores that the importing thread may use.
    So variants that compile may do so on all cores, although OpenMP has bound this thread to one.

    A stack that `binds_threads` binds them, whenever it is called, to cores that it noted when the session was built.

    `products` are the precisions at which the backend is a Multiplier. `reads` are the kinds of model files that its
    module reads (`models/formats/kind.py`), `writes` the suffixes of those that it writes.
    """

    name: str
    summary: str
    environment: str | None
    packages: tuple[str, ...]
    variants: dict[str, Variant]
    default_variant: str | None = None
    default_training: str | None = None
    modules: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    upgrade_of: str | None = None
    intel: bool = False
    needs: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    restart_settings: dict[str, str] = field(default_factory=dict)
    cache_variables: tuple[str, ...] = ()
    compiles_unbound: bool = False
    binds_threads: bool = False
    products: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    internal: bool = False

    @property
    def trainings(self) -> dict[str, Variant]:
        return {name: variant for name, variant in self.variants.items() if variant.trains}


@dataclass(frozen=True)
class InferenceSpec:
    """A network to build for inference at one batch size, in one variant and precision.

    `calibration` holds standardised NHWC training images, from which int8 takes its ranges. `files` is the folder that
    the variant's conversion has filled. `streams` is how many batches an asynchronous variant keeps in flight.
    """

    network: Network
    weights: Weights
    variant: str
    precision: str
    batch_size: int
    calibration: F32
    files: Path | None = None
    streams: int = 1


@dataclass(frozen=True)
class RankGroup:
    """The processes that train one network together; this one has the `rank`, from 0 on.

    `addresses` are theirs, HOST:PORT by rank, on the network `interface` that each of them communicates on. `listener`
    is a socket of this process that is bound to its address. Who waits for others gives up after `timeout_s`.
    """

    rank: int
    addresses: tuple[str, ...]
    interface: str
    timeout_s: float
    listener: int

    @property
    def size(self) -> int:
        return len(self.addresses)


@dataclass(frozen=True)
class TrainingSpec:
    """A network to train from these weights, in one variant and precision; `seed` determines dropout.

    With a `group`, each step is given this rank's equal share of a batch. It changes the weights as the whole batch
    would: gradients are averaged over the ranks.
    """

    network: Network
    weights: Weights
    variant: str
    precision: str
    recipe: Recipe
    seed: int
    group: RankGroup | None = None


@dataclass(frozen=True)
class Proof:
    """What was read back: effective precision, threads, the kernels that ran, versions and settings."""

    precision: str
    threads: int
    kernels: tuple[str, ...]
    versions: dict[str, str]


class Session(Protocol):
    """A network built for inference at one batch size; `step` is the timed region."""

    def prepare(self, images: F32) -> Any:
        """Copy a neutral NHWC batch into the stack's own tensor, in host memory."""

    def step(self, batch: Any) -> Any:
        """Return the fp32 logits of a prepared batch, in host memory, as the stack's own tensor."""

    def to_numpy(self, logits: Any) -> F32:
        """Return logits as an array of shape (batch, classes)."""

    def prove(self, batch: Any) -> Proof:
        """Profile `step`; raise ProofError when the optimised path did not run."""

    def save(self, folder: Path) -> None:
        """Write into `folder` the files that a user of this variant would deploy."""


class AsynchronousSession(Session, Protocol):
    """A session that keeps several batches in flight; `submit` and `drain` are timed instead of `step`."""

    def submit(self, batch: Any, done: Callable[[], None] | None = None) -> None:
        """Start on a prepared batch, as soon as one of the streams is free; call `done` when its logits are there."""

    def drain(self) -> None:
        """Wait until the logits of all batches are in host memory."""


class Training(Protocol):
    """A network in training, with the recipe's optimiser, sharpness-aware if the recipe has a rho."""

    def begin_epoch(self, seed: int) -> None:
        """Seed the dropout of the steps that follow."""

    def step(self, images: F32, labels: NDArray[np.int64], learning_rate: float) -> float:
        """Take one optimiser step on a neutral batch and return its mean loss."""

    def logits(self, images: F32) -> F32:
        """Return the logits of a neutral batch in inference mode; never timed."""

    def weights(self) -> Weights:
        """Return the current weights in neutral layout."""

    def state(self) -> State:
        """Return the state of the optimiser."""

    def restore(self, state: State) -> None:
        """Continue from a saved state of the optimiser; the weights come from the TrainingSpec."""

    def prove(self, images: F32, labels: NDArray[np.int64]) -> Proof:
        """Profile steps with a learning rate of zero; raise ProofError when the optimised path did not run.

        The training must not be continued afterwards.
        """


class Backend(Protocol):
    """An imported framework that uses a fixed number of threads."""

    def inference(self, spec: InferenceSpec) -> Session:
        """Build a session, an AsynchronousSession for an asynchronous variant.

        Raises UnsupportedError when the stack has no such variant or precision on this machine.
        """


class Multiplier(Backend, Protocol):
    """The backend of a stack with `products`."""

    def product(self, precision: str, order: int) -> Callable[[], object]:
        """Return a function that multiplies two square matrices as fast as the framework can."""


class Trainer(Backend, Protocol):
    """The backend of a stack with `trainings`."""

    def training(self, spec: TrainingSpec) -> Training: ...


class StackModule(Protocol):
    """A file or folder in `backends`. Only `STACK` and `open_backend` are required of every stack."""

    STACK: Stack

    def open_backend(self, threads: int) -> Backend:
        """Import the framework."""

    def convert(self, conversion: str, spec: InferenceSpec, folder: Path) -> None:
        """Fill `folder` with the files that variants with this `conversion` start from."""

    def read_contents(self, path: Path) -> Contents:
        """Read a model file of a kind in `Stack.reads`; raise WeightsError when it can't be read."""

    def write_model(self, path: Path, network: Network, weights: Weights) -> None:
        """Write a model file whose suffix is in `Stack.writes`."""
