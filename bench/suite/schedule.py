"""The schedule: presets, and the random order of blocks, process starts and rounds."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from bench.suite.arms import LATENCY, LOADGEN
from models.errors import unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bench.suite.arms import Arm, Case

MAX_SEED = 2**31
# Throughput has longer slices in fewer rounds: all workers of an arm start and end a slice together.
THROUGHPUT_SLICE_NS, THROUGHPUT_ROUNDS_SHARE, MIN_THROUGHPUT_ROUNDS = 50_000_000, 1 / 3, 2
# Epochs of the training blocks that do not train to the end: a warm-up and a timed one.
SHORT_EPOCHS = 2


@dataclass(frozen=True)
class Preset:
    """How long to measure, and which claims that allows.

    Processes differ more than the slices of one process, so there are many short blocks. Arms that only ladders need
    take part in `ladder_blocks` of the `blocks`. `confidence` is that of the intervals, None for a preset that claims
    nothing. `minimum_effect` is the smallest relative difference that is claimed. After the blocks in `looks` the
    comparisons that must be settled are evaluated; the run stops if all are.

    A case has `rounds` in a block, with slices of `slice_ns` (see `rounds_of` and `slice_ns_of`). For latency there are
    up to `further_rounds` more, as long as slices scatter.

    Training has `training_blocks`. The first `seeds` of them run all epochs, the others only SHORT_EPOCHS; an
    epoch has at most `training_images`. The search for an arm's best split of its cores starts `search_processes` of
    each. A LoadGen run lasts `load_ms`. Without `cold_starts`, none is measured, and arms start side by side. An
    `internal` preset belongs to one command and is not offered.
    """

    name: str
    summary: str
    blocks: int
    ladder_blocks: int
    training_blocks: int
    rounds: int
    confidence: float | None
    further_rounds: int = 0
    slice_ns: int = 10_000_000
    minimum_effect: float = 0.0
    looks: tuple[int, ...] = ()
    seeds: int = 5
    training_images: int | None = None
    warm_up_limit_ns: int = 5_000_000_000
    search_processes: int = 2
    load_ms: int = 2000
    cold_starts: bool = True
    internal: bool = False

    def blocks_of(self, group: Group) -> int:
        return self.blocks if group.epochs is None else self.training_blocks


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="smoke",
            summary="2 blocks; shows that everything works, claims nothing",
            blocks=2,
            ladder_blocks=1,
            training_blocks=2,
            rounds=4,
            confidence=None,
            seeds=1,
            training_images=6400,
            search_processes=1,
            load_ms=500,
            cold_starts=False,
        ),
        Preset(
            name="quick",
            summary="12 blocks; a first look, claims no difference under 10 %",
            blocks=12,
            ladder_blocks=8,
            training_blocks=8,
            rounds=12,
            further_rounds=12,
            confidence=0.95,
            minimum_effect=0.10,
            seeds=3,
        ),
        Preset(
            name="selftest",
            summary="up to 36 blocks, 99.99 % intervals, stops early at 16 or 24",
            blocks=36,
            ladder_blocks=36,
            training_blocks=0,
            rounds=24,
            further_rounds=24,
            confidence=0.9999,
            looks=(16, 24),
            internal=True,
        ),
        Preset(
            name="standard",
            summary="16 blocks, 95 % intervals",
            blocks=16,
            ladder_blocks=8,
            training_blocks=20,
            rounds=24,
            further_rounds=24,
            confidence=0.95,
        ),
        Preset(
            name="publish",
            summary="up to 64 blocks, 98.33 % intervals, stops early at 16 or 32",
            blocks=64,
            ladder_blocks=32,
            training_blocks=64,
            rounds=24,
            further_rounds=24,
            confidence=0.9833,
            looks=(16, 32),
            load_ms=10_000,
        ),
    )
}


def find_preset(name: str) -> Preset:
    if name not in PRESETS:
        raise unknown("preset", name, [preset.name for preset in PRESETS.values() if not preset.internal])
    return PRESETS[name]


T = TypeVar("T")
Order: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Round:
    """One slice or epoch of every arm on a case, in this order."""

    case: str
    number: int
    order: Order


@dataclass(frozen=True)
class Block:
    """One fresh process (or worker group) per arm, for the cases of a group, alternated in rounds.

    Processes start in the order `start`, and each builds its sessions in the order of `cases`.
    """

    number: int
    cases: tuple[str, ...]
    start: Order
    rounds: tuple[Round, ...]


@dataclass(frozen=True)
class Group:
    """The cases that one process of an arm serves, and the arms that take part in them.

    Arms in `ladder_only` take part in some blocks only. Arms in `slow_to_start` start first, so that the others start
    beside them. `epochs` is None for inference.
    """

    cases: tuple[Case, ...]
    arms: tuple[Arm, ...]
    ladder_only: frozenset[Arm] = frozenset()
    slow_to_start: frozenset[Arm] = frozenset()
    epochs: int | None = None

    def arms_of(self, number: int, preset: Preset) -> tuple[Arm, ...]:
        """Return the arms of a block; those of ladders take part in evenly spaced ones."""
        before, now = (count * preset.ladder_blocks // preset.blocks for count in (number - 1, number))
        return tuple(arm for arm in self.arms if now > before or arm not in self.ladder_only)


def draw_schedule(groups: Sequence[Group], preset: Preset, seed: int) -> tuple[Block, ...]:
    """Return blocks in random order: each block number has one block per group, each round every arm of its block.

    Cases of latency have their rounds together: with the same number, they have the same order of arms.
    """
    rng = random.Random(seed)
    orders: dict[tuple[Order, Order], Iterator[Order]] = {}
    blocks = []
    for number in range(1, max(map(preset.blocks_of, groups), default=0) + 1):
        present = [group for group in groups if number <= preset.blocks_of(group)]
        for group in rng.sample(present, len(present)):
            cases, arms = [case.id for case in group.cases], tuple(arm.id for arm in group.arms_of(number, preset))
            counts = {case.id: rounds_of(number, case, group, preset) for case in group.cases}
            joint = tuple(case.id for case in group.cases if case.scenario == LATENCY)
            keys = {case: (joint if case in joint else (case,), arms) for case in cases}
            for key in keys.values():
                orders.setdefault(key, balanced_orders(arms, rng))
            rounds: list[Round] = []
            for turn in range(max(counts.values())):
                due = [case for case in rng.sample(cases, len(cases)) if turn < counts[case]]
                drawn = {key: next(orders[key]) for key in dict.fromkeys(keys[case] for case in due)}
                rounds += (Round(case, turn, drawn[keys[case]]) for case in due)
            order = tuple(rng.sample(cases, len(cases)))
            slow, start = {arm.id for arm in group.slow_to_start}, rng.sample(arms, len(arms))
            start.sort(key=slow.__contains__, reverse=True)
            blocks.append(Block(number, order, tuple(start), tuple(rounds)))
    return tuple(blocks)


def rounds_of(number: int, case: Case, group: Group, preset: Preset) -> int:
    """Return how many rounds a case has in a block at most: its epochs for training, a run per process for LoadGen."""
    if case.scenario in LOADGEN:
        return 1
    if group.epochs is not None:
        return group.epochs if number <= preset.seeds else min(group.epochs, SHORT_EPOCHS)
    if case.scenario == LATENCY:
        return preset.rounds + preset.further_rounds
    return min(preset.rounds, max(MIN_THROUGHPUT_ROUNDS, round(THROUGHPUT_ROUNDS_SHARE * preset.rounds)))


def slice_ns_of(case: Case, preset: Preset) -> int:
    return preset.slice_ns if case.scenario == LATENCY else THROUGHPUT_SLICE_NS


def joint_rounds(rounds: Iterable[Round], cases: Iterable[Case]) -> Iterator[list[Round]]:
    """Yield the rounds of a block in their order; those of several latency cases with one order of arms are joint.

    An arm then has a slice of each case in its turn, so that the arms wait less often until another one sleeps.
    """
    latency = {case.id for case in cases if case.scenario == LATENCY}

    def key(turn: Round) -> tuple[object, ...]:
        return turn.number, turn.order, None if turn.case in latency else turn.case

    for _, joint in groupby(rounds, key):
        yield list(joint)


def balanced_orders(contenders: Sequence[T], rng: random.Random) -> Iterator[tuple[T, ...]]:
    """Yield random orders, each followed by its reverse, so that none precedes another more often than it follows."""
    while True:
        order = tuple(rng.sample(list(contenders), len(contenders)))
        yield order
        yield order[::-1]
