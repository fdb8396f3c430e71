"""Which arms stay in a block and which leave it; no processes are started."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from random import Random

import numpy as np
import pytest

from bench.engine import block as module
from bench.engine.block import BlockRunner, InferenceBlock, typical_ns
from bench.engine.workers import Unsupported, WorkerError
from bench.machine.counters import Counters
from bench.records import BlockEnd, Check, Conditions, Evidence, Failure, Slice
from bench.suite.arms import BEST_THREADS, Split
from bench.suite.schedule import Block, Round
from bench.worker.messages import (
    Build,
    BuildReply,
    Move,
    Predict,
    PredictReply,
    ProofReply,
    Prove,
    RunSlice,
    SliceReply,
)
from tests.engine.conftest import FOUR, ONE, ORACLE, REPLICA, FakeGroup

BLOCK = Block(
    number=2,
    cases=(FOUR.id, ONE.id),
    start=(REPLICA.id, ORACLE.id),
    rounds=tuple(Round(case.id, 0, (ORACLE.id, REPLICA.id)) for case in (ONE, FOUR)),
)
PROOF = ProofReply("fp32", 1, ("k",), {}, 5)
CONDITIONS = Conditions(0, 0, 0, 0, 0.0, None)


class ScriptedBlock(BlockRunner):
    """Does nothing but raise the error that is planned for a step, an arm and a case."""

    def __init__(self, *arguments, errors=(), cores_used=(1.0,)) -> None:
        super().__init__(*arguments)
        self.errors, self.steps = dict(errors), []
        # By round.
        self.cores_used = cores_used

    def _step(self, name, arm, case):
        self.steps.append((name, arm.id, case.id))
        if error := self.errors.get((name, arm, case)):
            raise error

    def prepare(self, group, arm, case, cores):
        self._step("prepare", arm, case)

    def check(self, arm, case):
        self._step("check", arm, case)

    def warm_up(self, arm, case):
        self._step("warm up", arm, case)

    def take_turn(self, number, position, arm, case):
        self._step("turn", arm, case)
        cpu_ns = int(100 * self.cores_used[number])
        self.store(Slice(arm.id, case.id, 2, number, position, (100,), (1,), (100,), cpu_ns, 0, CONDITIONS))

    def read_back(self, arm, case):
        self._step("read back", arm, case)
        return PROOF


@pytest.fixture
def groups(monkeypatch):
    """Return the groups that arms are started as, by arm; an exception in place of a group is raised."""
    groups = {arm.id: FakeGroup({}) for arm in (ORACLE, REPLICA)}

    def start_group(context, arm, *_):
        if isinstance(groups[arm.id], Exception):
            raise groups[arm.id]
        return groups[arm.id]

    monkeypatch.setattr(module, "start_group", start_group)
    monkeypatch.setattr(
        module.counters, "quiet_core_sets", lambda counts: {count: list(range(count)) for count in counts}
    )
    return groups


@pytest.fixture
def run(context, tally, groups, tmp_path):
    """Return a function that measures a block in which some steps fail."""

    def run(errors=(), cores_used=(1.0,)) -> ScriptedBlock:
        block = replace(
            BLOCK, rounds=tuple(replace(turn, number=n) for n in range(len(cores_used)) for turn in BLOCK.rounds)
        )
        runner = ScriptedBlock(context, tally, block, errors=errors, cores_used=cores_used)
        runner.measure()
        return runner

    return run


def turns(tally):
    return [(record.arm, record.case) for record in tally.journal.of(Slice)]


def test_all_arms_are_built_and_checked_before_the_first_turn(run, tally, groups, monkeypatch) -> None:
    monkeypatch.setattr(module, "core_sets", lambda *_: [(0,)])
    steps = [name for name, _, _ in run().steps]
    assert steps == ["prepare"] * 4 + ["check", "warm up"] * 4 + ["turn"] * 4 + ["read back"] * 4
    assert turns(tally) == [(arm.id, case.id) for arm in (ORACLE, REPLICA) for case in (ONE, FOUR)]
    assert {(record.arm, record.case, record.block) for record in tally.journal.of(Evidence)} == {
        (arm.id, case.id, 2) for case in (ONE, FOUR) for arm in (ORACLE, REPLICA)
    }
    assert all(group.stopped for group in groups.values())


@pytest.mark.parametrize("change", [{"number": 1}, {"order": (REPLICA.id, ORACLE.id)}])
def test_rounds_that_differ_in_number_or_order_are_not_joint(context, tally, groups, change) -> None:
    first, second = BLOCK.rounds
    block = replace(BLOCK, rounds=(first, replace(second, **change)))
    ScriptedBlock(context, tally, block, cores_used=(1.0, 1.0)).measure()
    assert turns(tally) == [(arm, turn.case) for turn in block.rounds for arm in turn.order]


@pytest.mark.parametrize("step", ["prepare", "check", "warm up", "turn"])
def test_an_arm_that_fails_leaves_all_cases_and_the_others_stay(run, tally, groups, step) -> None:
    run({(step, ORACLE, ONE): WorkerError("exited")})
    assert tally.journal.of(Failure) == [Failure(ORACLE.id, case.id, 2, "exited") for case in (FOUR, ONE)]
    assert turns(tally) == [(REPLICA.id, case.id) for case in (ONE, FOUR)]
    assert {record.arm for record in tally.journal.of(Evidence)} == {REPLICA.id}
    assert groups[ORACLE.id].stopped


def test_an_arm_that_can_not_be_started_leaves_and_the_others_stay(run, tally, groups) -> None:
    groups[ORACLE.id] = WorkerError("python can't be started")
    run()
    assert {failure.arm for failure in tally.journal.of(Failure)} == {ORACLE.id}
    assert {arm for arm, _ in turns(tally)} == {REPLICA.id}


def test_a_failure_after_the_last_turn_leaves_a_finished_case_alone(run, tally) -> None:
    """Evidence is read in the order of the cases' names, so that b1 is finished before b4 fails."""
    run({("read back", ORACLE, FOUR): WorkerError("exited")})
    assert tally.journal.of(Failure) == [Failure(ORACLE.id, FOUR.id, 2, "exited")]
    assert (ORACLE.id, ONE.id) in {(record.arm, record.case) for record in tally.journal.of(Evidence)}


