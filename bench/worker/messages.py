"""The requests of the engine and the replies of a worker, one line of JSON each.

Both ends share these classes. Paths are absolute; arrays travel as files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_args

from bench.codec import decode, encode
from models.formats.read import Assumptions
from models.recipes import Recipe

R = TypeVar("R")


class Request(Generic[R]):
    """A request whose reply is an R."""

    @classmethod
    def reply_type(cls) -> type[R]:
        (base,) = cls.__orig_bases__  # type: ignore[attr-defined] # set by typing for the subclasses of a Generic
        reply: type[R] = get_args(base)[0]
        return reply


@dataclass(frozen=True)
class Done:
    """The reply to a request that leaves only files behind."""


@dataclass(frozen=True)
class BuildReply:
    """How long it took to import the framework (once per process), build the session and make the first call."""

    import_ns: int
    build_ns: int
    first_call_ns: int


@dataclass(frozen=True)
class Build(Request[BuildReply]):
    """Build a session for a case, on these cores (None: on any).

    Of the `threads`, an asynchronous variant gives each of its `streams` an equal share. `files` is the folder of
    converted files that the variant starts from, if it needs any. `delay` is the share of each
    call's time that is added to it, `wait` the share after which every arm makes its next call. If time and memory
    of the start are not `reported`, garbage is collected only at its end.
    """

    case: str
    stack: str
    variant: str
    model: str
    precision: str
    batch_size: int
    threads: int
    cores: tuple[int, ...] | None
    weights: str
    images: str
    calibration: str
    streams: int = 1
    files: str | None = None
    delay: float = 0.0
    wait: float = 0.0
    reported: bool = True


@dataclass(frozen=True)
class ConvertReply:
    """How long the conversion took, imports included."""

    convert_ns: int


@dataclass(frozen=True)
class Convert(Request[ConvertReply]):
    """Fill `folder` with the files that a stack's variants of this conversion start from.

    Only int8 needs `calibration` images.
    """

    stack: str
    conversion: str
    variant: str
    model: str
    precision: str
    weights: str
    folder: str
    calibration: str | None = None


@dataclass(frozen=True)
class MoveReply:
    """The cores on which any thread of the process may run now."""

    cores: tuple[int, ...]


@dataclass(frozen=True)
class Move(Request[MoveReply]):
    """Move all threads of the process from the cores that it was built on to others, core by core."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class SliceReply:
    """The samples of a slice, its wall and CPU time, and how often the process had to wait for a core."""

    samples_ns: tuple[int, ...]
    wall_ns: int
    cpu_ns: int
    involuntary_switches: int


@dataclass(frozen=True)
class RunSlice(Request[SliceReply]):
    """Time one slice of a case: `lead_in` untimed calls, then timed ones until `budget_ns` have passed.

    The untimed calls go on for `lead_in_ns`, unless the slice is `asynchronous`. The timed part starts no earlier than
    `begin_ns`, so that the workers of a group start together.
    """

    case: str
    budget_ns: int
    lead_in: int
    begin_ns: int = 0
    asynchronous: bool = False
    lead_in_ns: int = 0


@dataclass(frozen=True)
class LoadReply:
    """What a worker adds to the log of a LoadGen run.

    Wall and CPU time run from the moment when all samples are loaded until all queries are answered. `memory_bytes` is
    by how much the peak of memory grew meanwhile. `served_ns` is the mean time from when a query was issued until it
    was answered, None where queries are answered before the next is issued.
    """

    wall_ns: int
    cpu_ns: int
    involuntary_switches: int
    memory_bytes: int
    served_ns: float | None


@dataclass(frozen=True)
class RunLoad(Request[LoadReply]):
    """Let LoadGen drive a case's session: a process does so once.

    `scenario`, `mode` and `settings` are LoadGen's own names. It draws its queries from `samples` of the test images at
    a time, and writes its logs into `folder`. Its own thread may run on the `cores`. A server takes several queries at
    a time if there are `larger` cases, whose sessions have larger batches. The first query of a batch then waits up to
    `wait_ns` for others. With `addresses`, other workers answer the queries, in batches of `batch_size` out of `total`
    images; this process needs no case.
    """

    case: str
    scenario: str
    mode: str
    settings: dict[str, float]
    samples: int
    folder: str
    cores: tuple[int, ...]
    asynchronous: bool = False
    larger: tuple[str, ...] = ()
    wait_ns: int = 0
    addresses: tuple[str, ...] = ()
    total: int = 0
    batch_size: int = 1


@dataclass(frozen=True)
class AnswerReply:
    """What a worker used while it answered queries."""

    cpu_ns: int
    involuntary_switches: int


@dataclass(frozen=True)
class AnswerLoad(Request[AnswerReply]):
    """Answer the queries of a process that lets LoadGen drive it, over a socket at an address, until that closes it."""

    case: str
    address: str
    stride: int


@dataclass(frozen=True)
class PredictReply:
    images: int


@dataclass(frozen=True)
class Predict(Request[PredictReply]):
    """Write the logits of the first `images` test images to `file`."""

    case: str
    images: int
    file: str


@dataclass(frozen=True)
class ProofReply:
    """What a process read back of itself: what ran, its peak of memory, and the cores that its threads may use."""

    precision: str
    threads: int
    kernels: tuple[str, ...]
    versions: dict[str, str]
    memory_bytes: int
    cores: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prove(Request[ProofReply]):
    """Run a case's session under the stack's profiler and read back what ran."""

    case: str


