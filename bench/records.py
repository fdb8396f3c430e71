"""The records of journal.jsonl, one on each line."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from bench.codec import FLAT, CodecError, decode, encode, read_json
from bench.worker.messages import EpochReply, LoadReply, batch_interval_ns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PRODUCT, TRAFFIC = "product", "traffic"
# How a run ends by itself: all is measured, or a planned look has stopped it; and how it ends otherwise.
COMPLETE, SETTLED, INTERRUPTED = "complete", "settled", "interrupted"
# The key of a line that ties it to all lines before it.
LINK = "link"


@dataclass(frozen=True)
class Reference:
    """The NumPy oracle's labels of the test images for a model, and the true ones: one digit per image."""

    model: str
    labels: str
    truth: str

    @property
    def accuracy(self) -> float:
        """Return the top-1 accuracy in fp32, with which lower precisions are compared."""
        return sum(map(str.__eq__, self.labels, self.truth)) / len(self.truth)


@dataclass(frozen=True)
class Conversion:
    """How long it took to convert the files that an arm starts from; `cached` if an earlier run converted them."""

    arm: str
    model: str
    convert_ns: int
    cached: bool


@dataclass(frozen=True)
class Start:
    """Start-up of a process that is alone on an idle machine, in ns; for a worker group, that of its slowest worker.

    `cached` says whether the compile caches were filled.
    """

    arm: str
    case: str
    cached: bool
    import_ns: int
    build_ns: int
    first_call_ns: int

    @property
    def total_ns(self) -> int:
        return self.import_ns + self.build_ns + self.first_call_ns


@dataclass(frozen=True)
class SplitTrial:
    """An arm's times per batch with one split of its cores: a time for each round of each process or worker group.

    A split that could not be measured has none, and a reason.
    """

    streams: int
    threads: int
    times_ns: tuple[tuple[int, ...], ...]
    failure: str = ""

    @property
    def time_ns(self) -> float | None:
        """Return the mean over processes of the median over their rounds."""
        return fmean(map(median, self.times_ns)) if self.times_ns else None


@dataclass(frozen=True)
class Choice:
    """The split of its cores that an arm has in all blocks of a case, and the trials that it was chosen from."""

    arm: str
    case: str
    streams: int
    threads: int
    trials: tuple[SplitTrial, ...]


@dataclass(frozen=True)
class Proof:
    """What the proof pass read back from an arm, and its labels of the first `images` test images, a digit each.

    They are all images on one case of an arm and model, and fewer on its others. The accuracy is that on these images.
    `max_abs_logit_diff` and `agreement` (of the labels) compare with the NumPy oracle. `memory_bytes` is the peak
    resident set of the arm's processes together, `saved_bytes` the size of the model as a user would ship it; both are
    None in runs that did not record them.
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
    memory_bytes: int | None = None
    saved_bytes: int | None = None


@dataclass(frozen=True)
class Parity:
    """An arm's outputs compared with those of one of its baselines, on the test images that both have predicted."""

    arm: str
    baseline: str
    case: str
    max_abs_logit_diff: float
    agreement: float


@dataclass(frozen=True)
class Check:
    """The proof of a block's process before its first timed slice."""

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
class Conditions:
    """What the machine did while an arm was measured.

    `idle_cpu_ns` is the CPU time of all other workers, `harness_cpu_ns` that of the orchestrator. Both cover
    `watched_ns`, which is longer than the timed part.

    `steal_ns` is of the arm's cores, `throttled_ns` of the control group. `foreign_ns` is the CPU time of other
    processes on the arm's cores. The kernel counts these in coarse ticks, so one turn may show a negative value. They
    cover `counted_ns`, which begins where the turn before ended: so the errors of a round's turns cancel.

    A value is None where the kernel does not tell it, and the last three are None in runs that did not record them.
    """

    idle_cpu_ns: int
    harness_cpu_ns: int
    steal_ns: int | None
    throttled_ns: int | None
    load: float | None
    frequency_hz: int | None
    foreign_ns: int | None = None
    watched_ns: int | None = None
    counted_ns: int | None = None


