"""A suite: the arms, cases and baselines of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

from backends.protocol import PRECISIONS
from backends.registry import stacks
from bench.suite.arms import (
    ANY_PRECISION,
    DEFAULT_SETTINGS,
    LATENCY,
    LOADGEN,
    OFFLINE,
    QUERY_SAMPLES,
    SERVER,
    TRAINING,
    Arm,
    Case,
    Ladder,
    Step,
    matches,
)
from bench.suite.environments import environment_names, find_stack
from bench.suite.variables import ISA_LIMITS
from models.data import SHAPES, TRAIN_LABELS
from models.errors import UserError, unknown
from models.recipes.parse import MAX_BATCH_SIZE
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backends.protocol import Variant
    from models.recipes import Recipe

TRAINING_IMAGES = SHAPES[TRAIN_LABELS][0]


@dataclass(frozen=True)
class Suite:
    """What is measured: arms on cases, the baselines they are compared with, and the primary arms.

    `arm_patterns`, `baselines` and `primary` may leave the precision open; they then stand for arms at each of the
    `precisions`. Arms that train use the `recipe` for `epochs` on the first `images` of the training set (None: all).
    `threads` are the numbers of threads to compare. Each of the numbers of `workers` above one trains in each of the
    ways of `scaling`. After each latency call an arm stays busy for the fraction `wait` of the call's time, or for its
    own `delay` if that is larger; only the `delay` is timed. `server_bound_us` is the longest latency that 99 % of a
    server's queries may have.
    """

    name: str
    summary: str
    scenarios: tuple[str, ...]
    models: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    precisions: tuple[str, ...]
    arm_patterns: tuple[Arm, ...]
    baselines: tuple[Arm, ...]
    primary: tuple[Arm, ...]
    ladders: tuple[Ladder, ...] = ()
    recipe: Recipe | None = None
    epochs: int | None = None
    images: int | None = None
    threads: tuple[int, ...] = ()
    workers: tuple[int, ...] = ()
    scaling: tuple[str, ...] = ()
    wait: float = 0.0
    server_bound_us: int | None = None

    @property
    def inference_models(self) -> tuple[str, ...]:
        """The models that are used for inference, not only trained."""
        return self.models if set(self.scenarios) - {TRAINING} else ()

    @property
    def cases(self) -> tuple[Case, ...]:
        """All cases; primary comparisons are made in the first."""
        groups = [(count, way) for count in self.workers for way in (self.scaling if count > 1 else ("",))]
        combinations = product(self.models, self.scenarios, self.threads or (0,), self.batch_sizes, groups or [(0, "")])
        every = (
            Case(model, scenario, QUERY_SAMPLES.get(scenario, batch), threads, *group)
            for model, scenario, threads, batch, group in combinations
        )
        return tuple(dict.fromkeys(every))

    @property
    def uses_loadgen(self) -> bool:
        return not set(LOADGEN).isdisjoint(self.scenarios)

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """The arms at their precisions, and one arm of each stack that has none at a precision of the suite.

        That arm is skipped, so that the report says what the stack lacks.
        """
        return tuple(arm for precision in PRECISIONS for arm in self._arms_at(precision))

    def _arms_at(self, precision: str) -> list[Arm]:
        chosen = {pattern for pattern in self.arm_patterns if pattern.precision == precision}
        if precision in self.precisions:
            open_arms = [
                replace(pattern, precision=precision)
                for pattern in self.arm_patterns
                if pattern.precision == ANY_PRECISION
            ]
            chosen |= {arm for arm in open_arms if has_precision(arm)}
            first_of_stack: dict[str, Arm] = {}
            for arm in open_arms:
                if arm.settings == DEFAULT_SETTINGS:
                    first_of_stack.setdefault(arm.stack, arm)
            present = {arm.stack for arm in chosen}
            chosen |= {arm for stack, arm in first_of_stack.items() if stack not in present}
        in_order = dict.fromkeys(replace(pattern, precision=precision) for pattern in self.arm_patterns)
        return [arm for arm in in_order if arm in chosen]

    def is_primary(self, arm: Arm) -> bool:
        """Return whether an arm is the first, by precision, that matches one of the primary patterns."""
        first = (next((arm for arm in self.arms if matches(arm, pattern)), None) for pattern in self.primary)
        return arm in first

    @property
    def measured(self) -> tuple[Arm, ...]:
        """The arms, with the A/A replica right after the first baseline."""
        first = next((arm for arm in self.arms for pattern in self.baselines[:1] if matches(arm, pattern)), None)
        measured: list[Arm] = []
        for arm in self.arms:
            measured += [arm, replace(arm, replica=True)] if arm == first else [arm]
        return tuple(measured)


def variant_of(arm: Arm) -> Variant:
    """Return what an arm's stack declares of its variant."""
    return stacks()[arm.stack].variants[arm.variant]


