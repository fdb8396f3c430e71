"""Measure what bounds every arm here: the fastest products of matrices, and traffic to caches and memory."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from backends.registry import stacks
from bench.clock import now_ns
from bench.engine.team import BEGIN_TOGETHER_NS, WorkerGroup
from bench.engine.workers import Worker, WorkerError
from bench.machine import counters
from bench.records import PRODUCT, TRAFFIC, Roof
from bench.suite import variables as settings
from bench.suite.arms import DEFAULT_SETTINGS, threads_label
from bench.suite.environments import environment_of, is_installed
from bench.suite.plan import ROOF_WEIGHT, runs_here

if TYPE_CHECKING:
    from bench.engine.session import Rig
    from bench.suite.environments import Environment

ORDER = 2048  # of the matrices
BUDGET_NS, LEAD_IN, REPEATS = 50_000_000, 1, 3
FILLED_BYTES_PER_NS = 1  # how fast members make their arrays, before the first of their additions
# What all threads together read and write over and over: from what fits into a core's cache to what fits into none.
WORKING_SETS_BYTES = tuple(1 << power for power in (18, 20, 22, 25, 28))
ELEMENT_BYTES = 3 * 4  # of one number in each of three arrays
OWN = "oracle"  # the stack that needs no environment but the harness's
TIMEOUT_S = 120


def measure_roofs(rig: Rig) -> None:
    """Store the roofs for each number of threads; what can't be measured stays out."""
    for threads in rig.plan.thread_counts:
        for stack, environment in _multipliers(rig).items():
            with suppress(WorkerError):
                _measure_products(rig, stack, environment, threads)
        with suppress(WorkerError):
            _measure_traffic(rig, threads)
        rig.steps.step(ROOF_WEIGHT, f"limits of the machine, {threads_label(threads)}")


def _multipliers(rig: Rig) -> dict[str, Environment]:
    """Return the environments of the vanilla stacks that are there and multiply matrices, and the harness's own.

    Where a run measures none but stacks of the harness's own environment, that is enough.
    """
    real = any(stacks()[name].environment for name in rig.plan.environments)
    able = [stack for stack in stacks().values() if stack.products and not stack.baselines]
    return {stack.name: environment_of(stack) for stack in able if stack.internal or (real and is_installed(stack))}


def _measure_products(rig: Rig, stack: str, environment: Environment, threads: int) -> None:
    able = [each for each in stacks()[stack].products if runs_here(each, rig.plan.instruction_sets)]
    with _team(rig, environment, threads, 1) as team:
        team.wait_until_ready()
        places = [counters.quiet_cores(threads)]
        for precision in able:
            with suppress(WorkerError):
                _measure(rig, team, places, Roof(PRODUCT, stack, precision, threads, ORDER, 2 * ORDER**3, (), ()))


def _measure_traffic(rig: Rig, threads: int) -> None:
    """Let one process per thread add arrays, all at the same time, as bandwidth is shared."""
    with _team(rig, environment_of(stacks()[OWN]), 1, threads) as team:
        team.wait_until_ready()
        places = [[core] for core in counters.quiet_cores(threads)]
        for size in WORKING_SETS_BYTES:
            share = size // threads // ELEMENT_BYTES * ELEMENT_BYTES
            _measure(rig, team, places, Roof(TRAFFIC, OWN, "", threads, size, share, (), ()))


def _measure(rig: Rig, team: WorkerGroup, places: list[list[int]], roof: Roof) -> None:
    """Store a roof, as often as it is measured."""
    order = roof.size if roof.what == PRODUCT else roof.work
    request = {"stack": roof.stack, "threads": roof.threads, "precision": roof.precision, "order": order}
    for number in range(REPEATS):
        filling_ns = roof.work // FILLED_BYTES_PER_NS if roof.what == TRAFFIC and not number else 0
        begin_ns = now_ns() + BEGIN_TOGETHER_NS + filling_ns
        common = request | {"budget_ns": BUDGET_NS, "lead_in": LEAD_IN, "begin_ns": begin_ns}
        answers = team.request_each("roof", TIMEOUT_S, [common | {"cores": place} for place in places])
        counts, walls = (tuple(answer[name] for answer in answers) for name in ("calls", "wall_ns"))
        rig.journal.append(replace(roof, counts=counts, walls_ns=walls))


def _team(rig: Rig, environment: Environment, threads: int, members: int) -> WorkerGroup:
    variables = settings.variables(DEFAULT_SETTINGS, threads)
    log = rig.folder / "logs" / "roof.log"
    return WorkerGroup([lambda: Worker(environment.python, variables, log, rig.scratch, urgent=True)] * members)
