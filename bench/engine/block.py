"""A block: one fresh process per arm, all alive together, taking turns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from bench.analysis import gates
from bench.clock import cpu_ns, cpu_ns_of, now_ns, pause
from bench.engine.workers import WorkerError
from bench.machine import counters, facts, limits
from bench.records import Evidence
from bench.suite import variables as settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.engine.session import Rig
    from bench.engine.team import WorkerGroup
    from bench.records import Turn
    from bench.suite.arms import Arm, Case
    from bench.suite.schedule import Block

T = TypeVar("T")

# The kernel books the CPU time of a running thread at its timer's ticks, 1 to 4 ms apart (10 ms at 100 Hz): a shorter
# step would take a spinning process for a sleeping one.
SETTLE_STEP_NS, SETTLE_LIMIT_NS, SETTLED_SHARE = 6_000_000, 500_000_000, 0.05


class LiveBlock(ABC):
    """One fresh team per arm for the cases of a model and scenario, all alive together."""

    def __init__(self, rig: Rig, block: Block, caches: Path) -> None:
        self.rig, self.block, self._caches = rig, block, caches
        self._cases = {case.id: case for case in rig.plan.suite.cases if case.id in block.cases}
        self._arms = {arm.id: arm for arm in rig.plan.arms}
        self.teams: dict[str, WorkerGroup] = {}
        self.cores: list[int] = []  # the same for all arms of the block
        self._ready: set[tuple[str, str]] = set()  # (arm, case) that may be timed
        self._used: dict[tuple[str, str], list[float]] = defaultdict(list)  # cores' worth of CPU time, by turn

    @property
    def cases(self) -> list[Case]:
        """Return the cases in the order in which processes build what they need for them."""
        return [self._cases[each] for each in self.block.cases]

    def measure(self) -> None:
        """Build all arms, alternate them in slices, and let each prove what it ran."""
        self.cores = self.rig.quiet_cores(self.cases[0])
        try:
            self._bring_up()
            for turn in self.block.rounds:
                for position, arm_id in enumerate(turn.order):
                    self._attempt(arm_id, turn.case, partial(self.take_turn, turn.number, position))
            for arm_id, case_id in sorted(self._ready):
                self._attempt(arm_id, case_id, self._read_back)
        finally:
            for team in self.teams.values():
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
        if team := self.teams.pop(arm_id, None):
            team.stop()
        lost = [case for case in self.cases if (arm_id, case.id) in self._ready]
        for case in lost:
            self._ready.remove((arm_id, case.id))
            self.rig.fail(self._arms[arm_id], case, self.block.number, error)

    def has_turn(self, arm: Arm, case: Case) -> bool:
        """Tell whether an arm has proved its work on a case, and not failed too often."""
        return (arm.original.id, case.id) in self.rig.proven and not self.rig.gives_up(arm, case)

    def _bring_up(self) -> None:
        """Build as many arms at a time as there are cores; then, one after the other, compare outputs and warm up.

        What is built side by side takes longer, and is no sample of a start; nothing is timed until all is quiet.
        """
        for arm_id in self.block.start:
            self._ready |= {(arm_id, case.id) for case in self.cases if self.has_turn(self._arms[arm_id], case)}
        present = [arm_id for arm_id in self.block.start if any(arm == arm_id for arm, _ in self._ready)]
        for arm_id, error in self._built(present):
            if error is not None:
                self._leave(arm_id, error)
        for case, arm_id in product(self.cases, present):
            self._attempt(arm_id, case.id, self.check)

    def _built(self, arm_ids: list[str]) -> list[tuple[str, WorkerError | None]]:
        """Start and build the arms; return what went wrong with each."""
        with ThreadPoolExecutor(facts.usable_cores()) as pool:
            futures = {}
            try:
                for arm_id in arm_ids:
                    futures[arm_id] = pool.submit(self._build, arm_id, self._start(arm_id))
                return [(arm_id, future.result()) for arm_id, future in futures.items()]
            except BaseException:  # an interrupt: the pool's threads end when what they wait for does
                pool.shutdown(wait=False, cancel_futures=True)
                for team in self.teams.values():
                    team.kill()
                raise

    def _start(self, arm_id: str) -> WorkerError | None:
        """Start an arm's team, in the main thread: workers die with the thread that has started them."""
        arm = self._arms[arm_id]
        try:
            self.teams[arm_id] = self.rig.start(arm, self.cases[0], self._caches, settings.restart_variables())
        except WorkerError as error:
            return error
        return None

    def _build(self, arm_id: str, fault: WorkerError | None) -> WorkerError | None:
        """Build an arm that has started without fault for all of its cases, in a thread of the orchestrator."""
        if fault is not None:
            return fault
        arm, team = self._arms[arm_id], self.teams[arm_id]
        try:
            limits.require_memory(self.rig.memory.get(arm.original.id, 0))
            team.wait_until_ready()
            for case in self.cases:
                if (arm_id, case.id) in self._ready:
                    self.prepare(team, arm, case)
        except MemoryError as error:
            return WorkerError(f"{error}; measure fewer arms at a time: --stack, --precision, --model")
        except WorkerError as error:
            return error
        return None

    @abstractmethod
    def prepare(self, team: WorkerGroup, arm: Arm, case: Case) -> None:
        """Let an arm's team build what it needs for a case; raises WorkerError."""

    @abstractmethod
    def check(self, arm: Arm, case: Case) -> None:
        """Compare, and warm up, what was built; raises WorkerError."""

    @abstractmethod
    def take_turn(self, number: int, position: int, arm: Arm, case: Case) -> None:
        """Let an arm have its turn in a round, and store it; raises WorkerError."""

    def _read_back(self, arm: Arm, case: Case) -> None:
        """Let the process prove what it ran, after its last turn, so that no profiler is on before."""
        evidence = self.evidence(arm, case)
        cores, threads = median(self._used[arm.id, case.id]), self.rig.plan.threads_of(case)
        if cores > gates.MAX_CORES_SHARE * threads:
            raise WorkerError(f"proof failed: used {cores:.2f} cores, asked for {threads} threads")
        kernels = tuple(evidence["kernels"])
        place = arm.id, case.id, self.block.number
        self.rig.journal.append(Evidence(*place, evidence["precision"], evidence["threads"], kernels))
        self._ready.remove((arm.id, case.id))  # it has proved its turns: no other case's fault is theirs

    @abstractmethod
    def evidence(self, arm: Arm, case: Case) -> dict[str, Any]:
        """Return what an arm's process reads back; raises WorkerError."""

    def watched(self, arm: Arm, work: Callable[[], T]) -> tuple[T, dict[str, Any]]:
        """Do an arm's work when all others are quiet; account for what they and the machine did meanwhile."""
        own = self.teams[arm.id].pids
        others = [pid for name, team in self.teams.items() if name != arm.id for pid in team.pids]
        _let_settle(others)
        start = now_ns()
        before, spent_before = counters.counters(self.cores), (_cpu_ns(own), _cpu_ns(others), cpu_ns())
        result = work()
        after, spent_after = counters.counters(self.cores), (_cpu_ns(own), _cpu_ns(others), cpu_ns())
        spent = [now - then for now, then in zip(spent_after, spent_before, strict=True)]
        return result, {
            "watched_ns": now_ns() - start,
            "idle_cpu_ns": spent[1],
            "harness_cpu_ns": spent[2],
            "steal_ns": after.steal_ns - before.steal_ns,
            "throttled_ns": after.throttled_ns - before.throttled_ns,
            "foreign_ns": after.busy_ns - before.busy_ns - sum(spent),
            "load": facts.load(),
            "frequency_hz": facts.frequency_hz(),
        }

    def store(self, turn: Turn) -> None:
        """Append a turn to the journal."""
        self._used[turn.arm, turn.case].append(turn.cpu_ns / turn.wall_ns)
        self.rig.journal.append(turn)


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
