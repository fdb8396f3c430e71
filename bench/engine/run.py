"""A run, from top to bottom."""

from __future__ import annotations

import shlex
from itertools import product
from typing import TYPE_CHECKING

from bench.analysis.gates import FAILED, SKIPPED, WITHHELD
from bench.clock import now_ns
from bench.engine.block import InferenceBlock
from bench.engine.choice import choose_splits, searches
from bench.engine.context import RunContext, Tally, load_models
from bench.engine.describe import describe_run
from bench.engine.files import lay_out_images, read_ahead
from bench.engine.limits import LIMIT_WEIGHT, measure_limits, measure_overhead
from bench.engine.loadgen.block import LoadGenBlock
from bench.engine.loadgen.passes import ACCURACY_WEIGHT, accuracy_runs, measure_accuracies, measure_glue
from bench.engine.loadgen.rates import find_rates, rate_searches, search_weight
from bench.engine.proof.proof_pass import (
    ORACLE_WEIGHT,
    START_WEIGHT,
    compute_references,
    inference_groups,
    oracle_logits,
    proof_weight,
    prove_arms,
    start_weight,
)
from bench.engine.resume import difference, finished_blocks, is_finished, is_prepared, restore, spent_ns
from bench.engine.scaling.block import ScalingBlock
from bench.engine.training_block import TrainingBlock
from bench.journal import LOGS, Journal
from bench.machine import resources
from bench.processes.scratch import scratch_folder
from bench.records import COMPLETE, INTERRUPTED, SETTLED, End, Failure, Prepared, Resume
from bench.run_info import as_read, read_run, write_run
from bench.suite.environments import HARNESS
from bench.suite.plan import LEAD_IN_NS
from bench.suite.schedule import slice_ns_of
from bench.suite.suite import TRAINING_IMAGES, takes_part
from models.data import split
from models.errors import UserError, remedy_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.analysis.speedups import Speedup
    from bench.console import Steps
    from bench.engine.block import BlockRunner
    from bench.engine.describe import Origin
    from bench.engine.resume import Finished
    from bench.records import Record
    from bench.suite.arms import Case
    from bench.suite.plan import Plan
    from bench.suite.schedule import Block
    from models.data import DataSet

OTHER_FOLDERS = "set XDG_CACHE_HOME or TMPDIR to another folder"
# A planned look also stops for a comparison without a difference, if its half-width on the log scale is at most this.
PRECISE = 0.01
# Progress weight of an epoch on all training images: seconds on two cores.
EPOCH_WEIGHT = 7.0
# How long it takes until the arm before sleeps, and the conditions are read.
BETWEEN_SLICES_NS = 5_000_000


def measure_run(
    plan: Plan, data: DataSet, folder: Path, steps: Steps, origin: Origin, earlier: Sequence[Record] | None = None
) -> str:
    """Measure all of `plan` into `folder`; return how the run ended: complete, settled or interrupted.

    `earlier` are the records of a run to go on with, None for a new one. Raises UserError when the disk refuses, or
    when they belong to another run; all records until then are complete.
    """
    begin = now_ns()
    resources.allow_many_files()
    with scratch_folder() as scratch:
        try:
            lay_out_images(data, scratch)
            if plan.suite.recipe:
                split(data, 0.0).first(plan.epoch_images).lay_out(scratch)
            models = load_models(plan.suite.inference_models, scratch)
        except OSError as error:
            raise UserError(f"{scratch}: {error}; free space there, or set TMPDIR to another folder") from error
        info = describe_run(plan, data, models, origin)
        if earlier is None:
            write_run(folder, info)
        elif field := difference(before := read_run(folder), as_read(info)):
            raise UserError(
                f"{folder}: can't go on: {field} would not be the same; repeat the options of its command, "
                f"{shlex.join(before.command)!a}, or start a new run"
            )
        (folder / LOGS).mkdir(exist_ok=True)
        with Journal(folder, resumed=earlier is not None) as journal:
            if earlier is not None:
                journal.append(Resume(origin.started, spent_ns(earlier)))
            try:
                status = _measure(RunContext(plan, data, folder, scratch, models), Tally(journal), steps, earlier or ())
            except KeyboardInterrupt:
                status = INTERRUPTED
            except OSError as error:
                where, what = error.filename or scratch, error.strerror or error
                raise UserError(f"{where}: {what}; {remedy_of(error)}, or {OTHER_FOLDERS}") from error
            journal.append(End(status, now_ns() - begin + spent_ns(earlier or ())))
    return status


