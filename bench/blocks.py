"""The blocks: one fresh process per arm, all alive together, alternated in slices."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, TypeVar

from backends.protocol import stacks
from bench import checks, machine
from bench.launch import WorkerError
from bench.measure import cpu_ns, cpu_ns_of, is_level, now_ns, pause
from bench.plan import LEAD_IN, SLICE_NS, WARM_UP_SLICE_NS
from bench.prove import start_record
from bench.records import Check, Slice
from bench.rig import BUILD_TIMEOUT_S, PREDICT_TIMEOUT_S, SLICE_TIMEOUT_S, compare, read_logits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.launch import Worker
    from bench.plan import Block, Preset
    from bench.records import Arm, Case
    from bench.rig import Rig

T = TypeVar("T")

# The kernel books the CPU time of a running thread at its timer's ticks, 1 to 4 ms apart (10 ms at 100 Hz): a shorter
# step would take a spinning process for a sleeping one.
PRECISE = 0.01  # half-width, on the log scale, at which a planned look stops even without a difference
SETTLE_STEP_NS, SETTLE_LIMIT_NS, SETTLED_SHARE = 6_000_000, 500_000_000, 0.05


@dataclass(frozen=True)
class Turn:
    """Where in the schedule a slice stands."""

    block: Block
    case: Case
    round: int
    position: int


def measure_blocks(rig: Rig) -> str:
    """Measure the scheduled blocks; return whether all of them or a planned look ended it: complete or settled."""
    cases = {case.id: case for case in rig.plan.suite.cases}
    schedule = rig.plan.schedule
    caches = rig.scratch / "caches"
    caches.mkdir()
    for index, block in enumerate(schedule):
        case = cases[block.case]
        _measure_block(rig, block, case, caches)
        rig.steps.step(rig.plan.block_weight, f"block {block.number} of {rig.plan.preset.blocks}: {case.label}")
        is_last_of_number = index + 1 == len(schedule) or schedule[index + 1].number != block.number
        if is_last_of_number and block.number in rig.plan.preset.looks and _is_settled(rig.folder):
            return "settled"
    return "complete"


def _is_settled(folder: Path) -> bool:
    """Tell whether every primary comparison excludes 1 or is known to within 1 %: the rule of a planned look."""
    from bench.analysis import Run

    rows = [row for row in Run(folder).speedups if row.pair.primary]
    intervals = [row.estimate.interval for row in rows if row.estimate is not None]
    return bool(rows) and all(
        each is not None and (each.excludes(0) or each.half_width <= PRECISE) for each in intervals
    )


def _measure_block(rig: Rig, block: Block, case: Case, caches: Path) -> None:
    """Bring up one fresh process per arm, warm all of them, then alternate them in slices."""
    arms = {arm.id: arm for arm in rig.plan.arms}
    workers: dict[str, Worker] = {}
    with ExitStack() as cleanup:
        for arm_id in block.rounds[0]:
            worker = _guarded(
                rig, block, case, arms[arm_id], lambda arm: _bring_up(rig, block, case, arm, caches, cleanup)
            )
            if worker is not None:
                workers[arm_id] = worker
        for number, order in enumerate(block.rounds):
            for position, arm_id in enumerate(order):
                if arm_id in workers:
                    _take_turn(rig, Turn(block, case, number, position), arms[arm_id], workers)


def _take_turn(rig: Rig, turn: Turn, arm: Arm, workers: dict[str, Worker]) -> None:
    """Time an arm's slice; an arm that fails leaves the block."""
    timed = _guarded(rig, turn.block, turn.case, arm, lambda arm: _slice(turn, arm, workers))
    if timed is None:
        workers.pop(arm.id).stop()
    else:
        rig.journal.append(timed)


def _guarded(rig: Rig, block: Block, case: Case, arm: Arm, work: Callable[[Arm], T | None]) -> T | None:
    """Do `work` for an arm; one that fails leaves the block, and the others go on."""
    try:
        return work(arm)
    except WorkerError as error:
        rig.fail(arm, case, block.number, "block", error)
        return None