def test_what_a_stack_does_not_support_is_skipped(run, tally) -> None:
    run({("prepare", ORACLE, FOUR): Unsupported("no")})
    assert tally.journal.of(Failure) == [Failure(ORACLE.id, case.id, None, "no", skipped=True) for case in (FOUR, ONE)]


def test_a_process_that_used_more_cores_than_threads_fails(run, tally) -> None:
    run(cores_used=(1.2,))
    assert {failure.reason for failure in tally.journal.of(Failure)} == {
        "proof failed: used 1.20 cores, asked for 1 threads"
    }
    assert not tally.journal.of(Evidence)


def test_cores_are_counted_over_all_turns_as_single_ones_depend_on_the_ticks_of_the_kernel(run, tally) -> None:
    """Of 16 threads in slices of 10 ms, ticks of 4 ms count 12 or 19 cores; most slices have more than there are."""
    run(cores_used=(1.2, 1.2, 0.5))
    assert not tally.journal.of(Failure)
    assert len(tally.journal.of(Evidence)) == 4


def test_an_arm_that_exceeds_the_failure_budget_is_not_started(run, tally, groups) -> None:
    for _ in range(2):
        for case in (ONE, FOUR):
            tally.add_failure(ORACLE, case, 1, WorkerError("exited"))
    tally.journal.clear()
    groups[ORACLE.id] = AssertionError("started")
    run()
    assert {arm for arm, _ in turns(tally)} == {REPLICA.id}
    assert not tally.journal.of(Failure)