def _measure(context: RunContext, tally: Tally, steps: Steps, earlier: Sequence[Record]) -> str:
    """Measure what the `earlier` records do not have."""
    plan = context.plan
    if is_prepared(earlier):
        tally.oracle |= {name: oracle_logits(context, name) for name in context.models}
        restore(tally, earlier)
        return measure_blocks(context, tally, steps, finished_blocks(earlier))
    for arm, case in product(plan.suite.measured, plan.suite.cases):
        if arm in plan.obstacles and takes_part(arm, case):
            tally.journal.append(Failure(arm.id, case.id, None, plan.obstacles[arm], skipped=True))
    if plan.suite.inference_models:
        measure_overhead(context, tally)
        if plan.suite.uses_loadgen:
            measure_glue(context, tally)
        compute_references(context, tally, steps)
        if environments := {item.folder for item in plan.environments.values() if item.name != HARNESS}:
            read_ahead(environments, context.scratch)
        choose_splits(context, tally, steps)
        prove_arms(context, tally, steps)
        if plan.suite.uses_loadgen:
            measure_accuracies(context, tally, steps)
            find_rates(context, tally, steps)
        else:
            measure_limits(context, tally, steps)
    tally.journal.append(Prepared())
    return measure_blocks(context, tally, steps)


def measure_blocks(context: RunContext, tally: Tally, steps: Steps, finished: Finished = frozenset()) -> str:
    """Measure the scheduled blocks that are not finished, until a planned look settles the run.

    Return how the run ended: complete or settled.
    """
    plan = context.plan
    for index, block in enumerate(plan.schedule):
        following = plan.schedule[index + 1 : index + 2]
        if not is_finished(block, finished):
            runner = _runner(plan, block)(context, tally, block)
            runner.measure()
            count, group = plan.blocks_of(runner.cases[0]), ", ".join(runner.cases[0].group)
            steps.step(_block_weight(plan, block), f"block {block.number} of {count}: {group}", "block")
        elif any(is_finished(other, finished) for other in following):
            # A look that came before the following block has not settled the run.
            continue
        is_last_of_number = not any(other.number == block.number for other in following)
        if is_last_of_number and block.number in plan.preset.looks and is_settled(context.folder):
            return SETTLED
    return COMPLETE


def is_settled(folder: Path) -> bool:
    """Return whether all primary comparisons, and slowdowns that must be seen, are clear or known precisely."""
    from bench.analysis.run import Run
    from bench.analysis.selftest import MIN_DETECTED_SLOWDOWN
    from bench.analysis.speedups import speedups

    rows = [
        row
        for row in speedups(Run(folder))
        if (row.primary or row.pair.arm.delay >= MIN_DETECTED_SLOWDOWN) and row.verdict.word not in (FAILED, SKIPPED)
    ]
    return bool(rows) and all(map(_row_is_settled, rows))


def _row_is_settled(row: Speedup) -> bool:
    if row.estimate is None or row.estimate.interval is None or row.verdict.word == WITHHELD:
        return False
    return row.estimate.interval.excludes(0) or row.estimate.interval.half_width <= PRECISE


def total_weights(plan: Plan, earlier: Sequence[Record] = ()) -> dict[str, float]:
    """Return the weights of the steps of a run by kind, as far as the `earlier` records do not have them."""
    if is_prepared(earlier):
        finished = finished_blocks(earlier)
        return {"block": sum(_block_weight(plan, block) for block in plan.schedule if not is_finished(block, finished))}
    models = plan.suite.inference_models
    proven = [arm for group in inference_groups(plan) for arm in group.arms if arm == arm.original]
    return {
        "reference": len(models) * ORACLE_WEIGHT,
        "search": sum(search.weight(plan) for search in searches(plan)),
        "start": 0 if plan.preset.cold_starts else sum(map(start_weight, proven)),
        "proof": sum(proof_weight(arm, plan.preset) for arm in proven),
        "accuracy": len(accuracy_runs(plan)) * ACCURACY_WEIGHT,
        "rates": len(rate_searches(plan)) * search_weight(plan),
        "limits": len(plan.thread_counts) * LIMIT_WEIGHT if models and not plan.suite.uses_loadgen else 0,
        "block": sum(_block_weight(plan, block) for block in plan.schedule),
    }


def _block_weight(plan: Plan, block: Block) -> float:
    cases = {case.id: case for case in plan.suite.cases}

    def turn(case: Case) -> float:
        if _trains(plan, block):
            return EPOCH_WEIGHT * plan.epoch_images / TRAINING_IMAGES
        if plan.suite.uses_loadgen:
            return plan.preset.load_ms / 1e3
        return (slice_ns_of(case, plan.preset) + LEAD_IN_NS + BETWEEN_SLICES_NS) / 1e9

    processes = len(block.start) * max(1, sum(plan.suite.workers))
    # Further rounds have no weight: how many there are shows in the time of the first blocks.
    rounds = [turns for turns in block.rounds if turns.number < plan.preset.rounds or _trains(plan, block)]
    return processes * START_WEIGHT + sum(turn(cases[turns.case]) * len(turns.order) for turns in rounds)


def _runner(plan: Plan, block: Block) -> type[BlockRunner]:
    if plan.suite.uses_loadgen:
        return LoadGenBlock
    if plan.suite.workers:
        return ScalingBlock
    return TrainingBlock if _trains(plan, block) else InferenceBlock


def _trains(plan: Plan, block: Block) -> bool:
    return any(
        group.epochs is not None for group in plan.groups if {case.id for case in group.cases} & set(block.cases)
    )