def has_precision(arm: Arm) -> bool:
    """Return whether an arm's variant supports its precision on any machine."""
    return arm.precision in variant_of(arm).precisions


def takes_part(arm: Arm, case: Case) -> bool:
    """Return whether an arm is measured on a case.

    Asynchronous variants have no latency, so LoadGen uses them where queries need not wait for each other. Throughput
    fills all cores whatever the settings, so only the default settings are measured.
    """
    variant = variant_of(arm)
    if variant.trains or case.scenario == TRAINING:
        return variant.trains and case.scenario == TRAINING
    if arm.batching and case.scenario != SERVER:
        return False
    if arm.workers and case.scenario not in (OFFLINE, SERVER):
        return False
    if case.scenario in LOADGEN:
        return not variant.asynchronous or case.scenario in (OFFLINE, SERVER)
    return not variant.asynchronous if case.scenario == LATENCY else arm.settings == DEFAULT_SETTINGS


def baselines_of(suite: Suite, arm: Arm) -> list[Arm]:
    """Return the arms that `arm` is compared with, at its own precision, settings and batching.

    An Intel arm has all baselines of its vanilla stacks, a vanilla arm the first of its own stack, and a delayed arm
    itself without the delay.
    """
    if arm.delay:
        return [replace(arm, delay=0.0)]
    stack = stacks()[arm.stack]
    vanilla = stack.baselines or (stack.name,)
    # Under LoadGen, a queue with a stream for each core is compared with workers for each core, if there are any.
    for workers in dict.fromkeys((arm.workers or (suite.uses_loadgen and variant_of(arm).asynchronous), arm.workers)):
        patterns = [
            replace(pattern, settings=arm.settings, batching=arm.batching, workers=workers)
            for pattern in suite.baselines
            if pattern.stack in vanilla
        ]
        alike = [other for other in suite.arms if other.precision == arm.precision and has_precision(other)]
        if baselines := [other for pattern in patterns for other in alike if matches(other, pattern)]:
            break
    return baselines if stack.baselines else [baseline for baseline in baselines[:1] if baseline != arm]


