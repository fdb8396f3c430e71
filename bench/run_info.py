"""The content of run.json: everything that is fixed before the first measurement."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.protocol import PRECISIONS
from bench.codec import CodecError, decode, encode, read_json
from bench.journal import RUN, read_description, refuse_links, write_atomically
from bench.machine.facts import Machine
from bench.migration import current_description
from bench.suite.arms import LATENCY, LOADGEN, STRONG, THROUGHPUT, TRAINING, WEAK, Arm, Case
from bench.suite.schedule import PRESETS, Block
from bench.suite.user_variables import UserVariables
from models.errors import UserError
from models.recipes import Recipe

if TYPE_CHECKING:
    from pathlib import Path

# Far more than any run has: the time of a report grows with them.
MOST_ARMS, MOST_CASES, MOST_PAIRS = 4096, 1024, 65_536


@dataclass(frozen=True)
class TrainingInfo:
    """How the arms train: `images` per epoch, `seeds` blocks that train for all `epochs`."""

    recipe: Recipe
    epochs: int
    images: int
    seeds: int


@dataclass(frozen=True)
class SuiteInfo:
    """The suite; `training` is None if no arm trains.

    After each latency call, every arm stays busy for the fraction `wait` of the call's time.
    """

    name: str
    summary: str
    training: TrainingInfo | None = None
    wait: float = 0.0


@dataclass(frozen=True)
class PairInfo:
    """A planned comparison, its arms and case by id; `candidate` if it may be the primary one of its arm."""

    arm: str
    baseline: str
    case: str
    candidate: bool


@dataclass(frozen=True)
class StepInfo:
    """A step of a ladder: what changes, and the id of the arm with the change."""

    name: str
    arm: str


@dataclass(frozen=True)
class LadderInfo:
    """A ladder of the suite, lowest step first."""

    name: str
    steps: tuple[StepInfo, ...]


@dataclass(frozen=True)
class Protocol:
    """How a block is measured; the fields with a default are missing in older runs.

    After `rounds`, a case of latency has further ones while slices let log ratios scatter by more than `scatter`.
    Workers that train together communicate on the network `interface`, and start through the commands of `places`.
    """

    slice_ns: int
    lead_in: int | None = None
    warm_up_slice_ns: int | None = None
    warm_up_limit_ns: int | None = None
    check_images: int | None = None
    check_calls: int | None = None
    rule: str | None = None
    interface: str | None = None
    places: tuple[tuple[str, ...], ...] = ()
    lead_in_ns: int | None = None
    throughput_slice_ns: int | None = None
    rounds: int | None = None
    scatter: float | None = None


@dataclass(frozen=True)
class VariantInfo:
    """A variant of a stack; `compiles` is None in runs that did not record it."""

    summary: str
    settings: dict[str, str]
    compiles: bool | None = None


@dataclass(frozen=True)
class StackInfo:
    """A stack; `baselines` are the stacks that it is compared with, none for a vanilla stack.

    `intel` says whether it is by Intel, None in runs that do not say.
    """

    environment: str
    baselines: tuple[str, ...]
    summary: str = ""
    compiles: bool = False
    variants: dict[str, VariantInfo] | None = None
    intel: bool | None = None


@dataclass(frozen=True)
class EnvironmentInfo:
    """A virtualenv; `bytes` is its size, None for the harness's own interpreter."""

    python: str
    bytes: int | None
    packages: dict[str, str]


@dataclass(frozen=True)
class Work:
    """The work for one image, by the specification of the network."""

    multiply_adds: int
    parameters: int
    input_elements: int
    output_elements: int


@dataclass(frozen=True)
class ModelInfo:
    """Digests of a network and its weights; `work` is None in runs that did not record it."""

    spec: str
    weights: str
    trained: bool
    work: Work | None = None


@dataclass(frozen=True)
class DataInfo:
    name: str
    digest: str


