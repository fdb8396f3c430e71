"""Start an arm's workers, and build its sessions in them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING

from backends.registry import stacks
from bench.engine.files import Converted, Source, conversion_key, convert, needs_conversion
from bench.engine.workers import Unsupported, Worker, WorkerError, WorkerGroup
from bench.machine import facts
from bench.machine.compiler import compile_obstacle
from bench.suite.arms import LATENCY, THROUGHPUT
from bench.suite.suite import variant_of
from bench.suite.variables import arm_variables, preload_variables
from bench.worker.messages import Build, BuildReply, Move
from models.weights import digest
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bench.engine.context import RunContext, Tally
    from bench.suite.arms import Arm, Case, Split

BUILD_TIMEOUT_S, EPOCH_TIMEOUT_S = 600, 24 * 3600
# GNU's OpenMP ends threads when a team of three or more shrinks. It binds those that it starts later to the cores that
# it found when it was loaded, wherever the process has been moved since.
MOST_MOVABLE_THREADS = 2


def workers_and_threads(arm: Arm, split: Split) -> tuple[int, int]:
    """Return the number of workers that measure an arm, and the number of threads of each.

    There is one worker for each stream, unless the variant has all streams in one process.
    """
    single = variant_of(arm).asynchronous
    return (1, split.cores) if single else (split.streams, split.threads)


def start_group(
    context: RunContext,
    arm: Arm,
    split: Split,
    caches: Path,
    extra: Mapping[str, str] | None = None,
    through: Sequence[Sequence[str]] = ((),),
) -> WorkerGroup:
    """Start an arm's workers, which cache compiled code in `caches`, `through` these commands in turn.

    Raises WorkerError, or Unsupported when the environment lacks a library that the arm's settings preload.
    """
    environment = context.plan.environments[arm.stack]
    if variant_of(arm).compiles and (obstacle := compile_obstacle(environment.folder)):
        raise WorkerError(obstacle)
    count, threads = workers_and_threads(arm, split)
    given = context.plan.variables.given
    try:
        preload = preload_variables(arm.settings, environment.folder, context.scratch, given)
    except FileNotFoundError as error:
        raise Unsupported(str(error)) from error
    except ValueError as error:
        raise WorkerError(str(error)) from error
    variables = dict(extra or {}) | arm_variables(arm, threads, caches, given) | preload
    log = context.log(arm.slug)
    start = partial(Worker, environment.python, variables, log, context.scratch, urgent=True)
    starts = [partial(start, place=place) for place in islice(cycle(through), count)]
    return WorkerGroup(starts, start if arm.workers else None)


def build_sessions(
    context: RunContext,
    tally: Tally,
    group: WorkerGroup,
    arm: Arm,
    case: Case,
    split: Split,
    cores: Sequence[int],
    *,
    reported: bool,
) -> BuildReply:
    """Build a session for a case in each worker of a group, on these cores; return the times of the slowest.

    Raises WorkerError or Unsupported.
    """
    requests = [
        replace(build_request(context, tally, arm, case, split, place), reported=reported)
        for place in places(len(group.workers), cores)
    ]
    replies = group.request_each(requests, BUILD_TIMEOUT_S)
    return BuildReply(
        import_ns=max(reply.import_ns for reply in replies),
        build_ns=max(reply.build_ns for reply in replies),
        first_call_ns=max(reply.first_call_ns for reply in replies),
    )


def can_move(arm: Arm, split: Split) -> bool:
    """Return whether an arm's processes can be moved to other cores."""
    return not stacks()[arm.stack].binds_threads and workers_and_threads(arm, split)[1] <= MOST_MOVABLE_THREADS


def core_sets(case: Case, cores: Sequence[int]) -> list[tuple[int, ...]]:
    """Return disjoint sets of cores, on each of which an arm can start before it moves to `cores`; at least `cores`.

    Arms that shared cores would be far slower together than one after the other: a thread that spins for another one
    keeps it from running. In training, the threads that make batches are bound anew in each epoch, so none can move.
    """
    usable, count = sorted(facts.arm_cores()), len(cores)
    sets = [tuple(usable[start : start + count]) for start in range(0, len(usable) - count + 1, count)]
    movable = case.scenario == THROUGHPUT or (case.scenario == LATENCY and count <= MOST_MOVABLE_THREADS)
    return sets[: facts.usable_cores()] if movable and len(sets) > 1 else [tuple(cores)]


def move_group(group: WorkerGroup, before: Sequence[int], after: Sequence[int]) -> None:
    """Move all threads of the workers to other cores; raises WorkerError when one of them may use yet other cores."""
    count = len(group.workers)
    requests = [Move(*both) for both in zip(places(count, before), places(count, after), strict=True)]
    for request, reply in zip(requests, group.request_each(requests, BUILD_TIMEOUT_S), strict=True):
        if not set(reply.cores) <= set(request.after):
            raise WorkerError(f"its threads may use the cores {reply.cores}, moved to {request.after}")


def places(workers: int, cores: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the cores of each worker: an equal share, of neighbours.

    Neighbours are on one memory node, and logical cores of one physical core.
    """
    if workers == 1:
        return [tuple(cores)]
    share = len(cores) // workers
    near = sorted(cores, key=lambda core: (facts.node_of(core), facts.siblings(core)[0], core)) if share > 1 else cores
    return [tuple(sorted(near[start : start + share])) for start in range(0, share * workers, share)]


def build_request(
    context: RunContext, tally: Tally, arm: Arm, case: Case, split: Split, cores: tuple[int, ...] | None
) -> Build:
    converted = converted_files(context, tally, arm, case)
    return Build(
        case=case.id,
        stack=arm.stack,
        variant=arm.variant,
        model=case.model,
        precision=arm.precision,
        batch_size=case.batch_size,
        threads=workers_and_threads(arm, split)[1],
        streams=split.streams if variant_of(arm).asynchronous else 1,
        cores=cores,
        weights=str(context.models[case.model].file),
        images=str(context.images),
        calibration=str(context.calibration),
        files=str(converted.folder) if converted else None,
        delay=arm.delay,
        wait=context.plan.suite.wait,
    )


def converted_files(context: RunContext, tally: Tally, arm: Arm, case: Case) -> Converted | None:
    """Return the files that an arm starts from, or None if it needs none; raises WorkerError."""
    if not needs_conversion(arm):
        return None
    key = conversion_key(arm, case.model)
    if key not in tally.converted:
        model = context.models[case.model]
        weights, spec = digest(model.weights), NETWORKS[case.model].digest
        source = Source(case.model, spec, weights, model.file, context.calibration)
        environment, log = context.plan.environments[arm.stack], context.log(f"{arm.stack}-convert")
        threads, given = context.plan.threads, context.plan.variables.given
        tally.converted[key] = convert(arm, environment, source, threads, log, context.scratch, given)
    return tally.converted[key]
