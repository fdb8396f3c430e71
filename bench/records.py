"""What travels and what is stored: frozen dataclasses and their JSON."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SCHEMA = 2
PRODUCT, TRAFFIC = "product", "traffic"
# What run.json holds beside the schema.
DESCRIPTION = frozenset({
    "command", "started", "git_commit", "suite", "preset", "seed", "threads", "arms", "cases", "pairs", "ladders",
    "lineups", "schedule", "protocol", "settings", "restart_settings", "machine", "stacks", "environments", "missing",
    "mismatches", "data", "models",
})  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """What the NumPy oracle says of a model's test images, and what they are: one digit each."""

    model: str
    labels: str
    truth: str

    @property
    def accuracy(self) -> float:
        """Return the top-1 accuracy in fp32, which lower precisions are held against."""
        return sum(map(str.__eq__, self.labels, self.truth)) / len(self.truth)


@dataclass(frozen=True)
class Conversion:
    """The files that an arm starts from: how long making them took (once, or now when not `cached`), and their size."""

    arm: str
    model: str
    convert_ns: int
    cached: bool


@dataclass(frozen=True)
class Start:
    """A process that is built, alone on an idle machine: times in ns. A team's are those of its slowest member.

    `cached` tells whether it found its compile caches filled.
    """

    arm: str
    case: str
    cached: bool
    import_ns: int
    build_ns: int
    first_call_ns: int

    @property
    def total_ns(self) -> int:
        """Return the time from a started interpreter to the first answer."""
        return self.import_ns + self.build_ns + self.first_call_ns


@dataclass(frozen=True)
class Proof:
    """What the proof pass read back from an arm, and its predictions of all test images (one digit each).

    `max_abs_logit_diff` and `agreement` (of the labels) are against the NumPy oracle. `memory_bytes` is the peak
    resident set of the arm's processes together, `saved_bytes` the size of what a user of it would ship.
    """

    arm: str
    case: str
    precision: str
    threads: int
    kernels: tuple[str, ...]
    versions: dict[str, str]
    images: int
    labels: str
    accuracy: float
    max_abs_logit_diff: float
    agreement: float
    memory_bytes: int
    saved_bytes: int


@dataclass(frozen=True)
class Parity:
    """An arm's outputs on all test images beside those of one of its baselines."""

    arm: str
    baseline: str
    case: str
    max_abs_logit_diff: float
    agreement: float


@dataclass(frozen=True)
class Check:
    """What a block's process proved before its first timed slice."""

    arm: str
    case: str
    block: int
    images: int
    labels_sha256: str
    max_abs_logit_diff: float
    warm_up_medians_ns: tuple[int, ...]
    steady: bool


@dataclass(frozen=True)
class Evidence:
    """What was read back from a block's process after its last timed slice."""

    arm: str
    case: str
    block: int
    precision: str
    threads: int
    kernels: tuple[str, ...]


@dataclass(frozen=True)
class Slice:
    """One arm's turn in one round, with what the machine did meanwhile.

    A team's samples stand one member's after the other's: `counts` are how many each has, `walls_ns` how long each
    took. `idle_cpu_ns` is what all other workers burned, `harness_cpu_ns` what the orchestrator did. `steal_ns` and
    `throttled_ns` are those of the arm's cores and of the control group. `foreign_ns` is what others used of the arm's
    cores: as ticks are coarse, it may fall below zero in one turn. All of that is of `watched_ns`, which is longer than
    the timed part. (Each is None in runs that did not record it.)
    """

    arm: str
    case: str
    block: int
    round: int
    position: int
    samples_ns: tuple[int, ...]
    counts: tuple[int, ...]
    walls_ns: tuple[int, ...]
    cpu_ns: int
    involuntary_switches: int
    idle_cpu_ns: int
    harness_cpu_ns: int
    steal_ns: int
    throttled_ns: int
    load: float
    frequency_hz: int | None
    foreign_ns: int | None = None
    watched_ns: int | None = None

    @property
    def wall_ns(self) -> int:
        """Return how long the turn took."""
        return max(self.walls_ns)

    @property
    def batch_interval_ns(self) -> float:
        """Return the time per batch of all members together."""
        return batch_interval_ns(self.counts, self.walls_ns)


