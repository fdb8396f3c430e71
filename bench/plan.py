"""Draw the schedule: how many blocks, which arms in which order, from which seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import combinations, islice, product
from typing import TYPE_CHECKING, TypeAlias

from backends.protocol import stacks
from bench.records import Pair
from bench.stacks import Environment, MissingEnvironmentError, environment_of
from bench.suite import baselines_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.records import Arm, Case
    from bench.suite import Suite

SLICE_NS = 200_000_000
LEAD_IN = 3  # untimed iterations at the start of a slice
WARM_UP_SLICE_NS = 50_000_000
# How long the parts of a run take, relative to each other, for the progress display: seconds on two cores.
PROOF_WEIGHT, START_WEIGHT = 5.6, 2.6


@dataclass(frozen=True)
class Preset:
    """How long to measure, and what may be claimed of it.

    Few `rounds` are enough: what differs between blocks is the process, not the moment.
    `confidence` is None where nothing is; `minimum_effect` is the smallest relative difference that is. A run with
    `looks` evaluates its primary comparisons after those blocks, and stops when they are settled.
    """

    name: str
    summary: str
    blocks: int
    rounds: int
    confidence: float | None
    minimum_effect: float = 0.0
    looks: tuple[int, ...] = ()
    warm_up_limit_ns: int = 5_000_000_000


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("smoke", "2 blocks; shows that everything works, claims nothing", 2, 1, None),
        Preset("quick", "8 blocks; a first look, claims no difference under 10 %", 8, 3, 0.95, minimum_effect=0.10),
        Preset("standard", "20 blocks, 95 % intervals", 20, 3, 0.95),
        Preset("publish", "up to 64 blocks, 98.33 % intervals, stops early at 16 or 32", 64, 3, 0.9833, looks=(16, 32)),
    )
}

Order: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """One fresh process per arm on one case, alternated in `rounds`; each round is an order of arms."""

    number: int
    case: str
    rounds: tuple[Order, ...]


def draw_schedule(cases: Sequence[Case], arms: Sequence[Arm], preset: Preset, seed: int) -> list[Block]:
    """Shuffle the cases anew for each block number, and draw the orders of each case's rounds, balanced."""
    chance = random.Random(seed)
    orders = {case.id: balanced_orders([arm.id for arm in arms], chance) for case in cases}
    return [
        Block(number, case.id, tuple(islice(orders[case.id], preset.rounds)))
        for number in range(1, preset.blocks + 1)
        for case in chance.sample(list(cases), len(cases))
    ]


def balanced_orders(names: Sequence[str], chance: random.Random) -> Iterator[Order]:
    """Yield shuffled orders, each followed by its reverse: in both together every arm precedes every other once."""
    while True:
        order = tuple(chance.sample(list(names), len(names)))
        yield order
        yield order[::-1]


@dataclass(frozen=True)
class Plan:
    """All that is fixed before the first measurement."""

    suite: Suite
    preset: Preset
    seed: int
    threads: int
    environments: dict[str, Environment]
    missing: dict[str, str]

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Return the arms whose stack has an environment."""
        return tuple(arm for arm in self.suite.measured if arm.stack in self.environments)

    @property
    def schedule(self) -> list[Block]:
        """Return the blocks, the same at every call."""
        return draw_schedule(self.suite.cases, self.arms, self.preset, self.seed)

    @property
    def environment_pairs(self) -> list[tuple[Environment, Environment]]:
        """Return each two of the environments, in the order of their arms."""
        distinct = {each.name: each for each in self.environments.values()}
        return list(combinations(distinct.values(), 2))

    @property
    def weight(self) -> float:
        """Return the expected duration in the progress display's unit."""
        proofs = sum(not arm.replica for arm in self.arms) * len(self.suite.cases) * PROOF_WEIGHT
        return proofs + len(self.schedule) * self.block_weight

    @property
    def block_weight(self) -> float:
        """Return the expected duration of one block."""
        return len(self.arms) * (START_WEIGHT + self.preset.rounds * SLICE_NS / 1e9)


def make_plan(suite: Suite, preset: Preset, seed: int, threads: int) -> Plan:
    """Find each arm's environment."""
    environments: dict[str, Environment] = {}
    missing: dict[str, str] = {}
    for name in dict.fromkeys(arm.stack for arm in suite.arms):
        try:
            environments[name] = environment_of(stacks()[name])
        except MissingEnvironmentError as error:
            missing[name] = str(error)
    return Plan(suite, preset, seed, threads, environments, missing)


def planned_pairs(suite: Suite) -> list[Pair]:
    """Return every comparison that the suite asks for."""
    pairs = []
    for case, arm in product(suite.cases, suite.measured):
        held_against = [replace(arm, replica=False)] if arm.replica else baselines_of(suite, arm)
        candidate = arm in suite.primary and case == suite.cases[0]
        pairs += [Pair(arm, baseline, case, candidate) for baseline in held_against]
    return pairs