def test_an_arm_that_does_not_fit_into_memory_fails_with_the_remedy(run, tally, monkeypatch) -> None:
    monkeypatch.setattr(module.resources, "memory_available_bytes", lambda: 10**9)
    tally.add_memory(ORACLE, 2 * 10**9)
    run()
    assert {failure.reason for failure in tally.journal.of(Failure)} == {
        "2.0 GB needed and 1.0 GB of memory available; measure fewer arms at a time: --stack, --precision, --model"
    }


def test_memory_is_reserved_for_all_arms_of_a_block_and_the_same_one_stays_out_later(run, tally, monkeypatch) -> None:
    """Each of the two fits alone: the second is refused although the first has not taken its memory yet."""
    monkeypatch.setattr(module.resources, "memory_available_bytes", lambda: 3 * 10**9)
    tally.add_memory(ORACLE, 2 * 10**9)
    run()
    (out,) = {failure.arm for failure in tally.journal.of(Failure)}
    (reason,) = {failure.reason for failure in tally.journal.of(Failure)}
    assert reason.startswith("2.0 GB needed and 1.0 GB of memory available; measure fewer arms at a time")
    monkeypatch.setattr(module.resources, "memory_available_bytes", lambda: 10**10)
    tally.journal.clear()
    run()
    assert {failure.arm for failure in tally.journal.of(Failure)} == {out}
    assert {arm for arm, _ in turns(tally)} == {ORACLE.id, REPLICA.id} - {out}


def test_memory_that_an_arm_has_taken_counts_once(run, tally, monkeypatch) -> None:
    monkeypatch.setattr(module.resources, "memory_available_bytes", lambda: 3 * 10**9)
    monkeypatch.setattr(module.resources, "memory_used_bytes", lambda _: 2 * 10**9)
    tally.add_memory(ORACLE, 2 * 10**9)
    run()
    assert not tally.journal.of(Failure)


def test_an_interrupt_while_arms_are_built_kills_and_stops_all(run, groups) -> None:
    killed = []
    for arm_id, group in groups.items():
        group.kill = lambda arm_id=arm_id: killed.append(arm_id)
    with pytest.raises(KeyboardInterrupt):
        run({("prepare", ORACLE, ONE): KeyboardInterrupt()})
    assert set(killed) == groups.keys()
    assert all(group.stopped for group in groups.values())


def test_arms_are_built_on_disjoint_cores_and_moved_to_those_of_the_block(run, groups, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 5, 6})
    built = []
    monkeypatch.setattr(ScriptedBlock, "prepare", lambda self, group, arm, case, cores: built.append((arm.id, cores)))
    runner = run()
    assert {cores for _, cores in built} <= {(4,), (5,), (6,)}
    for arm_id, group in groups.items():
        (before,) = {cores for arm, cores in built if arm == arm_id}
        assert group.requests == [Move(before, tuple(runner.cores[arm_id]))]


def test_a_block_that_has_ended_stores_its_wall_time_and_that_of_its_parts(run, tally, monkeypatch) -> None:
    clock = iter((1000, 1020, 1050, 1090, 1150))
    suspended = iter((500, 507))
    monkeypatch.setattr(module, "now_ns", lambda: next(clock, 0))
    monkeypatch.setattr(module, "suspended_ns", lambda: next(suspended))
    monkeypatch.setattr(ScriptedBlock, "observe", None)
    run()
    assert tally.journal[-1] == BlockEnd(2, BLOCK.cases, 150, 20, 30, 40, suspended_ns=7)


def test_an_interrupted_block_has_no_end(run, tally) -> None:
    with pytest.raises(KeyboardInterrupt):
        run({("turn", ORACLE, ONE): KeyboardInterrupt()})
    assert not tally.journal.of(BlockEnd)


def test_arms_on_cores_of_their_own_are_checked_and_warmed_up_while_others_are_built(run, monkeypatch) -> None:
    monkeypatch.setattr(module, "core_sets", lambda *_: [(0,), (1,)])
    steps = [name for name, _, _ in run().steps]
    assert sorted(steps[:12]) == ["check"] * 4 + ["prepare"] * 4 + ["warm up"] * 4
    assert steps[12:] == ["turn"] * 4 + ["read back"] * 4


