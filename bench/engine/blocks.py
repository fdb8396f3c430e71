"""Measure the scheduled blocks, until all are done or a planned look settles it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.analysis.gates import FAILED, SKIPPED, WITHHELD
from bench.engine.inference_block import AnsweringBlock
from bench.engine.training_block import TrainingBlock
from bench.suite.arms import TRAINING

if TYPE_CHECKING:
    from pathlib import Path

    from bench.analysis.speedups import Speedup
    from bench.engine.block import LiveBlock
    from bench.engine.session import Rig
    from bench.suite.schedule import Block

PRECISE = 0.01  # half-width, on the log scale, at which a planned look stops even without a difference
KINDS: dict[str, type[LiveBlock]] = {TRAINING: TrainingBlock}  # by scenario; the arms of all others answer


def measure_blocks(rig: Rig) -> str:
    """Measure the scheduled blocks; return whether all of them or a planned look ended it: complete or settled."""
    schedule, preset = rig.plan.schedule, rig.plan.preset
    caches = rig.scratch / "caches"
    caches.mkdir()
    for index, block in enumerate(schedule):
        live = block_kind(rig, block)(rig, block, caches)
        live.measure()
        where = ", ".join(live.cases[0].group)
        rig.steps.step(rig.plan.block_weight(block), f"block {block.number} of {preset.blocks}: {where}")
        is_last_of_number = index + 1 == len(schedule) or schedule[index + 1].number != block.number
        if is_last_of_number and block.number in preset.looks and _is_settled(rig.folder):
            return "settled"
    return "complete"


def _is_settled(folder: Path) -> bool:
    """Tell whether every primary comparison excludes 1 or is known to within 1 %: the rule of a planned look."""
    from bench.analysis.speedups import Run

    rows = [row for row in Run(folder).speedups if row.primary and row.verdict.word not in (FAILED, SKIPPED)]
    return bool(rows) and all(_row_is_settled(row) for row in rows)


def _row_is_settled(row: Speedup) -> bool:
    if row.estimate is None or row.estimate.interval is None or row.verdict.word == WITHHELD:
        return False
    return row.estimate.interval.excludes(0) or row.estimate.interval.half_width <= PRECISE


def block_kind(rig: Rig, block: Block) -> type[LiveBlock]:
    """Return how a block's arms are measured."""
    scenario = next(case.scenario for case in rig.plan.suite.cases if case.id in block.cases)
    return KINDS.get(scenario, AnsweringBlock)
