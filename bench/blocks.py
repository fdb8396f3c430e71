"""The blocks: one fresh process per arm, all alive together, alternated in slices."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from statistics import median
from typing import TYPE_CHECKING, Any

from backends.protocol import stacks
from bench import checks, machine, settings
from bench.checks import FAILED, SKIPPED, WITHHELD
from bench.launch import WorkerError
from bench.measure import cpu_ns, cpu_ns_of, is_level, now_ns, pause
from bench.plan import LEAD_IN, SLICE_NS, WARM_UP_SLICE_NS
from bench.records import Check, Evidence, Slice, batch_interval_ns
from bench.rig import SLICE_TIMEOUT_S, compare, predict, read_back
from bench.suite import LATENCY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.analysis import Speedup
    from bench.plan import Block
    from bench.records import Arm, Case
    from bench.rig import Rig
    from bench.team import Team

# The kernel books the CPU time of a running thread at its timer's ticks, 1 to 4 ms apart (10 ms at 100 Hz): a shorter
# step would take a spinning process for a sleeping one.
SETTLE_STEP_NS, SETTLE_LIMIT_NS, SETTLED_SHARE = 6_000_000, 500_000_000, 0.05
BEGIN_TOGETHER_NS = 20_000_000  # from a request to a team until its members begin: all have got it by then
PRECISE = 0.01  # half-width, on the log scale, at which a planned look stops even without a difference


def measure_blocks(rig: Rig) -> str:
    """Measure the scheduled blocks; return whether all of them or a planned look ended it: complete or settled."""
    schedule, preset = rig.plan.schedule, rig.plan.preset
    caches = rig.scratch / "caches"
    caches.mkdir()
    for index, block in enumerate(schedule):
        live = LiveBlock(rig, block, caches)
        live.measure()
        where = ", ".join(live.cases[0].group)
        rig.steps.step(rig.plan.block_weight(block), f"block {block.number} of {preset.blocks}: {where}")
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
    """One fresh team per arm for the cases of a model and scenario, all alive together."""

    def __init__(self, rig: Rig, block: Block, caches: Path) -> None:
        self._rig, self._block, self._caches = rig, block, caches
        self._cases = {case.id: case for case in rig.plan.suite.cases if case.id in block.cases}
        self._arms = {arm.id: arm for arm in rig.plan.arms}
        self._teams: dict[str, Team] = {}
        self._ready: set[tuple[str, str]] = set()  # (arm, case) that may be timed
        self._cores: dict[tuple[str, str], list[float]] = defaultdict(list)

    @property
    def cases(self) -> list[Case]:
        """Return the cases in the order in which processes build what they need for them."""
        return [self._cases[each] for each in self._block.cases]

    def measure(self) -> None:
        """Build all arms, alternate them in slices, and let each prove what it ran."""
        try:
            self._bring_up()
            for turn in self._block.rounds:
                for position, arm_id in enumerate(turn.order):
                    self._attempt(arm_id, turn.case, partial(self._time_slice, turn.number, position))
            for arm_id, case_id in sorted(self._ready):
                self._attempt(arm_id, case_id, self._read_back)
        finally:
            for team in self._teams.values():
                team.stop()

    def _attempt(self, arm_id: str, case_id: str, work: Callable[[Arm, Case], None]) -> None:
        """Do `work` for an arm that is ready; one that fails leaves the block, and the others go on."""
        if (arm_id, case_id) in self._ready:
            try:
                work(self._arms[arm_id], self._cases[case_id])
            except WorkerError as error:
                self._leave(arm_id, error)

    def _leave(self, arm_id: str, error: WorkerError) -> None:
        """Take an arm out of the block: its process is of no use any more, in none of its cases."""
        if team := self._teams.pop(arm_id, None):
            team.stop()
        lost = [case for case in self.cases if (arm_id, case.id) in self._ready]
        for case in lost:
            self._ready.remove((arm_id, case.id))
            self._rig.fail(self._arms[arm_id], case, self._block.number, error)

    def _has_turn(self, arm: Arm, case: Case) -> bool:
        return (arm.original.id, case.id) in self._rig.proven and not self._rig.gives_up(arm, case)

    def _bring_up(self) -> None:
        """Build as many arms at a time as there are cores; then, one after the other, compare outputs and warm up.

        What is built side by side takes longer, and is no sample of a start; nothing is timed until all is quiet.
        """
        for arm_id in self._block.start:
            self._ready |= {(arm_id, case.id) for case in self.cases if self._has_turn(self._arms[arm_id], case)}
        present = [arm_id for arm_id in self._block.start if any(arm == arm_id for arm, _ in self._ready)]
        for arm_id, error in self._built(present):
            if error is not None:
                self._leave(arm_id, error)
        for case, arm_id in product(self.cases, present):
            self._attempt(arm_id, case.id, self._check)

    def _built(self, arm_ids: list[str]) -> list[tuple[str, WorkerError | None]]:
        """Start and build the arms; return what went wrong with each."""
        with ThreadPoolExecutor(machine.usable_cores()) as pool:
            futures = {}
            try:
                for arm_id in arm_ids:
                    futures[arm_id] = pool.submit(self._build, arm_id, self._start(arm_id))
                return [(arm_id, future.result()) for arm_id, future in futures.items()]
            except BaseException:  # an interrupt: the pool's threads end when what they wait for does
                pool.shutdown(wait=False, cancel_futures=True)
                for team in self._teams.values():
                    team.kill()
                raise

    def _start(self, arm_id: str) -> WorkerError | None:
        """Start an arm's team, in the main thread: workers die with the thread that has started them."""
        arm, scenario = self._arms[arm_id], self.cases[0].scenario
        try:
            self._teams[arm_id] = self._rig.start(arm, scenario, self._caches, settings.restart_variables())
        except WorkerError as error:
            return error
        return None

    def _build(self, arm_id: str, fault: WorkerError | None) -> WorkerError | None:
        """Build an arm that has started without fault for all of its cases, in a thread of the orchestrator."""
        if fault is not None:
            return fault
        arm, team = self._arms[arm_id], self._teams[arm_id]
        try:
            machine.require_memory(self._rig.memory[arm.original.id])
            team.wait_until_ready()
            for case in self.cases:
                if (arm_id, case.id) in self._ready:
                    self._rig.build(team, arm, case)
        except MemoryError as error:
            return WorkerError(f"{error}; measure fewer arms at a time: --stack, --precision, --model")
        except WorkerError as error:
            return error
        return None

    def _check(self, arm: Arm, case: Case) -> None:
        """Compare the outputs with the oracle's and with those of the proof pass, and warm up."""
        rig, team = self._rig, self._teams[arm.id]
        images = min(checks.CHECK_IMAGES, len(rig.data.test_labels))
        found, expected = predict(rig, team, case, images), rig.proven[arm.original.id, case.id][:images]
        for logits in found:
            repeated = float((logits.argmax(axis=1) == expected).mean())
            oracle = compare(logits, rig.oracle[case.model][:images])
            fault = checks.parity_fault(arm.precision, *oracle, "oracle") or checks.repetition_fault(repeated)
            if fault:
                raise WorkerError(f"proof failed: {fault}")
        medians = self._warm_up(arm, case)
        rig.journal.append(
            Check(
                arm=arm.id,
                case=case.id,
                block=self._block.number,
                images=images,
                labels_sha256=hashlib.sha256(bytes(found[0].argmax(axis=1).tolist())).hexdigest(),
                max_abs_logit_diff=compare(found[0], rig.oracle[case.model][:images])[0],
                warm_up_medians_ns=tuple(medians),
                steady=is_level(medians),
            )
        )

    def _warm_up(self, arm: Arm, case: Case) -> list[int]:
        """Run short slices until their medians are level, or until the limit; return the medians."""
        medians: list[int] = []
        deadline = now_ns() + self._rig.plan.preset.warm_up_limit_ns
        while not is_level(medians) and now_ns() < deadline:
            medians.append(int(self._typical(case, self._slice(arm, case, WARM_UP_SLICE_NS, 0))))
        return medians

    def _typical(self, case: Case, answers: list[dict[str, Any]]) -> float:
        """Return what a slice says: the median latency, or the time per batch of all members together."""
        if case.scenario == LATENCY:
            return float(median(sample for answer in answers for sample in answer["samples_ns"]))
        counts = [len(answer["samples_ns"]) for answer in answers]
        return batch_interval_ns(counts, [answer["wall_ns"] for answer in answers])

    def _slice(self, arm: Arm, case: Case, budget_ns: int, lead_in: int) -> list[dict[str, Any]]:
        """Let the arm's team work; return each member's answer."""
        asynchronous, team = stacks()[arm.stack].variants[arm.variant].asynchronous, self._teams[arm.id]
        request = {
            "case": case.id,
            "asynchronous": asynchronous,
            "budget_ns": budget_ns,
            "lead_in": max(lead_in, 2 * self._rig.plan.threads) if asynchronous else lead_in,
            "begin_ns": now_ns() + BEGIN_TOGETHER_NS if len(team.members) > 1 else 0,
        }
        return team.request("slice", SLICE_TIMEOUT_S, **request)

    def _time_slice(self, number: int, position: int, arm: Arm, case: Case) -> None:
        """Time one slice, and account for what everybody else did meanwhile."""
        others = [pid for name, team in self._teams.items() if name != arm.id for pid in team.pids]
        _let_settle(others)
        idle_before, harness_before, before = _cpu_ns(others), cpu_ns(), machine.counters()
        answers = self._slice(arm, case, SLICE_NS, LEAD_IN)
        after, harness_after, idle_after = machine.counters(), cpu_ns(), _cpu_ns(others)
        used = Slice(
            arm=arm.id,
            case=case.id,
            block=self._block.number,
            round=number,
            position=position,
            samples_ns=tuple(sample for answer in answers for sample in answer["samples_ns"]),
            counts=tuple(len(answer["samples_ns"]) for answer in answers),
            walls_ns=tuple(answer["wall_ns"] for answer in answers),
            cpu_ns=sum(answer["cpu_ns"] for answer in answers),
            involuntary_switches=sum(answer["involuntary_switches"] for answer in answers),
            idle_cpu_ns=idle_after - idle_before,
            harness_cpu_ns=harness_after - harness_before,
            steal_ns=after.steal_ns - before.steal_ns,
            throttled_ns=after.throttled_ns - before.throttled_ns,
            load=machine.load(),
            frequency_hz=machine.frequency_hz(),
        )
        self._cores[arm.id, case.id].append(used.cpu_ns / used.wall_ns)
        self._rig.journal.append(used)

    def _read_back(self, arm: Arm, case: Case) -> None:
        """Let the process prove what it ran, after its last timed slice, so that no profiler is on before."""
        evidence = read_back(self._rig, self._teams[arm.id], arm, case)
        cores, threads = median(self._cores[arm.id, case.id]), self._rig.plan.threads
        if cores > checks.MAX_CORES_SHARE * threads:
            raise WorkerError(f"proof failed: used {cores:.2f} cores, asked for {threads} threads")
        kernels = tuple(evidence["kernels"])
        place = arm.id, case.id, self._block.number
        self._rig.journal.append(Evidence(*place, evidence["precision"], evidence["threads"], kernels))
        self._ready.remove((arm.id, case.id))  # it has proved its slices: no other case's fault is theirs


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
