"""The plan: suite, preset, environments and schedule, fixed before the first measurement."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING

from backends.registry import stacks
from bench.machine.facts import instruction_sets
from bench.suite.arms import BEST_THREADS, TRAINING, Pair, Split, possible_splits, usual_split
from bench.suite.environments import (
    HARNESS,
    Environment,
    MissingEnvironmentError,
    environment_of,
    version_differences,
)
from bench.suite.schedule import Block, Group, Preset, draw_schedule
from bench.suite.suite import TRAINING_IMAGES, baselines_of, has_precision, takes_part, variant_of
from bench.suite.user_variables import ONEDNN_ISA, UserVariables, usable_instruction_sets
from bench.suite.variables import ISA_LIMITS, SETTINGS
from bench.worker.network import LOOPBACK
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.suite.arms import Arm, Case
    from bench.suite.suite import Suite

NO_VARIABLES = UserVariables()
# How many untimed calls a slice starts with at least, and how long they last: other processes emptied the caches.
LEAD_IN, LEAD_IN_NS = 1, 5_000_000
WARM_UP_SLICE_NS = 10_000_000
LOADGEN_DISTRIBUTION = "mlcommons-loadgen"
# A precision is worthwhile on a CPU with any one of these instruction sets; fp32 on every CPU.
INSTRUCTION_SETS_OF = {
    "fp32": (),
    "bf16": ("avx512_bf16", "amx_bf16"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8"),
}


@dataclass(frozen=True)
class Plan:
    """All that is fixed before the first measurement.

    `missing` is why a stack can't be measured, by stack, `obstacles` why an arm of the suite can't be, by arm; `arms`
    are the others. `threads` is the number of threads of cases that have none of their own, and the most that the best
    split of an arm may have; where several workers train together, it is that of each. They communicate on the network
    `interface`, and start through the commands of `places` in turn. `instruction_sets` are those of the CPU that
    kernels may use under the user's `variables`.
    """

    suite: Suite
    preset: Preset
    seed: int
    threads: int
    environments: dict[str, Environment]
    missing: dict[str, str]
    instruction_sets: tuple[str, ...]
    obstacles: dict[Arm, str]
    arms: tuple[Arm, ...]
    groups: tuple[Group, ...]
    schedule: tuple[Block, ...]
    variables: UserVariables
    interface: str = LOOPBACK
    places: tuple[tuple[str, ...], ...] = ()

    def threads_of(self, case: Case) -> int:
        """Return the number of threads of an arm on a case, over all of its processes; at most, if it has its own."""
        each = self.threads if case.threads in (0, BEST_THREADS) else case.threads
        return each * max(1, case.workers)

    def splits_of(self, case: Case) -> tuple[Split, ...]:
        """Return how an arm may use its cores on a case; more than one if its best split is to be found."""
        cores = self.threads_of(case)
        return (
            possible_splits(case.scenario, cores)
            if case.threads == BEST_THREADS
            else (usual_split(case.scenario, cores),)
        )

    def blocks_of(self, case: Case) -> int:
        return sum(case.id in block.cases for block in self.schedule)

    @property
    def thread_counts(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(map(self.threads_of, self.suite.cases)))

    @property
    def environment_pairs(self) -> list[tuple[Environment, Environment]]:
        distinct = {environment.name: environment for environment in self.environments.values()}
        return list(combinations(distinct.values(), 2))

    @property
    def mismatches(self) -> dict[str, dict[str, tuple[str, str]]]:
        """Return, by pair of environments, the packages whose versions differ."""
        return {
            f"{one.name} {other.name}": differences
            for one, other in self.environment_pairs
            if (differences := version_differences(one, other))
        }

    @property
    def epoch_images(self) -> int:
        return min(images or TRAINING_IMAGES for images in (self.suite.images, self.preset.training_images))


def make_plan(suite: Suite, preset: Preset, seed: int, threads: int, variables: UserVariables = NO_VARIABLES) -> Plan:
    """Find the environments of the suite's stacks, and draw the schedule of all arms that can be measured here.

    Raises UserError if the user's variables contradict those of an arm.
    """
    for arm in suite.measured:
        if both := sorted(SETTINGS[arm.settings].variables.keys() & variables.given.keys()):
            raise UserError(f"--env {both[0]}: settings {arm.settings} set it; leave out one of the two")
    environments: dict[str, Environment] = {}
    missing: dict[str, str] = {}
    for stack in dict.fromkeys(pattern.stack for pattern in suite.arm_patterns):
        try:
            environments[stack] = environment_of(stacks()[stack])
        except MissingEnvironmentError as error:
            missing[stack] = str(error)
    present = instruction_sets()
    reasons = {arm: obstacle(arm, missing, present, variables.given) for arm in suite.measured}
    if suite.uses_loadgen:
        reasons = {arm: reason or loadgen_obstacle(environments[arm.stack]) for arm, reason in reasons.items()}
    arms = tuple(arm for arm, reason in reasons.items() if reason is None)
    groups = group_cases(suite, arms)
    return Plan(
        suite=suite,
        preset=preset,
        seed=seed,
        threads=threads,
        environments=environments,
        missing=missing,
        instruction_sets=usable_instruction_sets(tuple(present or ()), variables.given),
        obstacles={arm: reason for arm, reason in reasons.items() if reason is not None},
        arms=arms,
        groups=groups,
        schedule=draw_schedule(groups, preset, seed),
        variables=variables,
    )


def obstacle(
    arm: Arm, missing: Mapping[str, str], instruction_sets: Sequence[str] | None, given: Mapping[str, str]
) -> str | None:
    """Return why an arm can't be measured on a CPU with these instruction sets, or None.

    Where the sets are unknown (None), every arm is tried: it has to prove what it ran anyway. The variables that the
    user has `given` may limit the instruction sets of kernels.
    """
    if arm.stack in missing:
        return missing[arm.stack]
    if not has_precision(arm):
        return f"{arm.stack} has no {arm.precision}"
    if instruction_sets is None:
        return None
    for needed in (INSTRUCTION_SETS_OF[arm.precision], stacks()[arm.stack].needs):
        if needed and not set(needed) & set(instruction_sets):
            return f"this CPU has none of {', '.join(needed)}"
    if not runs_here(arm.precision, usable_instruction_sets(instruction_sets, given)):
        return f"{ONEDNN_ISA}={given[ONEDNN_ISA]} allows none of {', '.join(INSTRUCTION_SETS_OF[arm.precision])}"
    limit = ISA_LIMITS.get(arm.settings)
    if limit and limit.without not in instruction_sets:
        return f"this CPU has no {limit.without}, which settings {arm.settings} would leave unused"
    return None


def loadgen_obstacle(environment: Environment) -> str | None:
    """Return why LoadGen can't drive arms in an environment, or None."""
    if LOADGEN_DISTRIBUTION in environment.packages:
        return None
    if environment.name == HARNESS:
        return f"{LOADGEN_DISTRIBUTION} is not installed; install it: python -m pip install cnn-stack-bench[loadgen]"
    name = environment.name
    return f"environment {name} lacks {LOADGEN_DISTRIBUTION}; make it again: tox -r -e {name} --notest"