@dataclass(frozen=True)
class TrainedEpoch:
    """One arm's turn in one round where arms train: an epoch, with what the machine did meanwhile (see Slice).

    The time is from before the images are shuffled until the last step's loss is known; `wait_ns` of it passed waiting
    for the next batch. `digest` identifies the order of the images and their augmented pixels. The accuracy is on the
    test images, judged apart; None where it was not.
    """

    arm: str
    case: str
    block: int
    round: int
    position: int
    images: int
    loss: float
    wall_ns: int
    cpu_ns: int
    wait_ns: int
    digest: str
    memory_bytes: int
    test_accuracy: float | None
    involuntary_switches: int
    idle_cpu_ns: int
    harness_cpu_ns: int
    steal_ns: int
    throttled_ns: int
    load: float
    frequency_hz: int | None
    foreign_ns: int | None = None
    watched_ns: int | None = None


Turn: TypeAlias = Slice | TrainedEpoch


def watched_ns(turn: Turn) -> int:
    """Return for how long the machine was watched while an arm had its turn."""
    return turn.watched_ns or turn.wall_ns


@dataclass(frozen=True)
class Failure:
    """An arm, or one of its blocks, that could not be measured; `skipped` when the stack can't do it at all."""

    arm: str
    case: str
    block: int | None
    reason: str
    skipped: bool = False


@dataclass(frozen=True)
class Overhead:
    """The null backend's samples: what the harness itself adds to a timed call, in ns."""

    samples_ns: tuple[int, ...]


@dataclass(frozen=True)
class Roof:
    """What bounds every arm: products of matrices (`size` is their order), or traffic (of a working set in bytes).

    Members of a team of `threads` did `work` in each call: floating-point or integer operations, or bytes read and
    written. They worked at the same time; `counts` are their calls, `walls_ns` how long each took for them.
    """

    what: str
    stack: str
    precision: str
    threads: int
    size: int
    work: int
    counts: tuple[int, ...]
    walls_ns: tuple[int, ...]


@dataclass(frozen=True)
class End:
    """How the run ended: `complete`, `settled` (a planned look stopped it) or `interrupted`."""

    status: str
    wall_ns: int


Record: TypeAlias = (
    Reference
    | Conversion
    | Start
    | Proof
    | Parity
    | Check
    | Evidence
    | Slice
    | TrainedEpoch
    | Failure
    | Overhead
    | Roof
    | End
)
KINDS: dict[str, type[Record]] = {kind.__name__.lower(): kind for kind in get_args(Record)}


REQUIRED = {kind: {field.name for field in fields(kind) if field.default is MISSING} for kind in KINDS.values()}
FIELD_TYPES = {kind: {field.name: str(field.type) for field in fields(kind)} for kind in KINDS.values()}
VALID: dict[str, Callable[[Any], bool]] = {
    "bool": lambda value: type(value) is bool,
    "str": lambda value: type(value) is str,
    "int": lambda value: type(value) is int,
    "int | None": lambda value: value is None or type(value) is int,
    "float": lambda value: type(value) in (int, float),
    "float | None": lambda value: value is None or type(value) in (int, float),
    "tuple[int, ...]": lambda value: type(value) is list and all(type(each) is int for each in value),
    "tuple[str, ...]": lambda value: type(value) is list and all(type(each) is str for each in value),
    "dict[str, str]": lambda value: type(value) is dict and all(type(each) is str for each in value.values()),
}


def batch_interval_ns(counts: Iterable[int], walls_ns: Iterable[int]) -> float:
    """Return the time per batch of processes that worked together: the inverse of their added rates."""
    return 1 / sum(count / wall for count, wall in zip(counts, walls_ns, strict=True))


class RecordError(ValueError):
    """A line that is not a record."""


def to_line(record: Record) -> str:
    """Return the record as one line of JSON, without the line's end."""
    return json.dumps({"kind": type(record).__name__.lower(), **asdict(record)}, separators=(",", ":"), allow_nan=False)


def from_line(line: str) -> Record:
    """Return the record in a line of JSON.

    Raises RecordError when the line is not one, is of an unknown kind, or has other fields or types than its kind.
    """
    try:
        content = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON ({error})") from error
    kind = KINDS.get(str(content.pop("kind", ""))) if isinstance(content, dict) else None
    if kind is None:
        raise RecordError(f"not a record; the kinds are {', '.join(KINDS)}")
    types = FIELD_TYPES[kind]
    if not types.keys() >= content.keys() >= REQUIRED[kind]:
        raise RecordError(f"a {kind.__name__.lower()} has the fields {', '.join(types)}")
    for name, value in content.items():
        if not VALID[types[name]](value):
            raise RecordError(f"{name} of a {kind.__name__.lower()} must be {types[name]}")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    return kind(**values)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")
