"""Blocks: one fresh process per arm, all started together, alternated in rounds."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice, pairwise, product
from queue import SimpleQueue
from statistics import median
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from bench.analysis import gates
from bench.analysis.latency import are_enough
from bench.analysis.stats import trimmed_mean
from bench.clock import cpu_ns, now_ns, suspended_ns
from bench.engine.build import build_sessions, can_move, core_sets, move_group, start_group
from bench.engine.proof.evidence import compare, predict, read_back
from bench.engine.workers import START_TOGETHER_NS, WorkerError, cpu_ns_of_all, threads_for, wait_until_idle
from bench.machine import counters, facts, resources
from bench.records import BlockEnd, Check, Conditions, Evidence, Slice
from bench.suite.arms import LATENCY
from bench.suite.plan import LEAD_IN, LEAD_IN_NS, WARM_UP_SLICE_NS
from bench.suite.schedule import joint_rounds, slice_ns_of
from bench.suite.suite import variant_of
from bench.suite.variables import restart_variables
from bench.worker.messages import RunSlice, batch_interval_ns
from bench.worker.timing import is_steady

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.engine.context import RunContext, Tally
    from bench.engine.workers import WorkerGroup
    from bench.records import Turn
    from bench.suite.arms import Arm, Case, Split
    from bench.suite.schedule import Block, Round
    from bench.worker.messages import ProofReply, SliceReply

T = TypeVar("T")

SLICE_TIMEOUT_S = 60
# Calls that are longer than a slice make its rounds longer. After MIN_ROUNDS, and MAX_OVERRUN times the time that is
# planned for the preset's rounds, a case has no further rounds in its block.
MIN_ROUNDS, MAX_OVERRUN = 4, 4


@dataclass(frozen=True)
class Reading:
    """The kernel's counters at one time, and the CPU time of all workers and the orchestrator until then."""

    time_ns: int
    ticks: counters.Snapshot
    own_ns: int


