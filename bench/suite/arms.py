"""Arms, cases, pairs and ladders: the vocabulary of a suite."""

from __future__ import annotations

from dataclasses import dataclass, replace

REPLICA = "@A/A"


LATENCY, THROUGHPUT, TRAINING = "latency", "throughput", "training"


DEFAULT_SETTINGS = "bound"


@dataclass(frozen=True)
class Arm:
    """One stack used in one way, at one precision, under one set of environment settings (their name).

    A replica is the baseline a second time, the A/A arm. To each call of an arm with a `delay` a wait for that share of
    its time is added: a difference that is known.
    """

    stack: str
    variant: str
    precision: str = "fp32"
    settings: str = DEFAULT_SETTINGS
    replica: bool = False
    delay: float = 0.0

    @property
    def id(self) -> str:
        """Return `stack/variant`, with precision and settings where not the usual, marked when a replica or delayed."""
        precision = "" if self.precision == "fp32" else f"/{self.precision}"
        settings = "" if self.settings == DEFAULT_SETTINGS else f"+{self.settings}"
        marks = (REPLICA if self.replica else "") + (f"@slower{self.delay * 100:g}" if self.delay else "")
        return f"{self.stack}/{self.variant}{precision}{settings}{marks}"

    @property
    def label(self) -> str:
        """Return the name for tables and plots."""
        precision = "" if self.precision == "fp32" else f" {self.precision}"
        settings = "" if self.settings == DEFAULT_SETTINGS else f" ({self.settings} settings)"
        marks = (" (A/A)" if self.replica else "") + (f" (slower by {self.delay * 100:g} %)" if self.delay else "")
        return f"{self.stack} {self.variant}{precision}{settings}{marks}"

    @property
    def slug(self) -> str:
        """Return the name for files."""
        return self.id.replace(REPLICA, "-aa").replace("/", "-").replace("+", "-").replace("@", "-")

    @property
    def original(self) -> Arm:
        """Return what a replica or a delayed arm is one of; any other arm itself."""
        return replace(self, replica=False, delay=0.0)


@dataclass(frozen=True)
class Case:
    """The work on which arms are compared; at equal precision, except where trade-offs are shown.

    `threads` is 0 where all cases of a run have as many as the run.
    """

    model: str
    scenario: str
    batch_size: int
    threads: int = 0

    @property
    def id(self) -> str:
        """Return the name for journals and files' contents."""
        return f"{self.model}/{self.scenario}/b{self.batch_size}" + (f"/t{self.threads}" if self.threads else "")

    @property
    def label(self) -> str:
        """Return the name for tables and plots."""
        return ", ".join((self.model, self.scenario, f"batch {self.batch_size}", *self._threads))

    @property
    def group(self) -> tuple[str, ...]:
        """Return what the cases have in common that one process of an arm serves; one that trains serves one."""
        alone = (f"batch {self.batch_size}",) if self.scenario == TRAINING else ()
        return self.model, self.scenario, *alone, *self._threads

    @property
    def _threads(self) -> tuple[str, ...]:
        return (threads_told(self.threads),) if self.threads else ()


def threads_told(count: int) -> str:
    """Return `1 thread` or `2 threads`, or nothing for none."""
    return f"{count} thread{'s' if count > 1 else ''}" if count else ""


@dataclass(frozen=True)
class Pair:
    """A comparison that a run sets out to make; `candidate` for being the primary one of its arm."""

    arm: Arm
    baseline: Arm
    case: Case
    candidate: bool = False


@dataclass(frozen=True)
class Step:
    """A rung of a ladder: what changes, and the arm in which it has."""

    name: str
    arm: Arm


@dataclass(frozen=True)
class Ladder:
    """Arms of which each changes one thing in the one before: where a gain comes from."""

    name: str
    steps: tuple[Step, ...]