def narrow(
    suite: Suite,
    *,
    models: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    precisions: Sequence[str] = (),
    chosen_stacks: Sequence[str] = (),
    environments: Sequence[str] = (),
    threads: Sequence[int] = (),
    limits: Sequence[str] = (),
) -> Suite:
    """Replace the models, batch sizes, precisions and threads that are given, and keep the arms of the chosen stacks.

    `limits` are settings that limit the instruction sets: the arms to which they apply are measured under them as well.
    Raises UserError for an unknown name, or when no arm is left.
    """
    known = {
        "model": (models, tuple(NETWORKS)),
        "precision": (precisions, PRECISIONS),
        "environment": (environments, environment_names()),
        "instruction set": (limits, tuple(ISA_LIMITS)),
    }
    for kind, (names, allowed) in known.items():
        if odd := [name for name in names if name not in allowed]:
            raise unknown(kind, odd[0], allowed)
    if odd_sizes := [size for size in batch_sizes if not 1 <= size <= MAX_BATCH_SIZE]:
        raise UserError(f"--batch-size {odd_sizes[0]}: allowed: 1 to {MAX_BATCH_SIZE}")
    of_stacks = _arms_of(suite, chosen_stacks, environments)
    patterns = tuple(
        pattern for pattern in of_stacks if not precisions or pattern.precision in (ANY_PRECISION, *precisions)
    )
    if not patterns:
        present = ", ".join(dict.fromkeys(pattern.precision for pattern in of_stacks))
        raise UserError(f"suite {suite.name} has no arm at {', '.join(precisions)}; its arms have {present}")
    suite = replace(suite, precisions=tuple(dict.fromkeys(precisions)) or suite.precisions)
    for settings in dict.fromkeys(limits):
        suite, patterns = _with_limit(suite, patterns, settings)
    return replace(
        suite,
        arm_patterns=patterns,
        baselines=tuple(pattern for pattern in suite.baselines if pattern in patterns),
        primary=tuple(pattern for pattern in suite.primary if pattern in patterns),
        models=tuple(dict.fromkeys(models)) or suite.models,
        batch_sizes=tuple(dict.fromkeys(batch_sizes)) or suite.batch_sizes,
        threads=tuple(dict.fromkeys(threads)),
    )


def _with_limit(suite: Suite, patterns: tuple[Arm, ...], settings: str) -> tuple[Suite, tuple[Arm, ...]]:
    """Add the arms under a limit to the patterns, and before the first of them in each ladder a step with its limit."""
    limit = ISA_LIMITS[settings]

    usual = [pattern for pattern in patterns if pattern.settings == DEFAULT_SETTINGS]
    limited = [
        replace(pattern, settings=settings, precision=precision)
        for pattern, precision in product(usual, limit.precisions)
        if pattern.precision == precision or (pattern.precision == ANY_PRECISION and precision in suite.precisions)
    ]
    added = [arm for arm in limited if has_precision(arm)]
    if not added:
        raise UserError(f"--isa {settings}: suite {suite.name} has no arm at {' or '.join(limit.precisions)}")
    ladders = []
    for ladder in suite.ladders:
        steps = list(ladder.steps)
        for place, step in enumerate(ladder.steps):
            arm = replace(step.arm, settings=settings)
            if step.arm.settings == DEFAULT_SETTINGS and arm in added:
                steps.insert(place, Step(f"{step.name} {limit.phrase}", arm))
                break
        ladders.append(replace(ladder, steps=tuple(steps)))
    return replace(suite, ladders=tuple(ladders)), (*patterns, *added)


def _arms_of(suite: Suite, chosen_stacks: Sequence[str], environments: Sequence[str]) -> list[Arm]:
    """Return the patterns of the chosen stacks, or of the stacks in the environments; raises UserError for none."""
    homes = {name: find_stack(name).environment for name in (*chosen_stacks, *_stacks_in(suite))}
    if odd := [name for name in chosen_stacks if environments and homes[name] not in environments]:
        raise UserError(f"--stack {odd[0]}: is not in the environments {', '.join(environments)}")
    patterns = [
        pattern
        for pattern in suite.arm_patterns
        if (not chosen_stacks or pattern.stack in chosen_stacks)
        and (not environments or homes[pattern.stack] in environments)
    ]
    if not patterns and chosen_stacks:
        present = ", ".join(_stacks_in(suite))
        raise UserError(f"suite {suite.name} has no arm of {', '.join(chosen_stacks)}; its stacks: {present}")
    if not patterns:
        raise UserError(f"suite {suite.name} has no stack in the environments {', '.join(environments)}")
    return patterns


def _stacks_in(suite: Suite) -> list[str]:
    return list(dict.fromkeys(pattern.stack for pattern in suite.arm_patterns))
