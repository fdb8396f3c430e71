"""The suite of `bench selftest`: an arm, its A/A arm, and the arm slowed down by known shares."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backends.registry import stacks
from bench.suite.arms import LATENCY, Arm
from bench.suite.environments import is_installed
from bench.suite.suite import Suite
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

SLOWDOWNS = (0.02, 0.05, 0.20)
TRIAL_BATCH_SIZES = (1, 64)
# The stack that needs no environment but the harness's.
ORACLE = "oracle"


def default_arm(stack: str) -> Arm:
    """Return the arm of a stack that is compared with itself; raises UserError if it has none for inference."""
    if (variant := stacks()[stack].default_variant) is None:
        raise UserError(f"--stack {stack}: has no variant for inference; choose another stack")
    return Arm(stack, variant)


def default_stack() -> str:
    """Return the first vanilla stack whose environment is installed, or the oracle."""
    public = [stack for stack in stacks().values() if not stack.internal and not stack.baselines]
    return next((stack.name for stack in public if is_installed(stack)), ORACLE)


def make_suite(arm: Arm, threads: Sequence[int]) -> Suite:
    """Return the suite of an arm, its A/A arm, and the arm slowed down by known shares."""
    return replace(
        equal_suite(arm, threads),
        summary=f"{arm.label} against itself, and against itself slowed down; all keep busy between calls",
        arm_patterns=(arm, *(replace(arm, delay=slowdown) for slowdown in SLOWDOWNS)),
        wait=max(SLOWDOWNS),
    )


def equal_suite(arm: Arm, threads: Sequence[int]) -> Suite:
    """Return the suite of an arm and its A/A arm."""
    return Suite(
        name="selftest",
        summary=f"{arm.label} against itself",
        scenarios=(LATENCY,),
        models=("cnn-small",),
        batch_sizes=TRIAL_BATCH_SIZES,
        precisions=("fp32",),
        arm_patterns=(arm,),
        baselines=(arm,),
        primary=(),
        threads=tuple(threads) if len(threads) > 1 else (),
    )
