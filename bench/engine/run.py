"""A run, from top to bottom."""

from __future__ import annotations

import signal
import tempfile
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from bench.analysis.gates import FAILED, SKIPPED, WITHHELD
from bench.clock import now_ns
from bench.engine.block import InferenceBlock
from bench.engine.choice import choose_splits, searches
from bench.engine.context import RunContext, Tally, load_models
from bench.engine.describe import describe_run
from bench.engine.files import lay_out_images, read_ahead
from bench.engine.limits import LIMIT_WEIGHT, measure_limits, measure_overhead
from bench.engine.proof import ORACLE_WEIGHT, compute_references, inference_groups, proof_weight, prove_arms
from bench.engine.training_block import TrainingBlock
from bench.journal import JOURNAL, Journal
from bench.machine import resources
from bench.records import End, Failure
from bench.run_info import write_run
from bench.suite.environments import HARNESS
from bench.suite.suite import TRAINING_IMAGES, takes_part
from models.data import split
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.analysis.speedups import Speedup
    from bench.console import Steps
    from bench.engine.describe import Origin
    from bench.suite.plan import Plan
    from bench.suite.schedule import Block
    from models.data import DataSet

REMEDY = "free space there, or set XDG_CACHE_HOME or TMPDIR to another folder"
# A planned look also stops for a comparison without a difference, if its half-width on the log scale is at most this.
PRECISE = 0.01
# Progress weights of a process start in a block, and of an epoch on all training images: seconds on two cores.
START_WEIGHT, EPOCH_WEIGHT = 1.6, 7.0


def measure_run(plan: Plan, data: DataSet, folder: Path, steps: Steps, origin: Origin) -> str:
    """Measure all of `plan` into `folder`; return how the run ended: complete, settled or interrupted.

    Raises UserError when the disk refuses; all records until then are complete.
    """
    begin = now_ns()
    resources.allow_many_files()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        scratch = Path(name)
        try:
            lay_out_images(data, scratch)
            if plan.suite.recipe:
                split(data, 0.0).first(plan.epoch_images).lay_out(scratch)
            models = load_models(plan.suite.inference_models, scratch)
        except OSError as error:
            raise UserError(f"{scratch}: {error}; free space there, or name another folder with TMPDIR") from error
        write_run(folder, describe_run(plan, data, models, origin))
        (folder / "logs").mkdir()
        with Journal(folder / JOURNAL) as journal:
            try:
                status = _measure(RunContext(plan, data, folder, scratch, models), Tally(journal), steps)
            except KeyboardInterrupt:
                status = "interrupted"
            except OSError as error:
                raise UserError(f"{error.filename or scratch}: {error.strerror}; {REMEDY}") from error
            journal.append(End(status, now_ns() - begin))
    return status


def _measure(context: RunContext, tally: Tally, steps: Steps) -> str:
    plan = context.plan
    for arm, case in product(plan.suite.measured, plan.suite.cases):
        if arm in plan.obstacles and takes_part(arm, case):
            tally.journal.append(Failure(arm.id, case.id, None, plan.obstacles[arm], skipped=True))
    if plan.suite.inference_models:
        measure_overhead(context, tally)
        compute_references(context, tally, steps)
        if environments := {item.folder for item in plan.environments.values() if item.name != HARNESS}:
            read_ahead(environments, context.scratch)
        choose_splits(context, tally, steps)
        prove_arms(context, tally, steps)
        measure_limits(context, tally, steps)
    return measure_blocks(context, tally, steps)


def measure_blocks(context: RunContext, tally: Tally, steps: Steps) -> str:
    """Measure the scheduled blocks until a planned look settles the run; return how they ended."""
    schedule, preset = context.plan.schedule, context.plan.preset
    for index, block in enumerate(schedule):
        runner = (TrainingBlock if _trains(context.plan, block) else InferenceBlock)(context, tally, block)
        runner.measure()
        count, group = context.plan.blocks_of(runner.cases[0]), ", ".join(runner.cases[0].group)
        steps.step(_block_weight(context.plan, block), f"block {block.number} of {count}: {group}", "block")
        is_last_of_number = index + 1 == len(schedule) or schedule[index + 1].number != block.number
        if is_last_of_number and block.number in preset.looks and is_settled(context.folder):
            return "settled"
    return "complete"


def is_settled(folder: Path) -> bool:
    """Return whether every primary comparison shows a difference, or is known precisely."""
    from bench.analysis.run import Run
    from bench.analysis.speedups import speedups

    primary = [row for row in speedups(Run(folder)) if row.primary and row.verdict.word not in (FAILED, SKIPPED)]
    return bool(primary) and all(map(_row_is_settled, primary))


def _row_is_settled(row: Speedup) -> bool:
    if row.estimate is None or row.estimate.interval is None or row.verdict.word == WITHHELD:
        return False
    return row.estimate.interval.excludes(0) or row.estimate.interval.half_width <= PRECISE


def total_weights(plan: Plan) -> dict[str, float]:
    """Return the weights of all steps of a run by kind."""
    models = plan.suite.inference_models
    proven = [arm for group in inference_groups(plan) for arm in group.arms if arm == arm.original]
    return {
        "reference": len(models) * ORACLE_WEIGHT,
        "search": sum(search.weight(plan) for search in searches(plan)),
        "proof": sum(map(proof_weight, proven)),
        "limits": len(plan.thread_counts) * LIMIT_WEIGHT if models else 0,
        "block": sum(_block_weight(plan, block) for block in plan.schedule),
    }


def _block_weight(plan: Plan, block: Block) -> float:
    epoch = EPOCH_WEIGHT * plan.epoch_images / TRAINING_IMAGES
    turn = epoch if _trains(plan, block) else plan.preset.slice_ns / 1e9
    return len(block.start) * START_WEIGHT + turn * sum(len(turns.order) for turns in block.rounds)


def _trains(plan: Plan, block: Block) -> bool:
    return any(
        group.epochs is not None for group in plan.groups if {case.id for case in group.cases} & set(block.cases)
    )


@contextmanager
def first_interrupt_only() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into KeyboardInterrupt, and ignore those that follow it.

    A second Ctrl-C, or the copy of the first one that tox sends, must not cut short what ends a run early: stopping the
    workers and writing the report.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)

    def interrupt(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