@dataclass(frozen=True)
class Slice:
    """One arm's turn in one round of inference.

    `samples_ns` holds the samples of all workers of the arm, one worker after the other: `counts` is the number of
    samples of each worker, `walls_ns` its wall time.
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
    conditions: Conditions = field(metadata=FLAT)

    @property
    def wall_ns(self) -> int:
        return max(self.walls_ns)

    @property
    def batch_interval_ns(self) -> float:
        return batch_interval_ns(self.counts, self.walls_ns)


@dataclass(frozen=True)
class TrainedEpoch:
    """An arm's epoch in one round of training. The accuracy on the test images is None if not measured.

    `parts_ns` are the wall times of its turns, between which the other arms had theirs. It is empty in runs with turns
    of one epoch: older ones, and those of groups of workers.
    """

    arm: str
    case: str
    block: int
    round: int
    position: int
    result: EpochReply = field(metadata=FLAT)
    test_accuracy: float | None
    conditions: Conditions = field(metadata=FLAT)
    parts_ns: tuple[int, ...] = ()

    @property
    def wall_ns(self) -> int:
        return self.result.wall_ns

    @property
    def cpu_ns(self) -> int:
        return self.result.cpu_ns

    @property
    def involuntary_switches(self) -> int:
        return self.result.involuntary_switches


@dataclass(frozen=True)
class Ranks:
    """What was read back from the ranks of a group in a block, by rank.

    `cores` are those that each may use, `addresses` those at which they reach each other. `listening` are the addresses
    and interfaces on which they accept connections. `engine` is what averages their gradients.
    """

    arm: str
    case: str
    block: int
    cores: tuple[tuple[int, ...], ...]
    addresses: tuple[str, ...]
    listening: tuple[str, ...]
    engine: str


@dataclass(frozen=True)
class SingleEpoch:
    """The first epoch of one worker with the batches of a group: what the losses of the group are compared with."""

    arm: str
    case: str
    block: int
    digest: str
    losses: tuple[float, ...]


@dataclass(frozen=True)
class LoadResult:
    """What LoadGen's log says of a run.

    `valid` is LoadGen's own verdict, `reasons` are why it is not valid. `time_ns` is the percentile of the latencies
    that counts in the scenario or, for offline, the time per batch. `percentiles_ns` are by their name, as "99.00".
    `effective` are the settings that were in force. `generated` is how many queries LoadGen had made in advance.
    """

    valid: bool
    reasons: tuple[str, ...]
    time_ns: float
    queries: int
    samples_per_s: float
    mean_ns: float
    percentiles_ns: dict[str, float]
    effective: dict[str, str]
    generated: int


@dataclass(frozen=True)
class LoadRun:
    """One arm's turn in a block of LoadGen: a run in a process of its own, whose logs are in `folder`."""

    arm: str
    case: str
    block: int
    round: int
    position: int
    folder: str
    result: LoadResult = field(metadata=FLAT)
    reply: LoadReply = field(metadata=FLAT)
    conditions: Conditions = field(metadata=FLAT)

    @property
    def wall_ns(self) -> int:
        return self.reply.wall_ns

    @property
    def cpu_ns(self) -> int:
        return self.reply.cpu_ns

    @property
    def involuntary_switches(self) -> int:
        return self.reply.involuntary_switches

    @property
    def issue_delay_ns(self) -> float | None:
        """Return by how much LoadGen issued queries late, on average: its latencies begin when they were due."""
        served_ns = self.reply.served_ns
        return None if served_ns is None else self.result.mean_ns - served_ns


Turn: TypeAlias = Slice | TrainedEpoch | LoadRun


def watched_ns(turn: Turn) -> int:
    """Return how long the workers were watched in a turn."""
    return turn.conditions.watched_ns or turn.wall_ns


def counted_ns(turn: Turn) -> int:
    """Return for how long steal and other processes were counted in a turn."""
    return turn.conditions.counted_ns or watched_ns(turn)


@dataclass(frozen=True)
class BlockEnd:
    """The wall time of a block, and of its parts: until all arms are built, until they are warm, and for the turns.

    `suspended_ns` is how long the machine was suspended meanwhile, which no time includes; None if that is not known.
    """

    block: int
    cases: tuple[str, ...]
    wall_ns: int
    build_ns: int
    warm_up_ns: int
    turns_ns: int
    suspended_ns: int | None = None


@dataclass(frozen=True)
class Prepared:
    """All that a run does once, before its first block, is done: it is not repeated when the run goes on."""


@dataclass(frozen=True)
class Resume:
    """A run goes on after it was interrupted or killed: `spent_ns` is how long it had measured until then."""

    started: str
    spent_ns: int