class BlockRunner(ABC):
    """Measures a block: starts a worker group per arm, alternates them in rounds, and reads back what ran."""

    def __init__(self, context: RunContext, tally: Tally, block: Block) -> None:
        self.context, self.tally, self.block = context, tally, block
        self.groups: dict[str, WorkerGroup] = {}
        # How each arm uses its cores, and which they are: without a choice of its own, the same ones for all arms.
        self.splits: dict[str, Split] = {}
        self.cores: dict[str, Sequence[int]] = {}
        self._cases = {case.id: case for case in context.plan.suite.cases if case.id in block.cases}
        self._arms = {arm.id: arm for arm in context.plan.arms}
        # The memory that is reserved, by group; several threads reserve.
        self._memory, self._reserved = Lock(), dict[str, int]()
        # Whether arms have cores of their own while they are built.
        self._apart = False
        # (arm, case) that may be timed, and those that have been warmed up where they were built.
        self._ready: set[tuple[str, str]] = set()
        self._warm: set[tuple[str, str]] = set()
        # The processes that had the last turn; none before the first.
        self._recent: list[int] = []
        # The reading at the end of the last turn; none at the start of a round, or after a group left the block.
        self._last: Reading | None = None
        # CPU and wall time of all turns, by arm and case.
        self._cpu_ns: Counter[tuple[str, str]] = Counter()
        self._wall_ns: Counter[tuple[str, str]] = Counter()

    @property
    def cases(self) -> list[Case]:
        """Return the cases in the order in which their sessions are built."""
        return [self._cases[case_id] for case_id in self.block.cases]

    def measure(self) -> None:
        """Build all arms, alternate them, and store what each of them ran.

        An arm that fails leaves the block; the others continue.
        """
        times, suspended_before_ns = [now_ns()], suspended_ns()
        self.splits = {
            arm_id: self.context.split_of(self.tally, self._arms[arm_id], self.cases[0]) for arm_id in self.block.start
        }
        sets = counters.quiet_core_sets({split.cores for split in self.splits.values()})
        self.cores = {arm_id: sets[split.cores] for arm_id, split in self.splits.items()}
        try:
            self._build_all()
            times.append(now_ns())
            self._warm_up_all()
            times.append(now_ns())
            for rounds in joint_rounds(self.block.rounds, self.cases):
                turns = [turn for turn in rounds if not self.leaves_out(turn)]
                self._last = None
                parts = max(map(self.begin_round, turns), default=0)
                for _, (position, arm_id), turn in product(range(parts), enumerate(rounds[0].order), turns):
                    self._attempt(arm_id, turn.case, partial(self.take_turn, turn.number, position))
            times.append(now_ns())
            # After the last turn, so that no profiler has been active before.
            for arm_id, case_id in sorted(self._ready):
                self._attempt(arm_id, case_id, self._store_evidence)
        finally:
            for group in self.groups.values():
                group.stop()
        build_ns, warm_up_ns, turns_ns = (end - begin for begin, end in pairwise(times))
        wall_ns = now_ns() - times[0]
        gap_ns = suspended_ns() - suspended_before_ns
        self.tally.journal.append(
            BlockEnd(self.block.number, self.block.cases, wall_ns, build_ns, warm_up_ns, turns_ns, gap_ns)
        )

    def takes_part(self, arm: Arm, case: Case) -> bool:
        """Return whether an arm is to be measured on a case, as far as earlier steps of the run show."""
        return not self.tally.exceeds_failure_budget(arm, case, self.context.plan.blocks_of(case))

    def leaves_out(self, _: Round) -> bool:
        """Return whether a round is left out, for all arms alike: those before it took too long, or are enough."""
        return False

    def begin_round(self, _: Round) -> int:
        """Prepare a round; return how many turns each arm has in it."""
        return 1

    @abstractmethod
    def prepare(self, group: WorkerGroup, arm: Arm, case: Case, cores: Sequence[int]) -> None:
        """Build what an arm needs for a case, on these cores, in a thread of the orchestrator; raises WorkerError."""

    @abstractmethod
    def check(self, arm: Arm, case: Case) -> None:
        """Check the outputs of what was built; raises WorkerError."""

    @abstractmethod
    def warm_up(self, arm: Arm, case: Case) -> None:
        """Warm up what was built; raises WorkerError."""

    @abstractmethod
    def take_turn(self, number: int, position: int, arm: Arm, case: Case) -> None:
        """Measure a turn of an arm in a round, and store it when it is the last one; raises WorkerError."""

    @abstractmethod
    def read_back(self, arm: Arm, case: Case) -> ProofReply:
        """Return what an arm's workers read back; raises WorkerError."""

    def _build_all(self) -> None:
        """Build a few arms at a time; on cores of its own, an arm is checked and warmed up as well.

        Start-up times are slower here than alone, and are not stored.
        """
        for arm_id in self.block.start:
            self._ready |= {(arm_id, case.id) for case in self.cases if self.takes_part(self._arms[arm_id], case)}
        present = [arm_id for arm_id in self.block.start if any(arm == arm_id for arm, _ in self._ready)]
        for arm_id, error in self._build_arms(present).items():
            self._remove(arm_id, error)

    def _warm_up_all(self) -> None:
        """Check and warm up one arm after the other."""
        for case, arm_id in product(self.cases, self.block.start):
            if not self._apart:
                self._attempt(arm_id, case.id, self.check)
            if (arm_id, case.id) not in self._warm:
                self._attempt(arm_id, case.id, self.warm_up)

    def _build_arms(self, arm_ids: Sequence[str]) -> dict[str, WorkerError]:
        """Start and build arms; return the errors of those that failed."""
        errors, builds = {}, {}
        places = SimpleQueue[tuple[int, ...]]()
        most = max(map(tuple, self.cores.values()), key=len)
        sets = core_sets(self.cases[0], most)
        self._apart = len(sets) > 1
        # A start uses one thread for most of its time. Arms with fewer cores than others start on different ones.
        turned = [most[first:] + most[:first] for first in range(len(most))]
        for cores in sets if self._apart else islice(cycle(turned), facts.usable_cores() + 1):
            places.put(cores)
        with threads_for(self.groups, places.qsize()) as pool:
            for arm_id in arm_ids:
                arm = self._arms[arm_id]
                try:
                    # In the main thread: PR_SET_PDEATHSIG kills a worker when the thread that started it ends.
                    caches = self.context.caches(arm, self.cases[0])
                    group = start_group(self.context, arm, self.splits[arm_id], caches, restart_variables())
                except WorkerError as error:
                    errors[arm_id] = error
                    continue
                self.groups[arm_id] = group
                builds[arm_id] = pool.submit(self._build, arm, group, places)
            for arm_id, build in builds.items():
                try:
                    build.result()
                except WorkerError as error:
                    errors[arm_id] = error
        return errors

    def _build(self, arm: Arm, group: WorkerGroup, places: SimpleQueue[tuple[int, ...]]) -> None:
        """Build an arm on free cores, then move it to the cores of the block; raises WorkerError."""
        self.reserve_memory(arm.id, self.tally.memory_of(arm), "--stack, --precision, --model")
        own, final = places.get(), self.cores[arm.id]
        is_movable = can_move(arm, self.splits[arm.id])
        cores = tuple(sorted(own[: len(final)])) if is_movable else final
        try:
            group.wait_until_ready()
            for case in self.cases:
                if (arm.id, case.id) in self._ready:
                    self.prepare(group, arm, case, cores)
                    if self._apart:
                        self.check(arm, case)
                        if is_movable:
                            self.warm_up(arm, case)
                            self._warm.add((arm.id, case.id))
            move_group(group, cores, final)
        finally:
            places.put(own)

    def reserve_memory(self, key: str, peak_bytes: int, options: str) -> None:
        """Keep memory for a group's peak, beside what the groups of the block may still take; raises WorkerError.

        The error names the `options` that mend it. A group that did not fit stays out of later blocks, in which groups
        start in other orders.
        """
        with self._memory:
            if key not in self.tally.oversized:
                growth = 0
                for other, peak in self._reserved.items():
                    if group := self.groups.get(other):
                        growth += max(0, peak - resources.memory_used_by_all(group.pids))
                try:
                    resources.require_memory(peak_bytes, growth)
                except MemoryError as error:
                    self.tally.oversized[key] = str(error)
            if reason := self.tally.oversized.get(key):
                raise WorkerError(f"{reason}; measure fewer arms at a time: {options}")
            self._reserved[key] = peak_bytes

    def _attempt(self, arm_id: str, case_id: str, work: Callable[[Arm, Case], None]) -> None:
        """Do `work` for an arm, unless it has left the block."""
        if (arm_id, case_id) in self._ready:
            try:
                work(self._arms[arm_id], self._cases[case_id])
            except WorkerError as error:
                self._remove(arm_id, error)

    def _remove(self, arm_id: str, error: WorkerError) -> None:
        """Stop an arm's workers, and store the error for all of its cases that are not finished."""
        if group := self.groups.pop(arm_id, None):
            group.stop()
            self._last = None
        for case in self.cases:
            if (arm_id, case.id) in self._ready:
                self._ready.remove((arm_id, case.id))
                self.tally.add_failure(self._arms[arm_id], case, self.block.number, error)

    def _store_evidence(self, arm: Arm, case: Case) -> None:
        evidence = self.read_back(arm, case)
        if not set(evidence.cores) <= set(self.cores[arm.id]):
            own = self.cores[arm.id]
            raise WorkerError(f"proof failed: its threads may use the cores {evidence.cores}, asked for {own}")
        cores, threads = self.used_cores(arm, case), self.splits[arm.id].cores
        if cores > gates.MAX_CORES_SHARE * threads:
            raise WorkerError(f"proof failed: used {cores:.2f} cores, asked for {threads} threads")
        self.tally.journal.append(
            Evidence(arm.id, case.id, self.block.number, evidence.precision, evidence.threads, evidence.kernels)
        )
        # This case is finished; a failure in another one does not affect it.
        self._ready.remove((arm.id, case.id))

    def observe(self, key: str, work: Callable[[], T]) -> tuple[T, Conditions]:
        """Do a group's work once all others are idle; return its result and what else used the machine meanwhile."""
        own = [worker.pid for worker in self.groups[key].processes]
        groups = [group for other, group in self.groups.items() if other != key]
        others = [worker.pid for group in groups for worker in group.processes]

        def read() -> Reading:
            return Reading(now_ns(), counters.snapshot(), cpu_ns_of_all(own + others) + cpu_ns())

        before = self._last or read()
        if own != self._recent:
            wait_until_idle(others, self._recent or others)
        self._recent = own
        start, idle_before_ns, harness_before_ns = now_ns(), cpu_ns_of_all(others), cpu_ns()
        result = work()
        idle_ns, harness_ns, end = cpu_ns_of_all(others) - idle_before_ns, cpu_ns() - harness_before_ns, now_ns()
        self._last = after = read()
        first, last = (reading.ticks.of(self.cores[key]) for reading in (before, after))
        busy_ns = counters.growth(first.busy_ns, last.busy_ns)
        return result, Conditions(
            watched_ns=end - start,
            idle_cpu_ns=idle_ns,
            harness_cpu_ns=harness_ns,
            steal_ns=counters.growth(first.steal_ns, last.steal_ns),
            throttled_ns=counters.growth(first.throttled_ns, last.throttled_ns),
            foreign_ns=None if busy_ns is None else busy_ns - (after.own_ns - before.own_ns),
            counted_ns=after.time_ns - before.time_ns,
            load=facts.load(),
            frequency_hz=facts.frequency_hz(),
        )

    def store(self, turn: Turn) -> None:
        self._cpu_ns[turn.arm, turn.case] += turn.cpu_ns
        self._wall_ns[turn.arm, turn.case] += turn.wall_ns
        self.tally.journal.append(turn)

    def used_cores(self, arm: Arm, case: Case) -> float:
        """Return how many cores an arm used in its turns, over all of them.

        A single one of 10 ms would not tell: the kernel may add up to a tick of each running thread (4 ms at 250 Hz)
        to the CPU time of the next turn.
        """
        return self._cpu_ns[arm.id, case.id] / self._wall_ns[arm.id, case.id]


