"""Suite, preset, environments and schedule: what is fixed before the first measurement."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING

from backends.registry import stacks
from bench.machine.facts import instruction_sets
from bench.suite.arms import TRAINING, Pair
from bench.suite.environments import Environment, MissingEnvironmentError, environment_of
from bench.suite.schedule import Block, Group, Preset, draw_schedule
from bench.suite.suite import TRAINING_IMAGES, baselines_of, has_precision, takes_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.suite.arms import Arm, Case
    from bench.suite.suite import Suite

LEAD_IN = 3  # untimed iterations at the start of a slice
WARM_UP_SLICE_NS = 50_000_000
# How long the parts of a run take, relative to each other, for the progress display: seconds on two cores.
PROOF_WEIGHT, START_WEIGHT, EPOCH_WEIGHT = 6.8, 2.2, 7.0
ORACLE_WEIGHT, ROOF_WEIGHT = 20.0, 15.0  # of a model, where the cache does not have it; of a number of threads


@dataclass(frozen=True)
class Plan:
    """All that is fixed before the first measurement."""

    suite: Suite
    preset: Preset
    seed: int
    threads: int
    environments: dict[str, Environment]
    missing: dict[str, str]
    instruction_sets: tuple[str, ...]

    def threads_of(self, case: Case) -> int:
        """Return how many threads an arm has on a case, all of its processes together."""
        return case.threads or self.threads

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """Return each number of threads that arms have on some case."""
        return tuple(dict.fromkeys(map(self.threads_of, self.suite.cases)))

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Return the arms that can be measured here."""
        return tuple(arm for arm in self.suite.measured if self.obstacle(arm) is None)

    def obstacle(self, arm: Arm) -> str | None:
        """Return why an arm can't be measured here, or None."""
        if arm.stack in self.missing:
            return self.missing[arm.stack]
        if not has_precision(arm):
            return f"{arm.stack} has no {arm.precision}"
        if not runs_here(arm.precision, self.instruction_sets):
            return f"this CPU has none of {', '.join(NEEDED[arm.precision])}"
        needs = stacks()[arm.stack].needs
        met = not needs or set(needs) & set(self.instruction_sets)
        return None if met else f"this CPU has none of {', '.join(needs)}"

    @property
    def groups(self) -> tuple[Group, ...]:
        """Return the cases by model and scenario, with the arms that take part in them; none without any."""
        keys = dict.fromkeys(case.group for case in self.suite.cases)
        cases = [tuple(case for case in self.suite.cases if case.group == key) for key in keys]
        groups = (
            Group(
                each,
                tuple(arm for arm in self.arms if takes_part(arm, each[0])),
                self.suite.epochs if each[0].scenario == TRAINING else 0,
            )
            for each in cases
        )
        return tuple(group for group in groups if group.arms)

    @property
    def schedule(self) -> list[Block]:
        """Return the blocks, the same at every call."""
        return draw_schedule(self.groups, self.preset, self.seed)

    @property
    def environment_pairs(self) -> list[tuple[Environment, Environment]]:
        """Return each two of the environments, in the order of their arms."""
        distinct = {each.name: each for each in self.environments.values()}
        return list(combinations(distinct.values(), 2))

    @property
    def weight(self) -> float:
        """Return the expected duration in the progress display's unit."""
        proven = [arm for group in self.groups if not group.epochs for arm in group.arms if arm == arm.original]
        models = self.suite.answering_models
        before = len(models) * ORACLE_WEIGHT + (len(self.thread_counts) * ROOF_WEIGHT if models else 0)
        return before + len(proven) * PROOF_WEIGHT + sum(map(self.block_weight, self.schedule))

    def block_weight(self, block: Block) -> float:
        """Return the expected duration of one block."""
        trains = any(case.id in block.cases and case.scenario == TRAINING for case in self.suite.cases)
        turn = EPOCH_WEIGHT * self.epoch_images / TRAINING_IMAGES if trains else self.preset.slice_ns / 1e9
        return len(block.start) * START_WEIGHT + sum(len(each.order) for each in block.rounds) * turn

    @property
    def epoch_images(self) -> int:
        """Return how many images an epoch has."""
        return min(each or TRAINING_IMAGES for each in (self.suite.images, self.preset.training_images))


# What a precision is worth nothing without: any of these.
NEEDED = {
    "fp32": (),
    "bf16": ("avx512_bf16", "amx_bf16"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8"),
}


def runs_here(precision: str, instruction_sets: Sequence[str]) -> bool:
    """Tell whether a CPU with these instruction sets has anything for a precision."""
    return not NEEDED[precision] or bool(set(NEEDED[precision]) & set(instruction_sets))


def make_plan(suite: Suite, preset: Preset, seed: int, threads: int) -> Plan:
    """Find each arm's environment."""
    environments: dict[str, Environment] = {}
    missing: dict[str, str] = {}
    for name in dict.fromkeys(use.stack for use in suite.uses):
        try:
            environments[name] = environment_of(stacks()[name])
        except MissingEnvironmentError as error:
            missing[name] = str(error)
    return Plan(suite, preset, seed, threads, environments, missing, tuple(instruction_sets()))


def planned_pairs(suite: Suite) -> list[Pair]:
    """Return every comparison that the suite asks for, of equal precision and settings."""
    first, candidates = suite.cases[0], [arm for arm in suite.arms if suite.is_primary(arm)]
    pairs = []
    for case, arm in product(suite.cases, suite.measured):
        held_against = [arm.original] if arm.replica else baselines_of(suite, arm)
        pairs += [
            Pair(arm, baseline, case, candidate=case == first and arm in candidates)
            for baseline in held_against
            if takes_part(arm, case) and takes_part(baseline, case)
        ]
    return pairs