def test_arms_that_can_not_move_are_warmed_up_on_the_cores_of_the_block(run, monkeypatch) -> None:
    monkeypatch.setattr(module, "core_sets", lambda *_: [(8,), (9,)])
    monkeypatch.setattr(module, "can_move", lambda *_: False)
    steps = [name for name, _, _ in run().steps]
    assert sorted(steps[:8]) == ["check"] * 4 + ["prepare"] * 4
    assert steps[8:] == ["warm up"] * 4 + ["turn"] * 4 + ["read back"] * 4


def test_arms_that_can_not_move_are_built_on_the_cores_of_the_block(run, groups, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 5, 6})
    monkeypatch.setattr(module, "can_move", lambda *_: False)
    cores = run().cores
    for arm_id, group in groups.items():
        assert group.requests == [Move(tuple(cores[arm_id]), tuple(cores[arm_id]))]


def test_an_arm_with_a_choice_of_its_own_runs_on_as_many_cores(context, tally, run, groups, monkeypatch) -> None:
    """Of 16 cores one arm uses all, the other the two quietest; its replica has the choice of its original."""
    other = replace(ORACLE, settings="malloc")
    groups[other.id], built = FakeGroup({}), []
    quiet = {16: list(range(16)), 2: [6, 9]}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(module.counters, "quiet_core_sets", lambda counts: {count: quiet[count] for count in counts})
    monkeypatch.setattr(ScriptedBlock, "prepare", lambda self, group, arm, case, cores: built.append((arm.id, cores)))
    best = replace(ONE, threads=BEST_THREADS)
    tally.splits |= {(ORACLE.id, best.id): Split(1, 2), (other.id, best.id): Split(1, 16)}
    plan = replace(
        context.plan, suite=replace(context.plan.suite, batch_sizes=(1,), threads=(BEST_THREADS,)),
        arms=(ORACLE, REPLICA, other), threads=16,
    )  # fmt: skip
    order = (other.id, ORACLE.id, REPLICA.id)
    block = Block(1, (best.id,), order, (Round(best.id, 0, order),))
    runner = ScriptedBlock(replace(context, plan=plan), tally, block, cores_used=(2.1,))
    runner.measure()
    assert not tally.journal.of(Failure)
    assert runner.cores == {ORACLE.id: [6, 9], REPLICA.id: [6, 9], other.id: list(range(16))}
    # Two threads start on cores of their own and move; more threads stay where they start.
    places = dict(built)
    assert places[other.id] == list(range(16))
    assert len({places[ORACLE.id], places[REPLICA.id]}) == 2
    for arm in (ORACLE, REPLICA):
        assert groups[arm.id].requests == [Move(places[arm.id], (6, 9))]


def test_a_process_whose_threads_may_leave_the_cores_of_the_block_fails(run, tally, monkeypatch) -> None:
    monkeypatch.setattr(ScriptedBlock, "read_back", lambda *_: replace(PROOF, cores=(0, 7)))
    run()
    assert {failure.reason for failure in tally.journal.of(Failure)} == {
        "proof failed: its threads may use the cores (0, 7), asked for [0]"
    }


@dataclass(frozen=True)
class FakeSnapshot:
    counted: Counters

    def of(self, _) -> Counters:
        return self.counted


@pytest.fixture
def observed(run, monkeypatch):
    """Return a block with two groups, and a function that sets what is counted from now on, for each reading."""
    runner = run()
    runner.groups = {ORACLE.id: FakeGroup({}), REPLICA.id: FakeGroup({})}
    runner.groups[REPLICA.id].workers[0].pid += 100
    own, other = runner.groups[ORACLE.id].pids[0], runner.groups[REPLICA.id].pids[0]
    monkeypatch.setattr(module, "wait_until_idle", lambda *_: None)

    def count(*, clock, spent, harness, ticks) -> None:
        """Set the clock and the CPU times at successive readings, and the kernel's counters at those of a turn."""
        clock, harness, ticks = iter(clock), iter(harness), iter(ticks)
        spent = dict(zip((own, other), map(iter, spent), strict=True))
        monkeypatch.setattr(module, "cpu_ns_of_all", lambda pids: sum(next(spent[pid]) for pid in pids))
        monkeypatch.setattr(module, "cpu_ns", lambda: next(harness))
        monkeypatch.setattr(module, "now_ns", lambda: next(clock))
        monkeypatch.setattr(module.counters, "snapshot", lambda: FakeSnapshot(next(ticks)))

    return runner, count