class InferenceBlock(BlockRunner):
    def __init__(self, context: RunContext, tally: Tally, block: Block) -> None:
        super().__init__(context, tally, block)
        # What the processes proved before they were timed.
        self.checks: dict[tuple[str, str], Check] = {}
        # Time spent on a case's rounds, and the log latencies of each arm in them.
        self._spent_ns: Counter[str] = Counter()
        self._log_latencies: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        # Cases that have no further rounds.
        self._finished: set[str] = set()

    def takes_part(self, arm: Arm, case: Case) -> bool:
        return (arm.original.id, case.id) in self.tally.labels and super().takes_part(arm, case)

    def leaves_out(self, turn: Round) -> bool:
        preset = self.context.plan.preset
        rounds = min(preset.rounds, sum(other.case == turn.case for other in self.block.rounds))
        planned_ns = rounds * len(turn.order) * (LEAD_IN_NS + slice_ns_of(self._cases[turn.case], preset))
        takes_long = turn.number >= MIN_ROUNDS and self._spent_ns[turn.case] > MAX_OVERRUN * planned_ns
        # Without arms that have left the block.
        present = [values for values in self._log_latencies[turn.case].values() if len(values) == turn.number]
        if takes_long or are_enough(turn.number, preset.rounds, present):
            self._finished.add(turn.case)
        return turn.case in self._finished

    def prepare(self, group: WorkerGroup, arm: Arm, case: Case, cores: Sequence[int]) -> None:
        build_sessions(self.context, self.tally, group, arm, case, self.splits[arm.id], cores, reported=False)

    def check(self, arm: Arm, case: Case) -> None:
        self.check_outputs(arm, case, case)

    def check_outputs(self, arm: Arm, case: Case, built: Case) -> None:
        """Compare outputs of what was `built` with the oracle's and those of the proof pass; raises WorkerError."""
        images = min(gates.CHECK_IMAGES, gates.CHECK_CALLS * built.batch_size, len(self.context.data.test_labels))
        outputs = predict(self.context, self.groups[arm.id], built, images)
        expected, reference = self.tally.labels[arm.original.id, case.id], self.tally.oracle[case.model]
        for logits in outputs:
            repeated = float((logits.argmax(axis=1) == expected[:images]).mean())
            difference, agreement = compare(logits, reference[:images])
            parity_fault = gates.parity_fault(arm.precision, difference, agreement, "oracle")
            if fault := parity_fault or gates.repetition_fault(repeated):
                raise WorkerError(f"proof failed: {fault}")
        self.checks[arm.id, case.id] = Check(
            arm=arm.id,
            case=case.id,
            block=self.block.number,
            images=images,
            labels_sha256=hashlib.sha256(bytes(outputs[0].argmax(axis=1).tolist())).hexdigest(),
            max_abs_logit_diff=compare(outputs[0], reference[:images])[0],
            warm_up_medians_ns=(),
            steady=False,
        )

    def warm_up(self, arm: Arm, case: Case) -> None:
        limit_ns = self.context.plan.preset.warm_up_limit_ns
        medians = warm_up_medians_ns(arm, case, self.splits[arm.id], limit_ns, self.groups[arm.id])
        check = replace(self.checks[arm.id, case.id], warm_up_medians_ns=tuple(medians), steady=is_steady(medians))
        self.checks[arm.id, case.id] = check
        self.tally.journal.append(check)

    def take_turn(self, number: int, position: int, arm: Arm, case: Case) -> None:
        slice_ns = slice_ns_of(case, self.context.plan.preset)
        group, split = self.groups[arm.id], self.splits[arm.id]
        replies, conditions = self.observe(arm.id, lambda: run_slice(arm, case, split, slice_ns, group))
        self._spent_ns[case.id] += conditions.watched_ns or 0
        samples_ns = [sample for reply in replies for sample in reply.samples_ns]
        if case.scenario == LATENCY:
            self._log_latencies[case.id][arm.id].append(math.log(trimmed_mean(samples_ns)))
        self.store(
            Slice(
                arm=arm.id,
                case=case.id,
                block=self.block.number,
                round=number,
                position=position,
                samples_ns=tuple(samples_ns),
                counts=tuple(len(reply.samples_ns) for reply in replies),
                walls_ns=tuple(reply.wall_ns for reply in replies),
                cpu_ns=sum(reply.cpu_ns for reply in replies),
                involuntary_switches=sum(reply.involuntary_switches for reply in replies),
                conditions=conditions,
            )
        )

    def read_back(self, arm: Arm, case: Case) -> ProofReply:
        return read_back(self.groups[arm.id], arm, case, self.splits[arm.id], self.context.plan.variables.given)