@dataclass(frozen=True)
class SaveReply:
    saved_bytes: int


@dataclass(frozen=True)
class Save(Request[SaveReply]):
    """Save the model as a user of the case's variant would ship it, and measure its size."""

    case: str


@dataclass(frozen=True)
class WriteModel(Request[Done]):
    """Convert a safetensors file of ours to the file format of a stack's framework."""

    stack: str
    model: str
    weights: str
    file: str


@dataclass(frozen=True)
class ReadModelReply:
    """What was taken from a file and assumed of it, and the mean and deviation of its pixels."""

    pixels: tuple[float, float]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ReadModel(Request[ReadModelReply]):
    """Convert a file of any tool to a safetensors file of ours; a stack reads files of its framework."""

    stack: str | None
    model: str
    weights: str
    file: str
    assumed: Assumptions


@dataclass(frozen=True)
class LimitReply:
    calls: int
    wall_ns: int


@dataclass(frozen=True)
class MeasureLimit(Request[LimitReply]):
    """Time products of matrices of order `size`, or additions of arrays of `size` bytes if `precision` is None."""

    stack: str
    threads: int
    cores: tuple[int, ...]
    precision: str | None
    size: int
    budget_ns: int
    lead_in: int
    begin_ns: int


@dataclass(frozen=True)
class ListenReply:
    """HOST:PORT, which this process keeps for itself."""

    address: str


@dataclass(frozen=True)
class Listen(Request[ListenReply]):
    """Reserve an address on a network interface, for the communication with other ranks."""

    interface: str


@dataclass(frozen=True)
class OpenTrainingReply:
    """How long it took to import the framework and to build the training."""

    build_ns: int


@dataclass(frozen=True)
class OpenTraining(Request[OpenTrainingReply]):
    """Build a training of `recipe` from files of initial weights, images and labels, on these cores (None: on any).

    A process has one training by each `name`. With `addresses`, this process is the `rank` of a group: it gets its
    share of each batch, and gives up after `timeout_s` of waiting for the others. Listen must have come before.
    """

    stack: str
    variant: str
    precision: str
    recipe: Recipe
    seed: int
    threads: int
    cores: tuple[int, ...] | None
    weights: str
    images: str
    labels: str
    name: str = ""
    rank: int = 0
    addresses: tuple[str, ...] = ()
    timeout_s: float = 0.0


@dataclass(frozen=True)
class EpochReply:
    """One timed epoch, or what has been trained of it up to now.

    The time runs from before the images are shuffled until the last step's loss is known; `wait_ns` of it passed
    waiting for the next batch. `loss` is the mean over all images, `losses` the means over equal parts of the epoch;
    older runs did not record these. `digest` identifies the order of the images and their augmented pixels.
    """

    images: int
    loss: float
    wall_ns: int
    cpu_ns: int
    wait_ns: int
    digest: str
    memory_bytes: int
    involuntary_switches: int
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class RunEpoch(Request[EpochReply]):
    """Train one epoch of the training with this name, with a learning rate for each step.

    An epoch may be trained in parts: then those after the first one `goes_on`.
    """

    epoch: int
    seed: int
    learning_rates: tuple[float, ...]
    name: str = ""
    goes_on: bool = False


@dataclass(frozen=True)
class EvaluateReply:
    """Top-1 accuracy and mean cross-entropy."""

    accuracy: float
    loss: float
    images: int


@dataclass(frozen=True)
class Evaluate(Request[EvaluateReply]):
    """Evaluate the training's current weights on the images and labels in two files."""

    images: str
    labels: str


@dataclass(frozen=True)
class SaveCheckpoint(Request[Done]):
    """Write the current weights and the optimiser's state of the training with this name, each to its file."""

    weights: str
    state: str
    name: str = ""


@dataclass(frozen=True)
class RestoreOptimizer(Request[Done]):
    """Read the optimiser's state from a file; OpenTraining has set the weights."""

    state: str


@dataclass(frozen=True)
class WeightsReply:
    """The digest of a training's weights, where this process accepts connections, and the cores that it may use."""

    digest: str
    listening: tuple[str, ...]
    cores: tuple[int, ...]


@dataclass(frozen=True)
class DigestWeights(Request[WeightsReply]):
    """Digest the current weights of the training with this name."""

    name: str = ""


@dataclass(frozen=True)
class ProveTraining(Request[ProofReply]):
    """Run a training step under the stack's profiler and read back what ran; the training is then unusable."""

    name: str = ""


REQUESTS: dict[str, type[Request[Any]]] = {kind.__name__: kind for kind in Request.__subclasses__()}


def request_line(request: Request[Any]) -> str:
    return json.dumps({"do": type(request).__name__, **encode(request)}) + "\n"


def read_request(line: str) -> Request[Any]:
    """Return the request in a line; raises ValueError for a line that holds none."""
    content = json.loads(line)
    return decode(REQUESTS[content.pop("do")], content)


def batch_interval_ns(counts: Iterable[int], walls_ns: Iterable[int]) -> float:
    """Return the time per batch of workers that ran together: the inverse of their added rates."""
    return 1 / sum(count / wall for count, wall in zip(counts, walls_ns, strict=True))
