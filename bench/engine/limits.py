"""Measure the limits of the machine (matrix products, memory traffic), and the overhead of the harness."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from backends.registry import stacks
from bench.clock import now_ns
from bench.engine.build import BUILD_TIMEOUT_S, build_request
from bench.engine.workers import START_TOGETHER_NS, Worker, WorkerError, WorkerGroup
from bench.machine.counters import quiet_cores
from bench.records import PRODUCT, TRAFFIC, Overhead, Roof
from bench.suite.arms import DEFAULT_SETTINGS, Arm, Split, threads_label
from bench.suite.environments import environment_of, is_installed
from bench.suite.plan import runs_here
from bench.suite.variables import environment_variables
from bench.worker.messages import MeasureLimit, RunSlice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.console import Steps
    from bench.engine.context import RunContext, Tally
    from bench.suite.environments import Environment

# How long the null backend is timed, and its untimed calls before that.
OVERHEAD_NS, OVERHEAD_LEAD_IN = 10_000_000, 1000
# The order of the matrices that are multiplied.
ORDER = 2048
BUDGET_NS, LIMIT_LEAD_IN, REPEATS = 50_000_000, 1, 3
# How fast workers fill their arrays at least; they do so before the first addition.
FILLED_BYTES_PER_NS = 1
# What all threads together read and write repeatedly: sizes that fit into one core's cache, up to sizes that fit into
# no cache.
WORKING_SETS_BYTES = tuple(1 << power for power in (18, 20, 22, 25, 28))
# One element in each of the three arrays.
ELEMENT_BYTES = 3 * 4
# The stack that runs in the harness's own environment.
OWN_STACK = "oracle"
LIMIT_TIMEOUT_S = 120
# Progress weight of one number of threads: seconds on two cores.
LIMIT_WEIGHT = 15.0


def measure_overhead(context: RunContext, tally: Tally) -> None:
    """Time the null backend, which does nothing, as every arm is timed."""
    null, case, threads = Arm("null", "constant"), context.plan.suite.cases[0], context.plan.threads
    environment = environment_of(stacks()["null"])
    variables = environment_variables(null.settings, threads, context.plan.variables.given)
    build = replace(build_request(context, tally, null, case, Split(1, threads), None), wait=0.0)
    work = RunSlice(case.id, budget_ns=OVERHEAD_NS, lead_in=OVERHEAD_LEAD_IN)
    try:
        with Worker(environment.python, variables, context.log("null"), context.scratch, urgent=True) as worker:
            worker.wait_until_ready().request(build, BUILD_TIMEOUT_S)
            timing = worker.request(work, LIMIT_TIMEOUT_S)
        tally.journal.append(Overhead(timing.samples_ns))
    except WorkerError as error:
        tally.add_failure(null, case, None, error)


def measure_limits(context: RunContext, tally: Tally, steps: Steps) -> None:
    """Measure the limits for each number of threads of the run; those that can't be measured are left out."""
    plan = context.plan
    # The fastest products come from vanilla frameworks. A run of the harness's own stacks needs none of them.
    uses_frameworks = any(stacks()[name].environment for name in plan.environments)
    multipliers = {
        stack.name: environment_of(stack)
        for stack in stacks().values()
        if stack.products and not stack.baselines
        if stack.internal or (uses_frameworks and is_installed(stack))
    }
    for threads in plan.thread_counts:
        for stack, environment in multipliers.items():
            with suppress(WorkerError):
                _measure_products(context, tally, stack, environment, threads)
        with suppress(WorkerError):
            _measure_traffic(context, tally, threads)
        steps.step(LIMIT_WEIGHT, f"limits of the machine, {threads_label(threads)}", "limits")


def _measure_products(context: RunContext, tally: Tally, stack: str, environment: Environment, threads: int) -> None:
    with _start_group(context, environment, threads, 1) as group:
        group.wait_until_ready()
        places = [tuple(quiet_cores(threads))]
        for precision in stacks()[stack].products:
            if runs_here(precision, context.plan.instruction_sets):
                with suppress(WorkerError):
                    limit = Roof(PRODUCT, stack, precision, threads, ORDER, 2 * ORDER**3, (), ())
                    _measure(tally, group, places, limit)


def _measure_traffic(context: RunContext, tally: Tally, threads: int) -> None:
    """Add arrays in one process per thread at the same time, because they share the memory bandwidth."""
    with _start_group(context, environment_of(stacks()[OWN_STACK]), 1, threads) as group:
        group.wait_until_ready()
        places = [(core,) for core in quiet_cores(threads)]
        for size in WORKING_SETS_BYTES:
            share = size // threads // ELEMENT_BYTES * ELEMENT_BYTES
            _measure(tally, group, places, Roof(TRAFFIC, OWN_STACK, "", threads, size, share, (), ()))


def _start_group(context: RunContext, environment: Environment, threads: int, workers: int) -> WorkerGroup:
    variables = environment_variables(DEFAULT_SETTINGS, threads, context.plan.variables.given)
    log = context.log("limits")
    starts = [lambda: Worker(environment.python, variables, log, context.scratch, urgent=True)] * workers
    return WorkerGroup(starts)


def _measure(tally: Tally, group: WorkerGroup, places: Sequence[tuple[int, ...]], limit: Roof) -> None:
    """Store each repetition, with the workers' calls and times."""
    is_traffic = limit.what == TRAFFIC
    for repetition in range(REPEATS):
        filling_ns = limit.work // FILLED_BYTES_PER_NS if is_traffic and repetition == 0 else 0
        begin_ns = now_ns() + START_TOGETHER_NS + filling_ns
        requests = [
            MeasureLimit(
                stack=limit.stack,
                threads=limit.threads,
                cores=cores,
                precision=None if is_traffic else limit.precision,
                size=limit.work if is_traffic else limit.size,
                budget_ns=BUDGET_NS,
                lead_in=LIMIT_LEAD_IN,
                begin_ns=begin_ns,
            )
            for cores in places
        ]
        replies = group.request_each(requests, LIMIT_TIMEOUT_S)
        counts, walls_ns = tuple(reply.calls for reply in replies), tuple(reply.wall_ns for reply in replies)
        tally.journal.append(replace(limit, counts=counts, walls_ns=walls_ns))