def test_arms_wait_only_for_another_arm_to_sleep(observed, monkeypatch) -> None:
    runner, _ = observed
    waited = []
    monkeypatch.setattr(module, "wait_until_idle", lambda pids, recent: waited.append((pids, recent)))
    own, other = runner.groups[ORACLE.id].pids, runner.groups[REPLICA.id].pids
    for arm in (ORACLE, ORACLE, REPLICA, REPLICA, ORACLE):
        runner.observe(arm.id, lambda: None)
    assert waited == [(other, other), (own, own), (other, other)]


def test_foreign_cpu_time_is_the_busy_time_without_workers_and_harness(observed) -> None:
    runner, count = observed
    # Before the wait, at the start of the work, at its end, and after it.
    count(
        clock=[0, 30, 130, 140],
        spent=[[10, 60], [5, 8, 11, 12]],
        harness=[1, 2, 4, 5],
        ticks=[Counters(steal_ns=1, throttled_ns=2, busy_ns=100), Counters(steal_ns=5, throttled_ns=9, busy_ns=200)],
    )
    result, conditions = runner.observe(ORACLE.id, lambda: "done")
    assert result == "done"
    assert (conditions.idle_cpu_ns, conditions.harness_cpu_ns, conditions.watched_ns) == (3, 2, 100)
    assert (conditions.steal_ns, conditions.throttled_ns, conditions.counted_ns) == (4, 7, 140)
    assert conditions.foreign_ns == 100 - 50 - 7 - 4


def test_what_is_counted_in_a_turn_begins_where_the_turn_before_ended(observed) -> None:
    """So coarse ticks of the kernel are counted once, whichever turn they fall into."""
    runner, count = observed
    count(
        clock=[0, 1, 2, 3, 4, 5, 6],
        spent=[[0, 10, 20], [0, 0, 0, 0, 0, 0, 0]],
        harness=[0] * 7,
        ticks=[Counters(0, 0, 0), Counters(0, 0, 30), Counters(0, 0, 30)],
    )
    turns = [runner.observe(ORACLE.id, lambda: None)[1] for _ in range(2)]
    assert [turn.foreign_ns for turn in turns] == [20, -10]
    assert sum(turn.counted_ns for turn in turns) == 6


def test_a_group_that_leaves_the_block_takes_its_cpu_time_with_it(observed, tally) -> None:
    runner, count = observed
    count(
        clock=range(20),
        spent=[[100, 100, 100, 100], [50, 50, 50, 50]],
        harness=[0] * 10,
        ticks=[Counters(0, 0, 0)] * 4,
    )
    runner.observe(ORACLE.id, lambda: None)
    runner._remove(REPLICA.id, WorkerError("gone"))
    assert runner.observe(ORACLE.id, lambda: None)[1].foreign_ns == 0


def reply(samples) -> SliceReply:
    return SliceReply(tuple(samples), sum(samples), sum(samples), 1)


@pytest.fixture
def inference(context, tally, groups, monkeypatch):
    """Return a function that measures a block of inference, with these labels of the images in the block."""
    # One arm after the other: the groups have the same process id, and so the same file of logits.
    monkeypatch.setattr(module, "core_sets", lambda *_: [(0,)])
    tally.oracle["cnn-small"] = np.eye(10)[np.arange(12) % 10]
    for arm, case in ((ORACLE, ONE), (ORACLE, FOUR)):
        tally.labels[arm.id, case.id] = np.arange(12) % 10

    def run(logits, replies=()) -> None:
        def predict(request: Predict) -> PredictReply:
            np.save(request.file, logits[: request.images])
            return PredictReply(min(request.images, len(logits)))

        for group in groups.values():
            group.replies |= {
                Build: lambda _: BuildReply(1, 2, 3),
                Predict: predict,
                RunSlice: lambda _: reply([10, 20, 30]),
                Prove: lambda _: PROOF,
            } | dict(replies)
        InferenceBlock(context, tally, BLOCK).measure()

    return run


