"""The blocks: one fresh process per arm, all alive together, alternated in slices."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from bench import checks, machine
from bench.checks import FAILED, SKIPPED, WITHHELD
from bench.launch import WorkerError
from bench.measure import cpu_ns, cpu_ns_of, is_level, now_ns, pause
from bench.plan import LEAD_IN, SLICE_NS, WARM_UP_SLICE_NS
from bench.records import Check, Evidence, Slice, Start
from bench.rig import BUILD_TIMEOUT_S, SLICE_TIMEOUT_S, compare, predict, read_back, restart_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.analysis import Speedup
    from bench.launch import Worker
    from bench.plan import Block
    from bench.records import Arm, Case
    from bench.rig import Rig

# The kernel books the CPU time of a running thread at its timer's ticks, 1 to 4 ms apart (10 ms at 100 Hz): a shorter
# step would take a spinning process for a sleeping one.
SETTLE_STEP_NS, SETTLE_LIMIT_NS, SETTLED_SHARE = 6_000_000, 500_000_000, 0.05
PRECISE = 0.01  # half-width, on the log scale, at which a planned look stops even without a difference


def measure_blocks(rig: Rig) -> str:
    """Measure the scheduled blocks; return whether all of them or a planned look ended it: complete or settled."""
    cases = {case.id: case for case in rig.plan.suite.cases}
    schedule, preset = rig.plan.schedule, rig.plan.preset
    caches = rig.scratch / "caches"
    caches.mkdir()
    for index, block in enumerate(schedule):
        case = cases[block.case]
        LiveBlock(rig, block, case, caches).measure()
        rig.steps.step(rig.plan.block_weight, f"block {block.number} of {preset.blocks}: {case.label}")
        is_last_of_number = index + 1 == len(schedule) or schedule[index + 1].number != block.number
        if is_last_of_number and block.number in preset.looks and _is_settled(rig.folder):
            return "settled"
    return "complete"


def _is_settled(folder: Path) -> bool:
    """Tell whether every primary comparison excludes 1 or is known to within 1 %: the rule of a planned look."""
    from bench.analysis import Run

    rows = [row for row in Run(folder).speedups if row.primary and row.verdict.word not in (FAILED, SKIPPED)]
    return bool(rows) and all(_row_is_settled(row) for row in rows)


def _row_is_settled(row: Speedup) -> bool:
    if row.estimate is None or row.estimate.interval is None or row.verdict.word == WITHHELD:
        return False
    return row.estimate.interval.excludes(0) or row.estimate.interval.half_width <= PRECISE


class LiveBlock:
    """One fresh process per arm on one case, all alive together."""

    def __init__(self, rig: Rig, block: Block, case: Case, caches: Path) -> None:
        self._rig, self._block, self._case, self._caches = rig, block, case, caches
        self._arms = {arm.id: arm for arm in rig.plan.arms}
        self._workers: dict[str, Worker] = {}
        self._cores: dict[str, list[float]] = defaultdict(list)

    def measure(self) -> None:
        """Bring up the arms one after the other, alternate them in slices, and let each prove what it ran."""
        try:
            for arm_id in self._block.rounds[0]:
                if self._has_turn(self._arms[arm_id]):
                    self._attempt(arm_id, self._bring_up)
            for number, order in enumerate(self._block.rounds):
                for position, arm_id in enumerate(order):
                    if arm_id in self._workers:
                        self._attempt(arm_id, partial(self._time_slice, number, position))
            for arm_id in list(self._workers):
                self._attempt(arm_id, self._read_back)
        finally:
            for worker in self._workers.values():
                worker.stop()

    def _attempt(self, arm_id: str, work: Callable[[Arm], None]) -> None:
        """Do `work` for an arm; one that fails leaves the block, and the others go on."""
        try:
            work(self._arms[arm_id])
        except WorkerError as error:
            if arm_id in self._workers:
                self._workers.pop(arm_id).stop()
            self._rig.fail(self._arms[arm_id], self._case, self._block.number, error)

    def _has_turn(self, arm: Arm) -> bool:
        proven = (replace(arm, replica=False).id, self._case.id) in self._rig.proven
        return proven and not self._rig.gives_up(arm, self._case)

    def _bring_up(self, arm: Arm) -> None:
        """Start and build while all others sleep, compare the outputs with the oracle's, and warm up."""
        rig, case = self._rig, self._case
        worker = rig.start(arm, self._caches, restart_settings())
        self._workers[arm.id] = worker
        built = worker.wait_until_ready().request("build", BUILD_TIMEOUT_S, **rig.build_request(arm, case))
        rig.journal.append(Start(arm.id, case.id, self._block.number, worker.pid, **built))
        rig.journal.append(self._check(arm, worker))

    def _check(self, arm: Arm, worker: Worker) -> Check:
        rig, case = self._rig, self._case
        logits = predict(rig, worker, min(checks.CHECK_IMAGES, len(rig.labels)))
        difference, agreement = compare(logits, rig.oracle[case.model][: len(logits)])
        if fault := checks.parity_fault(case.precision, difference, agreement, "oracle"):
            raise WorkerError(f"proof failed: {fault}")
        medians = _warm_up(worker, rig.plan.preset.warm_up_limit_ns)
        return Check(
            arm=arm.id,
            case=case.id,
            block=self._block.number,
            images=len(logits),
            labels_sha256=hashlib.sha256(bytes(logits.argmax(axis=1).tolist())).hexdigest(),
            max_abs_logit_diff=difference,
            warm_up_medians_ns=tuple(medians),
            steady=is_level(medians),
        )

    def _time_slice(self, number: int, position: int, arm: Arm) -> None:
        """Time one slice, and account for what everybody else did meanwhile."""
        others = [worker.pid for name, worker in self._workers.items() if name != arm.id]
        _let_settle(others)
        idle_before, harness_before, before = _cpu_ns(others), cpu_ns(), machine.counters()
        timing = self._workers[arm.id].request("slice", SLICE_TIMEOUT_S, budget_ns=SLICE_NS, lead_in=LEAD_IN)
        after, harness_after, idle_after = machine.counters(), cpu_ns(), _cpu_ns(others)
        self._cores[arm.id].append(timing["cpu_ns"] / timing["wall_ns"])
        self._rig.journal.append(
            Slice(
                arm=arm.id,
                case=self._case.id,
                block=self._block.number,
                round=number,
                position=position,
                samples_ns=tuple(timing.pop("samples_ns")),
                **timing,
                idle_cpu_ns=idle_after - idle_before,
                harness_cpu_ns=harness_after - harness_before,
                steal_ns=after.steal_ns - before.steal_ns,
                throttled_ns=after.throttled_ns - before.throttled_ns,
                load=machine.load(),
                frequency_hz=machine.frequency_hz(),
            )
        )

    def _read_back(self, arm: Arm) -> None:
        """Let the process prove what it ran, after its last timed slice, so that no profiler is on before."""
        evidence = read_back(self._rig, self._workers[arm.id], self._case)
        cores, threads = median(self._cores[arm.id]), self._rig.plan.threads
        if cores > checks.MAX_CORES_SHARE * threads:
            raise WorkerError(f"proof failed: used {cores:.2f} cores, asked for {threads} threads")
        kernels = tuple(evidence["kernels"])
        place = arm.id, self._case.id, self._block.number
        self._rig.journal.append(Evidence(*place, evidence["precision"], evidence["threads"], kernels))


def _warm_up(worker: Worker, limit_ns: int) -> list[int]:
    """Run short slices until their medians are level, or until the limit; return the medians."""
    medians: list[int] = []
    deadline = now_ns() + limit_ns
    while not is_level(medians) and now_ns() < deadline:
        timing = worker.request("slice", SLICE_TIMEOUT_S, budget_ns=WARM_UP_SLICE_NS, lead_in=0)
        medians.append(int(median(timing["samples_ns"])))
    return medians


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