def _bring_up(rig: Rig, block: Block, case: Case, arm: Arm, caches: Path, cleanup: ExitStack) -> Worker | None:
    """Start an arm's process while all others sleep, let it prove its work, and warm it up; None if it has no turn."""
    if (replace(arm, replica=False).id, case.id) not in rig.proven or rig.gives_up(arm, case):
        return None
    worker = rig.start(arm, caches, **stacks()[arm.stack].restart_settings)
    cleanup.callback(worker.stop)
    built = worker.wait_until_ready().request("build", BUILD_TIMEOUT_S, **rig.build_request(arm, case))
    rig.journal.append(start_record(arm, case, block.number, worker, built, rig.plan.threads))
    rig.journal.append(_check(rig, block, case, arm, worker))
    return worker


def _check(rig: Rig, block: Block, case: Case, arm: Arm, worker: Worker) -> Check:
    """Let a fresh process prove its work, then warm it up."""
    file, wanted = rig.scratch / "logits.npy", min(checks.CHECK_IMAGES, len(rig.labels))
    images = worker.request("predict", PREDICT_TIMEOUT_S, images=wanted, file=str(file))["images"]
    logits = read_logits(file, wanted)
    difference, agreement = compare(logits, rig.oracle[case.model][:wanted])
    if fault := checks.parity_fault(case.precision, difference, agreement, "oracle"):
        raise WorkerError(f"proof failed: {fault}")
    medians, steady = _warm_up(rig.plan.preset, worker)
    return Check(
        arm=arm.id,
        case=case.id,
        block=block.number,
        images=images,
        labels_sha256=hashlib.sha256(bytes(logits.argmax(axis=1).tolist())).hexdigest(),
        max_abs_logit_diff=difference,
        threads=rig.plan.threads,
        warm_up_medians_ns=tuple(medians),
        steady=steady,
    )


def _warm_up(preset: Preset, worker: Worker) -> tuple[list[int], bool]:
    """Run short slices until their medians are level, or until the preset's limit."""
    medians: list[int] = []
    deadline = now_ns() + preset.warm_up_limit_ns
    while not is_level(medians) and now_ns() < deadline:
        answer = worker.request("slice", SLICE_TIMEOUT_S, budget_ns=WARM_UP_SLICE_NS, lead_in=0)
        medians.append(int(median(answer["samples_ns"])))
    return medians, is_level(medians)


def _slice(turn: Turn, arm: Arm, workers: dict[str, Worker]) -> Slice:
    """Time one slice, and account for what everybody else did meanwhile."""
    others = [worker.pid for name, worker in workers.items() if name != arm.id]
    _let_settle(others)
    idle_before, harness_before, before = _cpu_ns(others), cpu_ns(), machine.counters()
    answer = workers[arm.id].request("slice", SLICE_TIMEOUT_S, budget_ns=SLICE_NS, lead_in=LEAD_IN)
    after, harness_after, idle_after = machine.counters(), cpu_ns(), _cpu_ns(others)
    return Slice(
        arm=arm.id,
        case=turn.case.id,
        block=turn.block.number,
        round=turn.round,
        position=turn.position,
        samples_ns=tuple(answer["samples_ns"]),
        wall_ns=answer["wall_ns"],
        cpu_ns=answer["cpu_ns"],
        involuntary_switches=answer["involuntary_switches"],
        idle_cpu_ns=idle_after - idle_before,
        harness_cpu_ns=harness_after - harness_before,
        steal_ns=after.steal_ns - before.steal_ns,
        throttled_ns=after.throttled_ns - before.throttled_ns,
        load=machine.load(),
        frequency_hz=machine.frequency_hz(),
    )


def _let_settle(pids: list[int]) -> None:
    """Wait until the arm that had the last turn has stopped: its threads spin for a while before they sleep."""
    deadline, before = now_ns() + SETTLE_LIMIT_NS, _cpu_ns(pids)
    while now_ns() < deadline:
        pause(SETTLE_STEP_NS)
        after = _cpu_ns(pids)
        if after - before < SETTLED_SHARE * SETTLE_STEP_NS:
            return
        before = after


def _cpu_ns(pids: list[int]) -> int:
    return sum(map(cpu_ns_of, pids))