def test_a_block_of_inference_checks_outputs_warms_up_and_stores_slices(inference, tally, groups, monkeypatch) -> None:
    monkeypatch.setattr(module, "now_ns", lambda: 0)
    inference(np.eye(10, dtype=np.float32)[np.arange(12) % 10])
    checks = tally.journal.of(Check)
    assert [(check.case, check.arm) for check in checks] == [
        (case.id, arm.id) for case in (FOUR, ONE) for arm in (REPLICA, ORACLE)
    ]
    assert all((check.images, check.max_abs_logit_diff, check.steady) == (12, 0.0, True) for check in checks)
    assert checks[0].warm_up_medians_ns == (20,) * 6
    assert {(turn.samples_ns, turn.counts, turn.walls_ns) for turn in tally.journal.of(Slice)} == {
        ((10, 20, 30), (3,), (60,))
    }
    slices = [request for request in groups[ORACLE.id].requests if isinstance(request, RunSlice)]
    assert {(request.lead_in, request.lead_in_ns) for request in slices} == {
        (0, 0), (module.LEAD_IN, module.LEAD_IN_NS),
    }  # fmt: skip
    assert {request.begin_ns for request in slices} == {0}


def test_a_small_batch_is_checked_on_fewer_images(inference, tally, monkeypatch) -> None:
    monkeypatch.setattr(module.gates, "CHECK_CALLS", 2)
    inference(np.eye(10, dtype=np.float32)[np.arange(12) % 10])
    assert {(check.case, check.images) for check in tally.journal.of(Check)} == {(ONE.id, 2), (FOUR.id, 8)}


def test_a_process_warms_up_until_it_is_level_or_the_time_is_over(inference, tally, groups, monkeypatch) -> None:
    """Each slice takes 0.2 ms of at most 1 ms: there is no time for six of them."""
    clock = [0]

    def run_slice(_):
        clock[0] += 200_000
        return reply([clock[0]])

    monkeypatch.setattr(module, "now_ns", lambda: clock[0])
    replies = {RunSlice: run_slice, Build: lambda _: BuildReply(1, 2, 3)}
    inference(np.eye(10, dtype=np.float32)[np.arange(12) % 10], replies)
    checks = tally.journal.of(Check)
    assert [check.steady for check in checks] == [False] * 4
    assert checks[0].warm_up_medians_ns == tuple(range(200_000, 1_200_000, 200_000))


def test_outputs_other_than_the_oracles_fail_the_check(inference, tally) -> None:
    inference(np.eye(10, dtype=np.float32)[np.arange(12) % 10] + np.float32(0.01))
    assert {failure.reason for failure in tally.journal.of(Failure)} == {
        "proof failed: logits differ from the oracle's by 0.01, more than 0.001"
    }
    assert not tally.journal.of(Slice)


def test_outputs_other_than_those_of_the_proof_fail_the_check(inference, tally) -> None:
    tally.labels[ORACLE.id, ONE.id] = tally.labels[ORACLE.id, FOUR.id] = np.zeros(12, np.int64)
    inference(np.eye(10, dtype=np.float32)[np.arange(12) % 10])
    (reason,) = {failure.reason for failure in tally.journal.of(Failure)}
    assert "less than 99.50%" in reason


def test_an_arm_without_a_proof_takes_no_part(inference, tally) -> None:
    del tally.labels[ORACLE.id, ONE.id]
    inference(np.eye(10, dtype=np.float32)[np.arange(12) % 10])
    assert {case for _, case in turns(tally)} == {FOUR.id}