@dataclass(frozen=True)
class Failure:
    """An arm, or one of its blocks, that could not be measured; `skipped` if the stack can't do it at all."""

    arm: str
    case: str
    block: int | None
    reason: str
    skipped: bool = False


@dataclass(frozen=True)
class Overhead:
    """The samples of the null backend: what the harness itself adds to a timed call."""

    samples_ns: tuple[int, ...]


@dataclass(frozen=True)
class Glue:
    """What LoadGen and its Python interface add to a query: a single-stream run of the null backend, in ns.

    `median_ns` and `p90_ns` are inside of a latency. `interval_ns` is the time from one query to the next.
    """

    queries: int
    median_ns: float
    p90_ns: float
    interval_ns: float


@dataclass(frozen=True)
class LoadProbe:
    """A LoadGen run of a search: queries a second, LoadGen's verdict, the percentile of the latencies."""

    rate: float
    valid: bool
    time_ns: float
    reasons: tuple[str, ...]
    folder: str


@dataclass(frozen=True)
class LoadSearch:
    """The search for an arm's highest rate that LoadGen calls valid; 0 if there is none."""

    arm: str
    case: str
    bound_ns: int
    rate: float
    probes: tuple[LoadProbe, ...]


@dataclass(frozen=True)
class LoadAccuracy:
    """An arm's run in LoadGen's accuracy mode, over all test images.

    `agreement` is the share of labels that equal those of the arm's proof, on the images that both have predicted.
    """

    arm: str
    case: str
    images: int
    accuracy: float
    agreement: float
    folder: str


@dataclass(frozen=True)
class Roof:
    """A limit of the machine: matrix products of order `size`, or memory traffic of a working set of `size` bytes.

    `threads` is that of the worker group, whose workers ran at the same time. `work` is that of one call of one worker:
    floating-point or integer operations, or bytes read and written. `counts` are the calls of each worker, `walls_ns`
    their total times.
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
    """How the run ended: COMPLETE, SETTLED or INTERRUPTED.

    `wall_ns` includes what was measured before a Resume.
    """

    status: str
    wall_ns: int


Record: TypeAlias = (
    Reference
    | Conversion
    | Start
    | Choice
    | Proof
    | Parity
    | Check
    | Evidence
    | Slice
    | TrainedEpoch
    | Ranks
    | SingleEpoch
    | LoadRun
    | LoadAccuracy
    | LoadSearch
    | Glue
    | Prepared
    | BlockEnd
    | Resume
    | Failure
    | Overhead
    | Roof
    | End
)
KINDS: dict[str, type[Record]] = {kind.__name__.lower(): kind for kind in get_args(Record)}


def to_line(record: Record) -> str:
    """Return the record as one line of JSON, without the end of the line."""
    return json.dumps({"kind": type(record).__name__.lower(), **encode(record)}, separators=(",", ":"), allow_nan=False)


def from_line(line: str) -> Record:
    """Return the record in a line of JSON; raises CodecError if the line is not JSON, or as `from_content` does."""
    return from_content(read_json(line))


def from_content(content: Any) -> Record:
    """Return the record in a line's content.

    Raises CodecError if it has an unknown kind, or other fields or types than its kind.
    """
    if isinstance(content, dict):
        content.pop(LINK, None)
    name = content.pop("kind", None) if isinstance(content, dict) else None
    if not isinstance(name, str) or name not in KINDS:
        raise CodecError(f"is not a record; the kinds are {', '.join(KINDS)}")
    try:
        return decode(KINDS[name], content)
    except CodecError as error:
        raise error.inside(name) from None


def end_of_finished(records: Sequence[Record]) -> int:
    """Return how many records there are up to the end of the last finished block, or of what comes before all blocks.

    0 if neither is finished.
    """
    ends = (index + 1 for index, record in enumerate(records) if isinstance(record, BlockEnd | Prepared))
    return max(ends, default=0)


def in_force(records: Iterable[Record]) -> list[Record]:
    """Return the records that count: when a run goes on, it repeats what it had not finished."""
    kept: list[Record] = []
    for record in records:
        if isinstance(record, Resume):
            finished = end_of_finished(kept)
            kept[finished:] = [other for other in kept[finished:] if isinstance(other, Resume)]
        kept.append(record)
    return kept
