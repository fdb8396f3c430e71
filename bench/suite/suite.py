"""Turn a suite file and the user's options into cases and arms. All validation of user input happens here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

from backends.protocol import PRECISIONS
from backends.registry import stacks
from bench.suite.arms import DEFAULT_SETTINGS, LATENCY, TRAINING, Arm, Case, Ladder
from models.data import SHAPES, TRAIN_LABELS
from models.errors import UserError, unknown
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.recipes import Recipe

EVERY = ""  # the precision of an arm that is meant in each of the suite's
MAX_BATCH_SIZE = 10_000
TRAINING_IMAGES = SHAPES[TRAIN_LABELS][0]


@dataclass(frozen=True)
class Suite:
    """What is measured: arms on cases, the baselines they are held against, and the primary comparisons.

    An arm whose precision is EVERY stands for one at each of the suite's `precisions`. What trains does so by `recipe`,
    on the first `images` of the training set (0: all), for `epochs`. `threads` are the counts of a sweep over them.
    After each call for latency all arms keep busy for the share `wait` of its time, or for their own `delay` if that is
    larger; the share that is timed is their `delay`.
    """

    name: str
    summary: str
    scenarios: tuple[str, ...]
    models: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    precisions: tuple[str, ...]
    uses: tuple[Arm, ...]
    baselines: tuple[Arm, ...]
    primary: tuple[Arm, ...]
    ladders: tuple[Ladder, ...] = ()
    recipe: Recipe | None = None
    epochs: int = 0
    images: int = 0
    threads: tuple[int, ...] = ()
    wait: float = 0.0

    @property
    def answering_models(self) -> tuple[str, ...]:
        """Return the models that answer, rather than being trained only."""
        return self.models if set(self.scenarios) - {TRAINING} else ()

    @property
    def cases(self) -> tuple[Case, ...]:
        """Return every case; the first is the one that primary comparisons are made in."""
        combinations = product(self.models, self.scenarios, self.threads or (0,), self.batch_sizes)
        return tuple(Case(model, scenario, batch, threads) for model, scenario, threads, batch in combinations)

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """Return the arms at their precisions, and one for each stack that lacks one of the suite's altogether."""
        return tuple(arm for precision in PRECISIONS for arm in self._at(precision))

    def _at(self, precision: str) -> list[Arm]:
        named = [use for use in self.uses if use.precision == precision]
        every = [replace(use, precision=precision) for use in self.uses if use.precision == EVERY]
        able = [arm for arm in every if has_precision(arm)] if precision in self.precisions else []
        present = {arm.stack for arm in (*named, *able)}
        usual = [arm for arm in every if arm.settings == DEFAULT_SETTINGS]
        first = {arm.stack: arm for arm in reversed(usual)} if precision in self.precisions else {}
        chosen = {*named, *able, *(arm for stack, arm in first.items() if stack not in present)}
        ordered = dict.fromkeys(replace(use, precision=precision) for use in self.uses)
        return [arm for arm in ordered if arm in chosen]

    def is_primary(self, arm: Arm) -> bool:
        """Tell whether an arm is named as primary, at the first of the precisions that it is meant in."""
        meant = (next((each for each in self.arms if _is_use(each, use)), None) for use in self.primary)
        return arm in meant

    @property
    def measured(self) -> tuple[Arm, ...]:
        """Return the arms, with the A/A arm behind its baseline where that is measured."""
        first = next((arm for arm in self.arms for use in self.baselines[:1] if _is_use(arm, use)), None)
        return tuple(
            each for arm in self.arms for each in ((arm, replace(arm, replica=True)) if arm == first else (arm,))
        )


def has_precision(arm: Arm) -> bool:
    """Tell whether an arm's variant can run at its precision at all."""
    return arm.precision in stacks()[arm.stack].variants[arm.variant].precisions


def takes_part(arm: Arm, case: Case) -> bool:
    """Tell whether an arm is made for a case's scenario: asynchronous variants have no latency to compare.

    For throughput only the usual settings are measured, as it fills all cores in any case.
    """
    variant = stacks()[arm.stack].variants[arm.variant]
    if TRAINING in (case.scenario, variant.trains and TRAINING):
        return variant.trains and case.scenario == TRAINING
    return not variant.asynchronous if case.scenario == LATENCY else arm.settings == DEFAULT_SETTINGS


def _is_use(arm: Arm, use: Arm) -> bool:
    """Tell whether an arm is what `use` means in the suite."""
    return arm in (use, replace(use, precision=arm.precision) if use.precision == EVERY else use)


def baselines_of(suite: Suite, arm: Arm) -> list[Arm]:
    """Return what `arm` is held against, at its own precision and settings.

    An Intel arm against each baseline of its vanilla stacks, a vanilla arm against the first of its own, and one that
    is slowed down against itself as it is.
    """
    if arm.delay:
        return [replace(arm, delay=0.0)]
    stack = stacks()[arm.stack]
    alike = [each for each in suite.arms if (each.precision, each.settings) == (arm.precision, arm.settings)]
    uses = [replace(use, settings=arm.settings) for use in suite.baselines]
    own = [
        each
        for use in uses
        if use.stack in (stack.baselines or (stack.name,))
        for each in alike
        if _is_use(each, use) and has_precision(each)
    ]
    return own if stack.baselines else [baseline for baseline in own[:1] if baseline != arm]


def narrow(
    suite: Suite,
    models: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    precisions: Sequence[str] = (),
    chosen_stacks: Sequence[str] = (),
    threads: Sequence[int] = (),
) -> Suite:
    """Replace what the user named on the command line, and keep the arms of the stacks he chose.

    Raises UserError for an unknown name, or when no arm is left.
    """
    for kind, values, allowed in (("model", models, NETWORKS), ("precision", precisions, PRECISIONS)):
        for value in values:
            if value not in allowed:
                raise unknown(kind, value, allowed)
    for batch_size in batch_sizes:
        if not 1 <= batch_size <= MAX_BATCH_SIZE:
            raise UserError(f"--batch-size {batch_size}: allowed: 1 to {MAX_BATCH_SIZE}")
    uses = tuple(
        use
        for use in suite.uses
        if (not chosen_stacks or use.stack in chosen_stacks)
        and (not precisions or use.precision in (EVERY, *precisions))
    )
    if not uses and precisions:
        there = dict.fromkeys(use.precision or "fp32" for use in suite.uses)
        raise UserError(f"suite {suite.name} has no arm at {', '.join(precisions)} there; it names {', '.join(there)}")
    if not uses:
        present = ", ".join(dict.fromkeys(use.stack for use in suite.uses))
        raise UserError(f"suite {suite.name} has no arm of {', '.join(chosen_stacks)}; its stacks: {present}")
    return replace(
        suite,
        uses=uses,
        baselines=tuple(arm for arm in suite.baselines if arm in uses),
        primary=tuple(arm for arm in suite.primary if arm in uses),
        models=_distinct(models) or suite.models,
        batch_sizes=_distinct(batch_sizes) or suite.batch_sizes,
        precisions=_distinct(precisions) or suite.precisions,
        threads=_distinct(threads),
    )


def _distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))