def test_a_slice_is_summed_up_by_its_median_or_the_time_per_batch_of_all_workers() -> None:
    replies = [reply([10, 20, 60]), reply([30, 30, 30])]
    assert typical_ns(ONE, replies) == 30
    assert typical_ns(replace(ONE, scenario="throughput"), replies) == pytest.approx(1 / (3 / 90 + 3 / 90))


@pytest.fixture
def rounds_of_cases(context, tally, groups, monkeypatch):
    """Return a function that returns how many rounds each case has in a block with ORACLE and REPLICA.

    It takes the preset's rounds, how long a slice of each case takes, and a function from arm, case and round to the
    latency of a slice, all in ns.
    """

    def measured(rounds, further_rounds, watched_ns, latency_ns=lambda *_: 10):
        arms = {arm.id: arm for arm in (ORACLE, REPLICA)}
        preset = replace(context.plan.preset, rounds=rounds, further_rounds=further_rounds)
        turns = tuple(Round(case.id, n, tuple(arms)) for n in range(rounds + further_rounds) for case in (ONE, FOUR))
        changed = replace(context, plan=replace(context.plan, preset=preset))
        runner = InferenceBlock(changed, tally, replace(BLOCK, rounds=turns))
        runner.groups, runner.splits = groups, dict.fromkeys(arms, Split(1, 1))
        counts = Counter()
        for turn, arm in product(turns, arms.values()):
            case = next(case for case in (ONE, FOUR) if case.id == turn.case)
            conditions = replace(CONDITIONS, watched_ns=watched_ns[case])
            latency = latency_ns(arm, case, turn.number)
            monkeypatch.setattr(module, "run_slice", lambda *_, latency=latency: [reply([latency])])
            monkeypatch.setattr(runner, "observe", lambda _, work, conditions=conditions: (work(), conditions))
            if arm == ORACLE:
                left_out = runner.leaves_out(turn)
            if not left_out:
                runner.take_turn(turn.number, 0, arm, case)
                counts[case] += arm == ORACLE
        return [counts[case] for case in (ONE, FOUR)]

    return measured


def test_rounds_that_take_too_long_are_left_out_for_all_arms(rounds_of_cases) -> None:
    """Twelve slices of 1 ms after lead-ins of 5 ms may take 288 ms; no case has fewer than four rounds."""
    assert rounds_of_cases(6, 0, {ONE: 41_000_000, FOUR: 24_000_000}) == [module.MIN_ROUNDS, 6]


def test_only_a_case_whose_slices_scatter_has_further_rounds(rounds_of_cases) -> None:
    """The machine is slow in every third round, for both arms; in the other case the arms scatter by themselves."""
    random, quick = Random(1), {ONE: 1000, FOUR: 1000}

    def latency_ns(arm, case, number):
        machine = 15_000 if number % 3 else 10_000
        return round((1 + arm.replica) * machine * (random.uniform(0.8, 1.2) if case == FOUR else 1))

    assert rounds_of_cases(6, 4, quick, latency_ns) == [6, 10]


def test_rounds_end_as_soon_as_slices_scatter_no_more_than_processes_do(rounds_of_cases) -> None:
    """After an even number of rounds, as each order is followed by its reverse."""
    random, quick = Random(1), {ONE: 1000, FOUR: 1000}
    one, four = rounds_of_cases(6, 400, quick, lambda *_: round(1_000_000 * random.gauss(1, 0.05)))
    assert one % 2 == four % 2 == 0
    # Two arms: 400 rounds of 5 % come to 5 % * sqrt(pi / 400) = 0.44 %, and 79 to 1 %.
    assert 30 < one < 160
    assert 30 < four < 160


def test_further_rounds_take_no_more_than_four_times_the_planned_time(rounds_of_cases) -> None:
    random = Random(1)
    counts = rounds_of_cases(6, 400, {ONE: 12_000_000, FOUR: 24_000_000}, lambda *_: round(1e6 * random.gauss(1, 0.5)))
    assert counts == [13, 7]
