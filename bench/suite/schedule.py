"""Draw the schedule: how many blocks, which arms in which order, from which seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from bench.suite.arms import Arm, Case
from models.errors import unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_SEED = 2**31


SHORT_EPOCHS = 2  # a warm-up and one that is timed


@dataclass(frozen=True)
class Preset:
    """How long to measure, and what may be claimed of it.

    Few `rounds` are enough: what differs between blocks is the process, not the moment.
    `confidence` is None where nothing is; `minimum_effect` is the smallest relative difference that is. A run with
    `looks` evaluates its primary comparisons after those blocks, and stops when they are settled.

    Where arms train, the first `seeds` blocks train all epochs, and the others as many as make one that is timed.
    `training_images` is the size of an epoch (0: all images).
    """

    name: str
    summary: str
    blocks: int
    rounds: int
    confidence: float | None
    slice_ns: int = 200_000_000
    minimum_effect: float = 0.0
    looks: tuple[int, ...] = ()
    seeds: int = 5
    training_images: int = 0
    warm_up_limit_ns: int = 5_000_000_000


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "smoke", "2 blocks; shows that everything works, claims nothing", 2, 1, None, seeds=1, training_images=6400
        ),
        Preset(
            "quick", "8 blocks; a first look, claims no difference under 10 %", 8, 3, 0.95, minimum_effect=0.10, seeds=3
        ),
        Preset("selftest", "16 blocks, 99.95 % intervals; that of `bench selftest`", 16, 3, 0.9995),
        Preset("standard", "20 blocks, 95 % intervals", 20, 3, 0.95),
        Preset("publish", "up to 64 blocks, 98.33 % intervals, stops early at 16 or 32", 64, 3, 0.9833, looks=(16, 32)),
    )
}


def find_preset(name: str) -> Preset:
    """Return a preset by name; raises UserError when there is none."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


Order: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Round:
    """One turn of every arm on a case, in this order."""

    case: str
    number: int
    order: Order


@dataclass(frozen=True)
class Block:
    """One fresh process per arm for the cases of a model and scenario, alternated in rounds.

    `start` is the order in which processes are built, `cases` that in which each builds what it needs for them.
    """

    number: int
    cases: tuple[str, ...]
    start: Order
    rounds: tuple[Round, ...]


def draw_schedule(groups: Sequence[Group], preset: Preset, seed: int) -> list[Block]:
    """Shuffle groups and cases anew for each block number, and draw the orders of each case's rounds, balanced."""
    chance = random.Random(seed)
    orders = {
        case.id: balanced_orders([arm.id for arm in group.arms], chance) for group in groups for case in group.cases
    }
    return [
        _draw_block(number, group, orders, preset, chance)
        for number in range(1, preset.blocks + 1)
        for group in chance.sample(list(groups), len(groups))
    ]


def rounds_of(number: int, group: Group, preset: Preset) -> int:
    """Return how many rounds a block has: epochs where arms train, of which the first is each process's warm-up."""
    if not group.epochs:
        return preset.rounds
    return group.epochs if number <= preset.seeds else min(group.epochs, SHORT_EPOCHS)


def _draw_block(
    number: int, group: Group, orders: dict[str, Iterator[Order]], preset: Preset, chance: random.Random
) -> Block:
    cases, arms = [case.id for case in group.cases], [arm.id for arm in group.arms]
    rounds = tuple(
        Round(case, turn, next(orders[case]))
        for turn in range(rounds_of(number, group, preset))
        for case in chance.sample(cases, len(cases))
    )
    return Block(number, tuple(chance.sample(cases, len(cases))), tuple(chance.sample(arms, len(arms))), rounds)


def balanced_orders(names: Sequence[str], chance: random.Random) -> Iterator[Order]:
    """Yield shuffled orders, each followed by its reverse: in both together every arm precedes every other once."""
    while True:
        order = tuple(chance.sample(list(names), len(names)))
        yield order
        yield order[::-1]


@dataclass(frozen=True)
class Group:
    """The cases of one model and scenario, and the arms that take part in them.

    `epochs` is for how many they train, 0 where they don't.
    """

    cases: tuple[Case, ...]
    arms: tuple[Arm, ...]
    epochs: int = 0
