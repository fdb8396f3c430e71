"""Runs whose records are written by a test instead of measured."""

from __future__ import annotations

import math
import random
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from bench.analysis.latency import AT_REST
from bench.analysis.run import Run
from bench.journal import JOURNAL, Journal
from bench.machine.facts import Machine
from bench.migration import SCHEMA
from bench.records import Conditions, End, Evidence, Parity, Proof, Reference, Slice, Start, TrainedEpoch
from bench.run_info import (
    DataInfo,
    EnvironmentInfo,
    LadderInfo,
    ModelInfo,
    PairInfo,
    Protocol,
    RunInfo,
    StackInfo,
    StepInfo,
    SuiteInfo,
    TrainingInfo,
    write_run,
)
from bench.suite.arms import Arm, Case
from bench.suite.environments import find_stack
from bench.worker.messages import EpochReply
from models.recipes.parse import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from bench.records import Record

BLOCKS, ROUNDS = 20, 3
CONDITIONS = Conditions(0, 0, 0, 0, 0.0, None)

CASE = Case("cnn-small", "latency", 1)
EAGER, AA, COMPILE, JIT = (
    Arm("pytorch", "eager"), Arm("pytorch", "eager", replica=True), Arm("pytorch", "compile"), Arm("ipex", "jit"),
)  # fmt: skip
SLICE = Slice("", CASE.id, 0, 0, 0, (), (1,), (10**6,), 10**6, 0, CONDITIONS)

TRAINING_CASE = Case("cnn-small", "training", 64)
TORCH, TORCH_AA, IPEX = Arm("pytorch", "train"), Arm("pytorch", "train", replica=True), Arm("ipex", "train")
SEEDS, EPOCHS, IMAGES = 3, 3, 60_000
EPOCH = TrainedEpoch(
    "", TRAINING_CASE.id, 0, 0, 0, EpochReply(IMAGES, 0.5, 10, 8, 1, "d", 7, 0), None, CONDITIONS
)  # fmt: skip
EPOCH_S = {TORCH: 6.0, TORCH_AA: 6.0, IPEX: 4.0}
# After each epoch; a seed adds a little.
ACCURACIES = (0.88, 0.905, 0.915)


class RecordedRunBuilder:
    """The description and the records of a run, to be changed before they are written and read back."""

    def __init__(self, folder: Path, info: RunInfo, records: Sequence[Record]) -> None:
        self.folder, self.info, self.records = folder, info, list(records)

    def describe(self, **new: Any) -> RecordedRunBuilder:
        """Replace fields of run.json."""
        self.info = replace(self.info, **new)
        return self

    def change(self, kind: type[Record], where: Callable[[Any], bool], **new: Any) -> RecordedRunBuilder:
        """Replace fields, also those inside of its flat fields, of the records of a kind for which `where` is true."""
        self.records = [
            _changed(record, new) if isinstance(record, kind) and where(record) else record for record in self.records
        ]
        return self

    def remove(self, where: Callable[[Any], bool]) -> RecordedRunBuilder:
        self.records = [record for record in self.records if not where(record)]
        return self

    def add_arm(self, arm: Arm, like: Arm) -> RecordedRunBuilder:
        """Add an arm with copies of all records of another one."""
        self.records += [replace(record, arm=arm.id) for record in self.records if _arm_of(record) == like.id]
        lineups = {case: (*arms, arm.id) if like.id in arms else arms for case, arms in self.info.lineups.items()}
        return self.describe(arms=(*self.info.arms, arm), lineups=lineups)

    def replace_arm(self, arm: Arm, new: Arm) -> RecordedRunBuilder:
        """Replace an arm in run.json and in all records."""

        def renamed(item: Any) -> Any:
            names = [name for name in ("arm", "baseline") if getattr(item, name, None) == arm.id]
            return replace(item, **dict.fromkeys(names, new.id)) if names else item

        self.records = list(map(renamed, self.records))
        lineups = {
            case: tuple(new.id if name == arm.id else name for name in names)
            for case, names in self.info.lineups.items()
        }
        arms = tuple(new if other == arm else other for other in self.info.arms)
        return self.describe(arms=arms, lineups=lineups, pairs=tuple(map(renamed, self.info.pairs)))

    def write(self) -> Path:
        self.folder.mkdir(exist_ok=True)
        write_run(self.folder, self.info)
        (self.folder / JOURNAL).unlink(missing_ok=True)
        with Journal(self.folder) as journal:
            for record in self.records:
                journal.append(record)
            if not any(isinstance(record, End) for record in self.records):
                journal.append(End("complete", 1))
        return self.folder

    def read(self) -> Run:
        return Run(self.write())


def _arm_of(record: Any) -> str | None:
    return getattr(record, "arm", None)


def _changed(record: Any, new: dict[str, Any]) -> Any:
    outer = {field.name for field in fields(record)}
    changes = {name: value for name, value in new.items() if name in outer}
    for field in fields(record):
        if field.metadata:
            inner = getattr(record, field.name)
            own = {part.name for part in fields(inner)} & new.keys() - outer
            changes[field.name] = replace(inner, **{name: new[name] for name in own})
    return replace(record, **changes)


