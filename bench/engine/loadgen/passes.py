"""What LoadGen runs before the blocks: its own cost, and the accuracy of every arm."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from backends.registry import stacks
from bench.analysis import gates
from bench.engine.build import BUILD_TIMEOUT_S, build_request, start_group
from bench.engine.loadgen.block import build_all, load_folder, load_request, load_timeout_s, read_result
from bench.engine.workers import Worker, WorkerError
from bench.loadgen.detail_log import DetailLogError, read_details, read_labels
from bench.loadgen.settings import PERFORMANCE_ONLY, accuracy_settings, expected_run_ns, performance_settings
from bench.machine.counters import quiet_cores
from bench.records import Glue, LoadAccuracy
from bench.suite.arms import LOADGEN, SINGLE_STREAM, Arm, Case, Split
from bench.suite.environments import environment_of
from bench.suite.plan import loadgen_obstacle
from bench.suite.suite import takes_part
from bench.suite.variables import environment_variables
from bench.worker.loadgen import ACCURACY_ONLY

if TYPE_CHECKING:
    from bench.console import Steps
    from bench.engine.context import RunContext, Tally
    from bench.suite.plan import Plan

GLUE_MS = 500
# About the latency of the null backend: LoadGen makes its queries in advance.
GLUE_NS = 2000.0
# LoadGen's own figure for the queries a second of a single-stream run.
RATE = "result_qps_with_loadgen_overhead"
# Progress weight of a run in accuracy mode: seconds on two cores.
ACCURACY_WEIGHT = 4.0
# Of a slow arm.
ACCURACY_NS = 60e9


def measure_glue(context: RunContext, tally: Tally) -> None:
    """Let LoadGen drive the null backend, which does nothing: what is left is the cost of LoadGen and of Python."""
    null, case = Arm("null", "constant"), Case(context.plan.suite.models[0], SINGLE_STREAM, 1)
    own, others = environment_of(stacks()[null.stack]), context.plan.environments.values()
    environment = next((item for item in (own, *others) if loadgen_obstacle(item) is None), None)
    if environment is None:
        return
    variables = environment_variables(null.settings, 1, context.plan.variables.given)
    cores = tuple(quiet_cores(1))
    build = replace(build_request(context, tally, null, case, Split(1, 1), cores), wait=0.0)
    images = len(context.data.test_labels)
    settings = performance_settings(case, GLUE_MS, GLUE_NS, images, context.plan.seed)
    folder = context.folder / load_folder(context, null, case, "glue")
    try:
        with Worker(environment.python, variables, context.log("null"), context.scratch, urgent=True) as worker:
            worker.wait_until_ready().request(build, BUILD_TIMEOUT_S)
            request = load_request(null, case, PERFORMANCE_ONLY, settings, images, folder, cores)
            worker.request(request, load_timeout_s(expected_run_ns(case, settings, GLUE_NS)))
        result = read_result(case, settings, folder)
        interval_ns = 1e9 / read_details(folder)[RATE]
    except (WorkerError, DetailLogError, KeyError) as error:
        tally.add_failure(null, case, None, WorkerError(str(error)))
        return
    median_ns = result.percentiles_ns["50.00"]
    tally.journal.append(Glue(result.queries, median_ns, result.time_ns, interval_ns))


def accuracy_runs(plan: Plan) -> list[tuple[Arm, Case]]:
    """Return the arms and cases that LoadGen's accuracy mode covers; a replica is its original."""
    return [
        (arm, case)
        for case in plan.suite.cases
        if case.scenario in LOADGEN
        for arm in plan.arms
        if arm == arm.original and takes_part(arm, case)
    ]


def measure_accuracies(context: RunContext, tally: Tally, steps: Steps) -> None:
    """Store the accuracy of each arm in a LoadGen run over all test images, in a process of its own."""
    for arm, case in accuracy_runs(context.plan):
        if (arm.id, case.id) in tally.labels:
            try:
                tally.journal.append(_measure_accuracy(context, tally, arm, case))
            except WorkerError as error:
                tally.labels.pop((arm.id, case.id))
                tally.add_failure(arm, case, None, error)
        steps.step(ACCURACY_WEIGHT, f"{arm.label}: accuracy, {case.label}", "accuracy")


def _measure_accuracy(context: RunContext, tally: Tally, arm: Arm, case: Case) -> LoadAccuracy:
    split, truth = context.split_of(tally, arm, case), context.data.test_labels
    cores = tuple(quiet_cores(split.cores))
    folder = load_folder(context, arm, case, "accuracy")
    request = load_request(
        arm, case, ACCURACY_ONLY, accuracy_settings(case), len(truth), context.folder / folder, cores
    )
    with start_group(context, arm, split, context.caches(arm, case)) as group:
        group.wait_until_ready()
        build_all(context, tally, group, arm, case, cores)
        group.workers[0].request(request, load_timeout_s(ACCURACY_NS))
    try:
        labels = read_labels(context.folder / folder)
    except DetailLogError as error:
        raise WorkerError(str(error)) from error
    if sorted(labels) != list(range(len(truth))):
        raise WorkerError(f"proof failed: LoadGen asked for {len(truth)} images and got the labels of {len(labels)}")
    predicted, expected = np.array([labels[index] for index in range(len(truth))]), tally.labels[arm.id, case.id]
    agreement = float((predicted[: len(expected)] == expected).mean())
    if fault := gates.repetition_fault(agreement):
        raise WorkerError(f"proof failed: in LoadGen's accuracy mode, {fault}")
    return LoadAccuracy(arm.id, case.id, len(truth), float((predicted == truth).mean()), agreement, folder)