def warm_up_medians_ns(arm: Arm, case: Case, split: Split, limit_ns: int, group: WorkerGroup) -> list[int]:
    """Run short slices until they are steady, or the limit has passed; return their times per batch."""
    medians: list[int] = []
    deadline = now_ns() + limit_ns
    while not is_steady(medians) and now_ns() < deadline:
        replies = run_slice(arm, case, split, WARM_UP_SLICE_NS, group, lead_in=0, lead_in_ns=0)
        medians.append(int(typical_ns(case, replies)))
    return medians


def run_slice(
    arm: Arm,
    case: Case,
    split: Split,
    budget_ns: int,
    group: WorkerGroup,
    lead_in: int = LEAD_IN,
    lead_in_ns: int = LEAD_IN_NS,
) -> list[SliceReply]:
    """Let all workers of a group run a slice at the same time; raises WorkerError."""
    asynchronous = variant_of(arm).asynchronous
    if asynchronous:
        # Enough batches to fill the pipeline.
        lead_in = max(lead_in, 2 * split.streams)
    begin_ns = now_ns() + START_TOGETHER_NS if len(group.workers) > 1 else 0
    request = RunSlice(case.id, budget_ns, lead_in, begin_ns, asynchronous, lead_in_ns)
    return group.request(request, SLICE_TIMEOUT_S)


def typical_ns(case: Case, replies: Sequence[SliceReply]) -> float:
    """Return the median latency of a slice or, for throughput, the time per batch of all workers together."""
    if case.scenario == LATENCY:
        return float(median(sample for reply in replies for sample in reply.samples_ns))
    counts = [len(reply.samples_ns) for reply in replies]
    return batch_interval_ns(counts, [reply.wall_ns for reply in replies])