def runs_here(precision: str, instruction_sets: Sequence[str]) -> bool:
    """Return whether a precision is worthwhile on a CPU with these instruction sets."""
    needed = INSTRUCTION_SETS_OF[precision]
    return not needed or bool(set(needed) & set(instruction_sets))


def group_cases(suite: Suite, arms: Sequence[Arm]) -> tuple[Group, ...]:
    """Return the cases that one process serves, with the arms that take part in them; groups without arms left out."""
    groups = []
    for key in dict.fromkeys(case.group for case in suite.cases):
        cases = tuple(case for case in suite.cases if case.group == key)
        taking_part = tuple(arm for arm in arms if takes_part(arm, cases[0]))
        if taking_part:
            trains = cases[0].scenario == TRAINING
            everywhere = trains or suite.uses_loadgen
            ladder_only = frozenset() if everywhere else frozenset(taking_part) - compared_arms(suite)
            slow = frozenset(arm for arm in taking_part if variant_of(arm).compiles)
            groups.append(Group(cases, taking_part, ladder_only, slow, suite.epochs if trains else None))
    return tuple(groups)


def compared_arms(suite: Suite) -> frozenset[Arm]:
    """Return the primary arms, their baselines and the A/A arms; all arms of a suite without primary ones."""
    primary = [arm for arm in suite.arms if suite.is_primary(arm)]
    if not primary:
        return frozenset(suite.measured)
    baselines = (baseline for arm in primary for baseline in baselines_of(suite, arm))
    return frozenset((*primary, *baselines, *(arm for arm in suite.measured if arm.replica)))


def planned_pairs(suite: Suite) -> list[Pair]:
    """Return all comparisons of the suite; precision and settings of arm and baseline are equal."""
    first, primary = suite.cases[0], [arm for arm in suite.arms if suite.is_primary(arm)]
    return [
        Pair(arm, baseline, case, candidate=case == first and arm in primary)
        for case, arm in product(suite.cases, suite.measured)
        for baseline in ([arm.original] if arm.replica else baselines_of(suite, arm))
        if takes_part(arm, case) and takes_part(baseline, case)
    ]
