"""The vocabulary of a comparison: arms, cases, pairs and ladders."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

LATENCY, THROUGHPUT, TRAINING = "latency", "throughput", "training"
SINGLE_STREAM, MULTI_STREAM, OFFLINE, SERVER = "single-stream", "multi-stream", "offline", "server"
# The scenarios whose queries LoadGen makes.
LOADGEN = (SINGLE_STREAM, MULTI_STREAM, OFFLINE, SERVER)
# The samples of a query, where the scenario fixes them. The time that counts there is a percentile of the latencies.
QUERY_SAMPLES = {SINGLE_STREAM: 1, MULTI_STREAM: 8, SERVER: 1}
DEFAULT_SETTINGS = "bound"
REPLICA = "@A/A"
# How the work of several workers relates to that of one: the same batch for all together, or for each.
STRONG, WEAK = "strong", "weak"
# The number of threads of a case in which each arm has its own best split of the cores.
BEST_THREADS = -1
# The precision of a pattern that matches arms of every precision.
ANY_PRECISION = "*"


@dataclass(frozen=True)
class Batching:
    """A server's dynamic batching: the largest batch, and how long the first query of a batch waits for others."""

    largest: int
    wait_us: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes for which there are sessions, besides 1: a batch uses the smallest that is large enough."""
        powers = (1 << power for power in range(1, self.largest.bit_length()))
        return tuple(dict.fromkeys((*(size for size in powers if size < self.largest), self.largest)))


@dataclass(frozen=True)
class Arm:
    """A stack's variant at a precision, under named environment settings.

    A `replica` is the baseline measured a second time, for the A/A check. A `delay` is a known slowdown that is added
    to each call, as a fraction of the call's time. With `batching` it serves several queries at a time.
    With `workers` it has a process with one thread for each core, to which LoadGen's own process hands the queries.
    """

    stack: str
    variant: str
    precision: str = "fp32"
    settings: str = DEFAULT_SETTINGS
    replica: bool = False
    delay: float = 0.0
    batching: Batching | None = None
    workers: bool = False

    @property
    def id(self) -> str:
        """`stack/variant`, then what differs from the defaults; the name in journals and tables."""
        precision = "" if self.precision == "fp32" else f"/{self.precision}"
        settings = "" if self.settings == DEFAULT_SETTINGS else f"+{self.settings}"
        if self.batching:
            settings += f"~{self.batching.largest}in{self.batching.wait_us}us"
        settings += "~workers" if self.workers else ""
        marks = (REPLICA if self.replica else "") + (f"@slower{self.delay * 100:g}" if self.delay else "")
        return f"{self.stack}/{self.variant}{precision}{settings}{marks}"

    @property
    def label(self) -> str:
        precision = "" if self.precision == "fp32" else f" {self.precision}"
        settings = "" if self.settings == DEFAULT_SETTINGS else f" ({self.settings} settings)"
        if self.batching:
            settings += f" (up to {self.batching.largest} in {self.batching.wait_us} µs)"
        settings += " (a worker for each core)" if self.workers else ""
        marks = (" (A/A)" if self.replica else "") + (f" (slower by {self.delay * 100:g} %)" if self.delay else "")
        return f"{self.stack} {self.variant}{precision}{settings}{marks}"

    @property
    def slug(self) -> str:
        return re.sub("[/+@~]", "-", self.id.replace(REPLICA, "-aa"))

    @property
    def original(self) -> Arm:
        """The arm without replica mark and delay."""
        return replace(self, replica=False, delay=0.0)


def matches(arm: Arm, pattern: Arm) -> bool:
    """Return whether an arm is the pattern, which may leave the precision open."""
    precision = arm.precision if pattern.precision == ANY_PRECISION else pattern.precision
    return arm == replace(pattern, precision=precision)


@dataclass(frozen=True)
class Case:
    """The work on which arms are compared.

    `threads` is 0 unless the run measures several numbers of threads, and BEST_THREADS where each arm has its own.

    `workers` is how many processes train the network together, 0 unless the run measures how training scales. Their
    `scaling` is STRONG or WEAK, and empty for one worker. In weak scaling, `batch_size` is that of each worker.
    """

    model: str
    scenario: str
    batch_size: int
    threads: int = 0
    workers: int = 0
    scaling: str = ""

    @property
    def id(self) -> str:
        """The name in journals and tables."""
        threads = "best" if self.threads == BEST_THREADS else str(self.threads or "")
        workers = f"/w{self.workers}" + (f"-{self.scaling}" if self.scaling else "") if self.workers else ""
        return f"{self.model}/{self.scenario}/b{self.batch_size}" + (f"/t{threads}" if threads else "") + workers

    @property
    def label(self) -> str:
        batch = f"batch {self.batch_size}" + (" each" if self.scaling == WEAK else "")
        parts = (self.model, self.scenario, batch, threads_label(self.threads), workers_label(self.workers))
        return ", ".join(filter(None, (*parts, self.scaling and f"{self.scaling} scaling")))

    @property
    def global_batch_size(self) -> int:
        """The number of images of an optimiser's step, those of all workers together."""
        return self.batch_size * self.workers if self.scaling == WEAK else self.batch_size

    @property
    def group(self) -> tuple[str, ...]:
        """The key that cases have in common if one process of an arm serves all of them.

        A training serves one, and so do a LoadGen run and a process whose threads are the best for its batch size.
        """
        alone = self.scenario in (TRAINING, *LOADGEN) or self.threads == BEST_THREADS
        batch = f"batch {self.batch_size}" if alone else ""
        return tuple(filter(None, (self.model, self.scenario, batch, threads_label(self.threads))))


def workers_label(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}" if count else ""


def threads_label(count: int) -> str:
    """Return `1 thread`, `2 threads` or `best threads`, and nothing for 0."""
    if count == BEST_THREADS:
        return "best threads"
    return f"{count} thread{'s' if count > 1 else ''}" if count else ""


@dataclass(frozen=True)
class Split:
    """How an arm uses its cores: `streams` batches at a time, with a number of threads for each of them.

    A stream is a process, or one of the streams of an asynchronous variant's only process.
    """

    streams: int
    threads: int

    @property
    def cores(self) -> int:
        return self.streams * self.threads


def usual_split(scenario: str, cores: int) -> Split:
    """Return the split of arms that do not have their own best one: for throughput, a thread for each stream."""
    return Split(cores, 1) if scenario == THROUGHPUT else Split(1, cores)


def possible_splits(scenario: str, cores: int) -> tuple[Split, ...]:
    """Return the splits among which the best is chosen, those with the fewest threads first.

    For latency they have 1, 2, 4, ... and all threads. For throughput each stream has that many, as far as the streams
    then use all cores.
    """
    counts = [count for count in (1 << power for power in range(cores.bit_length())) if count < cores]
    if scenario == THROUGHPUT:
        return tuple(Split(cores // count, count) for count in (*counts, cores) if cores % count == 0)
    return tuple(Split(1, count) for count in (*counts, cores))


@dataclass(frozen=True)
class Pair:
    """A planned comparison; a `candidate` may become the primary comparison of its arm."""

    arm: Arm
    baseline: Arm
    case: Case
    candidate: bool = False


@dataclass(frozen=True)
class Step:
    """A step of a ladder: what it changes, and the arm with that change."""

    name: str
    arm: Arm


@dataclass(frozen=True)
class Ladder:
    """Arms that each change one thing in the arm before, to attribute a gain."""

    name: str
    steps: tuple[Step, ...]