@dataclass(frozen=True)
class RunInfo:
    """The content of run.json.

    `lineups` are, by case, the ids of the arms that were to take part, including those that were skipped. `settings`
    are the environment variables by the name of the settings. `missing` is, by stack, why it can't be measured.
    `mismatches` are, by pair of environments, the packages whose versions differ. `variables` are those of the user,
    None in runs that did not record them.
    """

    schema: int
    command: tuple[str, ...]
    started: str
    git_commit: str | None
    suite: SuiteInfo
    preset: str
    seed: int
    threads: int
    arms: tuple[Arm, ...]
    cases: tuple[Case, ...]
    pairs: tuple[PairInfo, ...]
    ladders: tuple[LadderInfo, ...]
    lineups: dict[str, tuple[str, ...]]
    schedule: tuple[Block, ...]
    protocol: Protocol
    settings: dict[str, dict[str, str]]
    restart_settings: dict[str, str]
    machine: Machine
    stacks: dict[str, StackInfo]
    environments: dict[str, EnvironmentInfo]
    missing: dict[str, str]
    mismatches: dict[str, dict[str, tuple[str, str]]]
    data: DataInfo
    models: dict[str, ModelInfo]
    advice: tuple[str, ...] = ()
    variables: UserVariables | None = None


def write_run(folder: Path, info: RunInfo) -> None:
    """Write run.json; raises UserError if the disk refuses it."""
    write_atomically(folder / RUN, json.dumps(encode(info), indent=1, allow_nan=False) + "\n")


def read_run(folder: Path) -> RunInfo:
    """Read run.json; raises UserError if it is missing, damaged or of a later schema."""
    path = folder / RUN
    refuse_links(folder)
    try:
        content = current_description(read_json(read_description(path)))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: not there; name the folder of a run, for instance results/RUN") from error
    except CodecError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read ({error})") from error
    try:
        # Not strict: a later version may store more.
        info = decode(RunInfo, content, strict=False)
        _check(info)
    except CodecError as error:
        raise UserError(f"{path}: damaged: {error}") from error
    return info


def as_read(info: RunInfo) -> RunInfo:
    """Return what `read_run` returns of a run that was written: long texts are cut, for instance."""
    return decode(RunInfo, read_json(json.dumps(encode(info))))


def _check(info: RunInfo) -> None:
    """Raise CodecError for a name that nothing else defines, or a count that must be positive.

    The arms of ladders need not be defined: ladders are those of the suite, of whose stacks a run may measure a part.
    """
    for field, items, most in (
        ("arms", info.arms, MOST_ARMS),
        ("cases", info.cases, MOST_CASES),
        ("pairs", info.pairs, MOST_PAIRS),
    ):
        if len(items) > most:
            raise CodecError(f"has {len(items):,} items; allowed: {most:,}", field)
    arms, cases = {arm.id for arm in info.arms}, {case.id for case in info.cases}
    references = (
        ("preset", "preset", {info.preset}, PRESETS.keys()),
        ("arms", "stack", {arm.stack for arm in info.arms}, info.stacks.keys()),
        ("arms", "precision", {arm.precision for arm in info.arms}, set(PRECISIONS)),
        ("cases", "scenario", {case.scenario for case in info.cases}, {LATENCY, THROUGHPUT, TRAINING, *LOADGEN}),
        ("cases", "scaling", {case.scaling for case in info.cases}, {"", STRONG, WEAK}),
        ("cases", "model", {case.model for case in info.cases if case.scenario != TRAINING}, info.models.keys()),
        ("cases", "lineup", cases, info.lineups.keys()),
        ("lineups", "case", info.lineups.keys(), cases),
        ("lineups", "arm", {arm for lineup in info.lineups.values() for arm in lineup}, arms),
        ("pairs", "case", {pair.case for pair in info.pairs}, cases),
        ("pairs", "arm", {arm for pair in info.pairs for arm in (pair.arm, pair.baseline)}, arms),
    )
    for field, kind, names, defined in references:
        if undefined := sorted(names - defined):
            raise CodecError(f"refers to the {kind} {undefined[0]!r}, which is not defined", field)
    if info.suite.training is None and any(case.scenario == TRAINING for case in info.cases):
        raise CodecError("is missing", "suite.training")
    counts = {
        "threads": [info.threads],
        "machine": [info.machine.cores, info.machine.usable_cores],
        "cases": [count for case in info.cases for count in (case.batch_size, case.workers + 1)],
        "suite.training": [info.suite.training.images, info.suite.training.epochs] if info.suite.training else [],
    }
    for field, values in counts.items():
        if min(values, default=1) < 1:
            raise CodecError("has a count that is not positive", field)
