"""Describe a run before its first measurement: the content of run.json."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from math import prod
from typing import TYPE_CHECKING

from backends.registry import stacks
from bench.analysis.gates import CHECK_CALLS, CHECK_IMAGES
from bench.analysis.latency import AT_REST, PROCESS_SCATTER
from bench.checkout import commit
from bench.machine import facts
from bench.migration import SCHEMA
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
    VariantInfo,
    Work,
)
from bench.suite.arms import BEST_THREADS
from bench.suite.environments import HARNESS
from bench.suite.plan import LEAD_IN, LEAD_IN_NS, WARM_UP_SLICE_NS, planned_pairs
from bench.suite.schedule import THROUGHPUT_SLICE_NS
from bench.suite.suite import takes_part
from bench.suite.variables import environment_variables, restart_variables
from models.data import CLASSES
from models.weights import digest
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backends.protocol import Stack
    from bench.engine.context import RunModel
    from bench.suite.plan import Plan
    from models.data import DataSet


@dataclass(frozen=True)
class Origin:
    """How a run came about: the command, when it started (ISO 8601), and the advice that the user was given."""

    command: tuple[str, ...]
    started: str
    git_commit: str | None
    advice: tuple[str, ...] = ()


def origin_of_now(advice: tuple[str, ...] = ()) -> Origin:
    command = ("bench", *sys.argv[1:])
    return Origin(command, datetime.now(UTC).isoformat(timespec="seconds"), commit(), advice)


def describe_run(plan: Plan, data: DataSet, models: Mapping[str, RunModel], origin: Origin) -> RunInfo:
    suite, environments = plan.suite, {item.name: item for item in plan.environments.values()}
    training = None
    if suite.recipe and suite.epochs:
        training = TrainingInfo(suite.recipe, suite.epochs, plan.epoch_images, plan.preset.seeds)
    return RunInfo(
        schema=SCHEMA,
        command=origin.command,
        started=origin.started,
        git_commit=origin.git_commit,
        suite=SuiteInfo(suite.name, suite.summary, training, suite.wait),
        preset=plan.preset.name,
        seed=plan.seed,
        threads=plan.threads,
        arms=suite.measured,
        cases=suite.cases,
        pairs=tuple(
            PairInfo(pair.arm.id, pair.baseline.id, pair.case.id, pair.candidate) for pair in planned_pairs(suite)
        ),
        ladders=tuple(
            LadderInfo(ladder.name, tuple(StepInfo(step.name, step.arm.id) for step in ladder.steps))
            for ladder in suite.ladders
        ),
        lineups={case.id: tuple(arm.id for arm in suite.measured if takes_part(arm, case)) for case in suite.cases},
        schedule=plan.schedule,
        protocol=Protocol(
            slice_ns=plan.preset.slice_ns,
            lead_in=LEAD_IN,
            warm_up_slice_ns=WARM_UP_SLICE_NS,
            warm_up_limit_ns=plan.preset.warm_up_limit_ns,
            check_images=CHECK_IMAGES,
            check_calls=CHECK_CALLS,
            rule=AT_REST,
            interface=plan.interface if suite.workers else None,
            places=plan.places,
            lead_in_ns=LEAD_IN_NS,
            throughput_slice_ns=THROUGHPUT_SLICE_NS,
            rounds=plan.preset.rounds,
            scatter=PROCESS_SCATTER if plan.preset.further_rounds else None,
        ),
        settings={arm.settings: _settings_variables(plan, arm.settings) for arm in suite.measured},
        restart_settings=restart_variables(),
        machine=facts.describe(),
        stacks={name: _stack_info(stack) for name, stack in stacks().items()},
        environments={
            name: EnvironmentInfo(environment.python_version, environment.installed_bytes, environment.packages)
            for name, environment in environments.items()
        },
        missing=plan.missing,
        mismatches=plan.mismatches,
        data=DataInfo(data.name, data.digest),
        models={name: _model_info(name, model) for name, model in models.items()},
        advice=origin.advice,
        variables=plan.variables,
    )


def _settings_variables(plan: Plan, settings: str) -> dict[str, str]:
    """Return the variables of settings; a variable that depends on the number of threads has all of its values."""
    counts = [
        count
        for case in plan.suite.cases
        for count in (
            [split.threads for split in plan.splits_of(case)]
            if case.threads == BEST_THREADS
            else [plan.threads_of(case)]
        )
    ]
    by_threads = [environment_variables(settings, threads) for threads in counts]
    return {name: " or ".join(dict.fromkeys(variables[name] for variables in by_threads)) for name in by_threads[0]}


def _stack_info(stack: Stack) -> StackInfo:
    return StackInfo(
        environment=stack.environment or HARNESS,
        baselines=stack.baselines,
        summary=stack.summary,
        compiles=bool(stack.cache_variables),
        variants={
            name: VariantInfo(variant.summary, variant.settings, variant.compiles)
            for name, variant in stack.variants.items()
        },
        intel=stack.intel,
    )


def _model_info(name: str, model: RunModel) -> ModelInfo:
    network = NETWORKS[name]
    work = Work(network.multiply_adds, network.parameters, prod(network.input_shape), len(CLASSES))
    return ModelInfo(network.digest, digest(model.weights), model.trained, work)
