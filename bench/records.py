"""What travels and what is stored: frozen dataclasses and their JSON. Stdlib only: workers import this too."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

SCHEMA = 1
REPLICA = "@A/A"


@dataclass(frozen=True)
class Arm:
    """One stack used in one way; a replica is the baseline a second time, the A/A arm."""

    stack: str
    variant: str
    replica: bool = False

    @property
    def id(self) -> str:
        """Return `stack/variant`, marked when a replica."""
        return f"{self.stack}/{self.variant}" + (REPLICA if self.replica else "")

    @property
    def label(self) -> str:
        """Return the name for tables and plots."""
        return f"{self.stack} {self.variant}" + (" (A/A)" if self.replica else "")

    @property
    def slug(self) -> str:
        """Return the name for files."""
        return f"{self.stack}-{self.variant}" + ("-aa" if self.replica else "")


@dataclass(frozen=True)
class Case:
    """The work on which arms are compared."""

    model: str
    scenario: str
    batch_size: int
    precision: str

    @property
    def id(self) -> str:
        """Return the name for journals and files' contents."""
        return f"{self.model}/{self.scenario}/b{self.batch_size}/{self.precision}"

    @property
    def label(self) -> str:
        """Return the name for tables and plots."""
        return f"{self.model}, {self.scenario}, batch {self.batch_size}, {self.precision}"

    @property
    def slug(self) -> str:
        """Return the name for files."""
        return self.id.replace("/", "-")


@dataclass(frozen=True)
class Start:
    """A worker process that is built: cold-start times in ns, peak memory in bytes.

    `block` is None for the proof pass, where processes start alone on an idle machine and with empty compile caches.
    """

    arm: str
    case: str
    block: int | None
    pid: int
    import_ns: int
    build_ns: int
    first_call_ns: int
    peak_memory_bytes: int


@dataclass(frozen=True)
class Proof:
    """What the proof pass read back from an arm, and its predictions of all test images (one digit each).

    `max_abs_logit_diff` and `agreement` (of the labels) are against the NumPy oracle.
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

    `idle_cpu_ns` is what all other workers burned, `harness_cpu_ns` what the orchestrator did. `steal_ns` and
    `throttled_ns` are the machine's and the control group's, over all cores.
    """

    arm: str
    case: str
    block: int
    round: int
    position: int
    samples_ns: tuple[int, ...]
    wall_ns: int
    cpu_ns: int
    involuntary_switches: int
    idle_cpu_ns: int
    harness_cpu_ns: int
    steal_ns: int
    throttled_ns: int
    load: float
    frequency_hz: int | None


@dataclass(frozen=True)
class Failure:
    """An arm, or one of its blocks, that could not be measured; `skipped` when the stack can't do it at all."""

    arm: str
    case: str
    block: int | None
    stage: str
    reason: str
    skipped: bool = False


@dataclass(frozen=True)
class Overhead:
    """The null backend's samples: what the harness itself adds to a timed call, in ns."""

    samples_ns: tuple[int, ...]


@dataclass(frozen=True)
class End:
    """How the run ended: `complete`, `settled` (a planned look stopped it) or `interrupted`."""

    status: str
    wall_ns: int


Record: TypeAlias = Start | Proof | Parity | Check | Evidence | Slice | Failure | Overhead | End
KINDS: dict[str, type[Record]] = {
    kind.__name__.lower(): kind for kind in (Start, Proof, Parity, Check, Evidence, Slice, Failure, Overhead, End)
}


class RecordError(ValueError):
    """A line that is not a record."""


def to_line(record: Record) -> str:
    """Return the record as one line of JSON, without the line's end."""
    return json.dumps({"kind": type(record).__name__.lower(), **asdict(record)}, separators=(",", ":"), allow_nan=False)


def from_line(line: str) -> Record:
    """Return the record in a line of JSON.

    Raises RecordError when the line is not one, or of an unknown kind, or has other fields than its kind.
    """
    try:
        content = json.loads(line)
    except ValueError as error:
        raise RecordError(f"not JSON ({error})") from error
    kind = KINDS.get(content.pop("kind", "")) if isinstance(content, dict) else None
    if kind is None:
        raise RecordError(f"not a record; the kinds are {', '.join(KINDS)}")
    names = {field.name for field in fields(kind)}
    if names != content.keys():
        raise RecordError(f"a {kind.__name__.lower()} has the fields {', '.join(sorted(names))}")
    return kind(**{name: _frozen(value) for name, value in content.items()})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