def inference_run(  # noqa: PLR0913 - a run has many properties
    folder: Path,
    *,
    preset: str = "standard",
    data: str = "fashion-mnist",
    noise: float = 0.005,
    eager: float = 200_000,
    aa: float = 200_000,
    compiled: float = 134_000,
    jit: float = 100_000,
    seed: int = 7,
) -> RecordedRunBuilder:
    """Return a run of four arms with a proof each and slices of one sample; latencies in ns.

    `noise` is the standard deviation of the log latency between blocks, drawn with `seed`. By default IPEX is twice as
    fast as eager PyTorch and a third faster than compiled PyTorch.
    """
    latencies = {EAGER: eager, AA: aa, COMPILE: compiled, JIT: jit}
    pairs = ((AA, EAGER), (COMPILE, EAGER), (JIT, EAGER), (JIT, COMPILE))
    records: list[Record] = [Reference(CASE.model, "0" * 10, "0" * 9 + "1")]
    for arm in latencies:
        if not arm.replica:
            records.append(Start(arm.id, CASE.id, False, 10, 20, 30 if arm == EAGER else 1000))
            records.append(Proof(arm.id, CASE.id, "fp32", 2, ("k",), {"v": "1"}, 10, "0" * 10, 0.9, 1e-6, 1.0, 5, 7))
    records += _slices(latencies, noise, seed)
    records += [Parity(arm.id, baseline.id, CASE.id, 1e-6, 1.0) for arm, baseline in pairs]
    info = run_info(CASE, tuple(latencies), [(arm, baseline, arm == JIT) for arm, baseline in pairs])
    return RecordedRunBuilder(folder, replace(info, preset=preset, data=DataInfo(data, "d")), records)


def _slices(latencies: dict[Arm, float], noise: float, seed: int) -> Iterator[Record]:
    generator = random.Random(seed)
    for arm, typical in latencies.items():
        for block in range(1, BLOCKS + 1):
            samples = (round(typical * math.exp(generator.gauss(0, noise))),)
            for number in range(ROUNDS):
                yield replace(SLICE, arm=arm.id, block=block, round=number, samples_ns=samples)
            yield Evidence(arm.id, CASE.id, block, "fp32", 2, ("k",))


def training_run(folder: Path) -> RecordedRunBuilder:
    """Return a run of three arms that train: a slow first epoch, then level ones; IPEX takes 4 s instead of 6 s."""
    info = run_info(TRAINING_CASE, tuple(EPOCH_S), [(TORCH_AA, TORCH, False), (IPEX, TORCH, True)])
    training = TrainingInfo(load_recipe("adam"), EPOCHS, IMAGES, SEEDS)
    info = replace(info, suite=replace(info.suite, training=training), models={})
    return RecordedRunBuilder(
        folder, info, [record for arm in EPOCH_S for block in range(1, BLOCKS + 1) for record in _epochs(arm, block)]
    )


def _epochs(arm: Arm, block: int) -> Iterator[Record]:
    for number in range(EPOCHS if block <= SEEDS else 2):
        seconds = EPOCH_S[arm] * (2 if number == 0 else 1) * (1 + block % 3 / 1000)
        times = {"wall_ns": round(seconds * 1e9), "wait_ns": round(seconds * 1e7)}
        yield replace(
            EPOCH, arm=arm.id, block=block, round=number,
            result=replace(EPOCH.result, digest=f"{block}-{number}", **times),
            test_accuracy=ACCURACIES[number] + block / 1000 if block <= SEEDS else None,
        )  # fmt: skip
    yield Evidence(arm.id, TRAINING_CASE.id, block, "fp32", 2, ("aten::conv", "k"))


def run_info(case: Case, arms: tuple[Arm, ...], pairs: Sequence[tuple[Arm, Arm, bool]]) -> RunInfo:
    """Return the description of a run on one case; a pair is an arm, a baseline, and whether it is a candidate."""
    stacks = {name: find_stack(name) for name in ("pytorch", "ipex")}
    return RunInfo(
        schema=SCHEMA,
        command=("bench", "run"),
        started="2026-01-01T00:00:00+00:00",
        git_commit=None,
        suite=SuiteInfo("recorded", "s"),
        preset="standard",
        seed=1,
        threads=2,
        arms=arms,
        cases=(case,),
        pairs=tuple(PairInfo(arm.id, baseline.id, case.id, candidate) for arm, baseline, candidate in pairs),
        ladders=(),
        lineups={case.id: tuple(arm.id for arm in arms)},
        schedule=(),
        protocol=Protocol(10**6),
        settings={},
        restart_settings={},
        machine=Machine("c", 2, 2),
        stacks={
            name: StackInfo(stack.environment or "", stack.baselines, compiles=True) for name, stack in stacks.items()
        },
        environments={"vanilla": EnvironmentInfo("3.11", 2, {}), "ipex": EnvironmentInfo("3.11", 3, {})},
        missing={},
        mismatches={},
        data=DataInfo("fashion-mnist", "d"),
        models={case.model: ModelInfo("", "", trained=True)},
    )


def ladder_info(name: str, steps: Sequence[tuple[str, Arm]]) -> LadderInfo:
    return LadderInfo(name, tuple(StepInfo(step, arm.id) for step, arm in steps))


def with_two_speeds(builder: RecordedRunBuilder, spread: float) -> RecordedRunBuilder:
    """Let all arms take half as long again in two of three rounds; in the third one they scatter."""
    noise = random.Random(5)
    builder.records = [
        replace(record, samples_ns=tuple(int(sample * factor) for sample in record.samples_ns))
        if isinstance(record, Slice) and (factor := 1.5 if record.round else 1 + spread * noise.random())
        else record
        for record in builder.records
    ]
    return builder.describe(protocol=Protocol(10**6, rule=AT_REST))
