"""Blocks of data-parallel training: groups of 1, 2, ... ranks of every arm, alternated in epochs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING

from bench.analysis import gates
from bench.clock import now_ns, suspended_ns
from bench.engine.build import BUILD_TIMEOUT_S, EPOCH_TIMEOUT_S, places, start_group
from bench.engine.proof.evidence import PREDICT_TIMEOUT_S, combined_proof
from bench.engine.scaling.ranks import STALL_S, request_of_ranks
from bench.engine.training_block import TrainingBlock
from bench.engine.workers import WorkerError
from bench.machine import counters
from bench.records import BlockEnd, Evidence, Ranks, SingleEpoch, TrainedEpoch
from bench.suite.arms import WEAK, Split
from bench.suite.variables import restart_variables
from bench.worker.messages import DigestWeights, EpochReply, Listen, ProveTraining
from bench.worker.network import LOOPBACK
from models.feed import union_digest
from models.timeouts import timeout_factor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.engine.workers import WorkerGroup
    from bench.suite.arms import Arm, Case

# What the frameworks themselves wait for other ranks. The engine notices a rank that hangs before.
PATIENCE = 10


class ScalingBlock(TrainingBlock):
    """Alternates cases with different numbers of workers, each a group of ranks of its own.

    A group serves the cases of its number of workers, strong and weak scaling, with a training for each.
    """

    def measure(self) -> None:
        """Start and build all groups, alternate them, and store what each of them ran.

        A group that fails leaves the block; the others continue.
        """
        times, suspended_before_ns = [now_ns()], suspended_ns()
        threads = self.context.plan.threads
        counts = sorted({case.workers for case in self.cases})
        sets = counters.quiet_core_sets({count * threads for count in counts})
        self._addresses: dict[str, tuple[str, ...]] = {}
        # (arm, case) with an epoch of one worker to compare with.
        self._comparable: set[tuple[str, str]] = set()
        try:
            for arm_id, count in product(self.block.start, counts):
                self.cores[_key(arm_id, count)] = sets[count * threads]
                self._build_group(self._arms[arm_id], count)
            times.append(now_ns())
            for turn in self.block.rounds:
                for position, arm_id in enumerate(turn.order):
                    self._attempt(arm_id, turn.case, partial(self.take_turn, turn.number, position))
            for arm_id, case in product(self.block.start, self.cases):
                self._train_as_one(self._arms[arm_id], case)
            # After the last epoch, so that no profiler has been active before.
            for arm_id, case_id in sorted(self._ready):
                self._attempt(arm_id, case_id, self._store_evidence)
            times.append(now_ns())
        finally:
            for group in self.groups.values():
                group.stop()
        build_ns, turns_ns = times[1] - times[0], times[2] - times[1]
        wall_ns = now_ns() - times[0]
        gap_ns = suspended_ns() - suspended_before_ns
        self.tally.journal.append(BlockEnd(self.block.number, self.block.cases, wall_ns, build_ns, 0, turns_ns, gap_ns))

    def _cases_of(self, count: int) -> list[Case]:
        return [case for case in self.cases if case.workers == count]

    def _build_group(self, arm: Arm, count: int) -> None:
        """Start the ranks of a group, and open its trainings."""
        cases = [case for case in self._cases_of(count) if self.takes_part(arm, case)]
        self._ready |= {(arm.id, case.id) for case in cases}
        if not cases:
            return
        plan, caches = self.context.plan, self.context.caches(arm, cases[0])
        try:
            self.reserve_memory(_key(arm.id, count), self.tally.memory_of(arm, count), "--stack, --workers")
            through = plan.places or ((),)
            group = start_group(self.context, arm, Split(count, plan.threads), caches, restart_variables(), through)
            # Before its ranks are ready, so that it is stopped whatever happens.
            self.groups[_key(arm.id, count)] = group
            group.wait_until_ready()
        except WorkerError as error:
            self._remove_group(arm, count, error)
            return
        for case in cases:
            self._attempt(arm.id, case.id, partial(self._open, group))

    def _open(self, group: WorkerGroup, arm: Arm, case: Case) -> None:
        key, count = _key(arm.id, case.workers), case.workers
        if count > 1 and key not in self._addresses:
            replies = request_of_ranks(group, [Listen(self.context.plan.interface)] * count, BUILD_TIMEOUT_S)
            self._addresses[key] = tuple(reply.address for reply in replies)
        addresses = self._addresses.get(key, ())
        patience_s = PATIENCE * STALL_S * timeout_factor()
        requests = [
            replace(
                self.opening(arm, case, self.context.plan.threads, cores),
                name=case.id,
                rank=rank,
                addresses=addresses,
                timeout_s=patience_s,
            )
            for rank, cores in enumerate(places(count, self.cores[key]))
        ]
        request_of_ranks(group, requests, BUILD_TIMEOUT_S)

    def take_turn(self, number: int, position: int, arm: Arm, case: Case) -> None:
        key = _key(arm.id, case.workers)
        requests = [replace(self.epoch(case, number), name=case.id)] * case.workers
        group = self.groups[key]
        replies, conditions = self.observe(key, lambda: request_of_ranks(group, requests, EPOCH_TIMEOUT_S))
        result = joint_epoch(replies)
        self.store(TrainedEpoch(arm.id, case.id, self.block.number, number, position, result, None, conditions))
        if number == 0 and case.workers == 1:
            # In strong scaling, all numbers of workers have the batches of one.
            for other in self.cases:
                if other.workers > 1 and other.scaling != WEAK:
                    self._store_single(arm, other, result)

    def _train_as_one(self, arm: Arm, case: Case) -> None:
        """Let the only worker of a group of one train as all workers of a weakly scaled case together did.

        If it fails, its own group leaves the block.
        """
        group = self.groups.get(_key(arm.id, 1))
        if case.scaling != WEAK or group is None or (arm.id, case.id) not in self._ready:
            return
        opening = self.opening(arm, case, self.context.plan.threads, self.cores[_key(arm.id, 1)])
        epoch = replace(self.epoch(case, 0), name=case.id)
        try:
            request_of_ranks(group, [replace(opening, name=case.id)], BUILD_TIMEOUT_S)
            (result,) = request_of_ranks(group, [epoch], EPOCH_TIMEOUT_S)
        except WorkerError as error:
            self._remove_group(arm, 1, WorkerError(f"as one worker, with the batches of {case.workers}: {error}"))
        else:
            self._store_single(arm, case, result)

    def _store_single(self, arm: Arm, case: Case, result: EpochReply) -> None:
        self._comparable.add((arm.id, case.id))
        record = SingleEpoch(arm.id, case.id, self.block.number, result.digest, result.losses)
        self.tally.journal.append(record)

    def _store_evidence(self, arm: Arm, case: Case) -> None:
        key, plan, count = _key(arm.id, case.workers), self.context.plan, case.workers
        if count > 1 and (arm.id, case.id) not in self._comparable:
            raise WorkerError("proof failed: no epoch of one worker to compare its losses with")
        group, given = self.groups[key], places(case.workers, self.cores[key])
        states = request_of_ranks(group, [DigestWeights(case.id)] * count, PREDICT_TIMEOUT_S)
        if len({state.digest for state in states}) > 1:
            raise WorkerError("proof failed: its ranks have different weights after training")
        listening = tuple(sorted({address for state in states for address in state.listening}))
        if plan.interface == LOOPBACK and any(not address.endswith(f"%{LOOPBACK}") for address in listening):
            raise WorkerError(f"proof failed: it accepts connections on {', '.join(listening)}, not on {LOOPBACK} only")
        for state, own in zip(states, given, strict=True):
            if not set(state.cores) <= set(own):
                raise WorkerError(f"proof failed: its threads may use the cores {state.cores}, asked for {own}")
        replies = request_of_ranks(group, [ProveTraining(case.id)] * count, PREDICT_TIMEOUT_S)
        proof = combined_proof(replies, arm, plan.threads, plan.variables.given)
        self.tally.add_memory(arm, proof.memory_bytes, count)
        used, threads = self.used_cores(arm, case), plan.threads_of(case)
        if used > gates.MAX_CORES_SHARE * threads:
            raise WorkerError(f"proof failed: used {used:.2f} cores, asked for {threads} threads")
        addresses = self._addresses.get(key, ())
        engine = proof.versions.get("engine", "")
        self.tally.journal.append(Ranks(arm.id, case.id, self.block.number, tuple(given), addresses, listening, engine))
        self.tally.journal.append(
            Evidence(arm.id, case.id, self.block.number, proof.precision, proof.threads, proof.kernels)
        )
        # This case is finished; a failure in another one does not affect it.
        self._ready.remove((arm.id, case.id))

    def _attempt(self, arm_id: str, case_id: str, work: Callable[[Arm, Case], None]) -> None:
        """Do `work` for an arm's group, unless it has left the block."""
        if (arm_id, case_id) in self._ready:
            arm, case = self._arms[arm_id], self._cases[case_id]
            try:
                work(arm, case)
            except WorkerError as error:
                self._remove_group(arm, case.workers, error)

    def _remove_group(self, arm: Arm, count: int, error: WorkerError) -> None:
        """Stop a group, and store the error for all of its cases that are not finished."""
        if group := self.groups.pop(_key(arm.id, count), None):
            group.stop()
        for case in self._cases_of(count):
            if (arm.id, case.id) in self._ready:
                self._ready.remove((arm.id, case.id))
                self.tally.add_failure(arm, case, self.block.number, error)


def _key(arm_id: str, count: int) -> str:
    return f"{arm_id} x{count}"


def joint_epoch(replies: Sequence[EpochReply]) -> EpochReply:
    """Return the epoch of ranks that have trained together.

    It took as long as for the slowest. A loss is the mean over the images of all ranks, which have equal shares.
    """
    return EpochReply(
        images=sum(reply.images for reply in replies),
        loss=fmean(reply.loss for reply in replies),
        wall_ns=max(reply.wall_ns for reply in replies),
        cpu_ns=sum(reply.cpu_ns for reply in replies),
        wait_ns=max(reply.wait_ns for reply in replies),
        digest=union_digest(reply.digest for reply in replies),
        memory_bytes=sum(reply.memory_bytes for reply in replies),
        involuntary_switches=sum(reply.involuntary_switches for reply in replies),
        losses=tuple(map(fmean, zip(*(reply.losses for reply in replies), strict=True))),
    )
