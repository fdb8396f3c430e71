import os
import signal
import time
from dataclasses import replace
from threading import Barrier, Event, main_thread

import numpy as np
import pytest

from bench.engine.proof import proof_pass as module
from bench.engine.proof.proof_pass import Candidate, compute_references, prove_arms
from bench.engine.workers import WorkerError
from bench.records import Failure, Parity, Proof, Reference, Start
from bench.suite.arms import BEST_THREADS, Arm, Pair, Split
from bench.worker.messages import (
    Build,
    BuildReply,
    Predict,
    ProofReply,
    Prove,
    Save,
    SaveReply,
)
from tests.engine.conftest import FOUR, ONE, ORACLE, REPLICA, FakeGroup
from tests.engine.proof.conftest import CountedSteps, write_logits

PROOF = ProofReply("fp32", 1, ("k",), {"v": "1"}, 5)
measures_starts, measures_none = (
    pytest.mark.parametrize("context", [cold_starts], indirect=True, ids=[""]) for cold_starts in (True, False)
)


@pytest.fixture(params=[True, False], ids=["cold starts", "none"])
def context(context, request):
    """Return the context of a run that measures cold starts, or of one that does not."""
    preset = replace(context.plan.preset, cold_starts=request.param)
    return replace(context, plan=replace(context.plan, preset=preset))


@pytest.fixture
def start(monkeypatch, context, tally):
    """Return a function that makes arms start as the groups that it is given, one after the other."""
    compute_references(context, tally, CountedSteps())
    monkeypatch.setattr(module, "quiet_core_sets", lambda counts: {count: list(range(count)) for count in counts})

    def start(*groups):
        remaining = iter(groups)
        monkeypatch.setattr(module, "start_group", lambda *_: next(remaining))

    return start


def group(logits, prove=lambda _: PROOF) -> FakeGroup:
    return FakeGroup({
        Build: lambda _: BuildReply(1, 2, 3),
        Predict: write_logits(logits),
        Prove: prove,
        Save: lambda _: SaveReply(7),
    })  # fmt: skip


def test_references_are_stored_and_then_read_from_the_cache(context, tally, monkeypatch) -> None:
    steps = CountedSteps()
    compute_references(context, tally, steps)
    monkeypatch.setattr(module.oracle, "logits", None)
    compute_references(context, tally, steps)
    first, again = tally.journal
    assert first == again
    assert isinstance(first, Reference)
    assert first.truth == "".join(map(str, context.data.test_labels))
    assert len(first.labels) == len(first.truth) == len(tally.oracle["cnn-small"])
    assert [weight for weight, _ in steps] == [module.ORACLE_WEIGHT] * 2


def test_an_arm_proves_all_cases_in_one_process(context, tally, start) -> None:
    proven = group(tally.oracle["cnn-small"])
    start(proven)
    steps = CountedSteps()
    prove_arms(context, tally, steps)
    starts = [Start(ORACLE.id, ONE.id, False, 1, 2, 3)] if context.plan.preset.cold_starts else []
    assert tally.journal.of(Start) == starts
    proofs = tally.journal.of(Proof)
    assert [(proof.case, proof.agreement, proof.saved_bytes, proof.memory_bytes) for proof in proofs] == [
        (ONE.id, 1.0, 7, 5), (FOUR.id, 1.0, 7, 5),
    ]  # fmt: skip
    assert tally.labels.keys() == {(ORACLE.id, ONE.id), (ORACLE.id, FOUR.id)}
    assert tally.memory_of(ORACLE) == 5
    assert sum(weight for weight, _ in steps) == module.START_WEIGHT + module.PROOF_WEIGHT
    assert proven.stopped


def test_the_progress_includes_arms_whose_splits_have_all_failed(context, tally) -> None:
    (group,) = context.plan.groups
    best = replace(group, cases=tuple(replace(case, threads=BEST_THREADS) for case in group.cases))
    steps = CountedSteps()
    prove_arms(replace(context, plan=replace(context.plan, groups=(best,))), tally, steps)
    assert sum(weight for weight, _ in steps) == module.START_WEIGHT + module.PROOF_WEIGHT
    assert all(what.startswith("oracle numpy: no ") for _, what in steps)
    assert not tally.journal


def test_a_replica_is_compared_by_the_proof_of_its_original(context, tally, start) -> None:
    start(group(tally.oracle["cnn-small"]))
    prove_arms(context, tally, CountedSteps())
    assert tally.journal.of(Parity) == [Parity(REPLICA.id, ORACLE.id, case.id, 0.0, 1.0) for case in (ONE, FOUR)]


def test_after_a_failure_the_next_case_is_proved_in_a_new_process(context, tally, start) -> None:
    logits = tally.oracle["cnn-small"]
    start(group(logits + 0.01), group(logits))
    prove_arms(context, tally, CountedSteps())
    (failure,) = tally.journal.of(Failure)
    assert (failure.arm, failure.case, failure.block, failure.skipped) == (ORACLE.id, ONE.id, None, False)
    assert failure.reason.startswith("proof failed: logits differ from the oracle's by 0.01")
    assert tally.labels.keys() == {(ORACLE.id, FOUR.id)}


def test_only_the_largest_batch_is_proved_on_all_images_once_for_each_model(context, tally, start, monkeypatch) -> None:
    monkeypatch.setattr(module.gates, "PARITY_IMAGES", 5)
    twice = replace(context, plan=replace(context.plan, groups=context.plan.groups * 2))
    start(*(group(tally.oracle["cnn-small"]) for _ in range(2)))
    prove_arms(twice, tally, CountedSteps())
    assert [(proof.case, proof.images, len(proof.labels)) for proof in tally.journal.of(Proof)] == [
        (ONE.id, 5, 5), (FOUR.id, 12, 12), (ONE.id, 5, 5), (FOUR.id, 5, 5),
    ]  # fmt: skip


def test_a_case_is_proved_on_all_images_after_all_if_the_largest_batch_fails(
    context, tally, start, monkeypatch
) -> None:
    monkeypatch.setattr(module.gates, "PARITY_IMAGES", 5)
    proofs = iter([PROOF, replace(PROOF, threads=9), PROOF])
    logits = tally.oracle["cnn-small"]
    start(group(logits, lambda _: next(proofs)), group(logits, lambda _: next(proofs)))
    prove_arms(context, tally, CountedSteps())
    assert [failure.case for failure in tally.journal.of(Failure)] == [FOUR.id]
    assert [(proof.case, proof.images) for proof in tally.journal.of(Proof)] == [(ONE.id, 5), (ONE.id, 12)]
    assert len(tally.labels[ORACLE.id, ONE.id]) == 12


def test_arms_with_different_numbers_of_images_are_compared_on_those_of_both(context, tally, monkeypatch) -> None:
    other = Arm("toy", "good")
    monkeypatch.setattr(module, "planned_pairs", lambda _: [Pair(other, ORACLE, ONE)])
    logits = {ORACLE.id: {ONE: np.eye(10)[:4]}, other.id: {ONE: np.eye(10)[:7]}}
    module._compare_pairs(context, tally, logits)
    assert tally.journal.of(Parity) == [Parity(other.id, ORACLE.id, ONE.id, 0.0, 1.0)]


def test_one_label_in_as_many_images_as_prove_parity_may_differ() -> None:
    images = module.gates.PARITY_IMAGES
    assert module.gates.parity_fault("fp32", 0.0, (images - 1) / images, "oracle") is None
    assert module.gates.parity_fault("fp32", 0.0, (images - 2) / images, "oracle")


@pytest.fixture
def two_arms(context, tally, start, monkeypatch):
    """Return a function that proves two arms on two cores, and returns the builds and predictions in their order.

    Each waits for the other when it gets the first request of the type `meet`.
    """

    def two_arms(meet: type | None = None) -> list[tuple[str, str, tuple[int, ...]]]:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        monkeypatch.setattr(module.facts, "usable_cores", lambda: 2)
        other = replace(ORACLE, settings="malloc")
        (both,) = context.plan.groups
        plan = replace(context.plan, groups=(replace(both, arms=(ORACLE, other, REPLICA)),))
        events, barrier = [], Barrier(2, timeout=300)

        def recorded(name: str) -> FakeGroup:
            made = group(tally.oracle["cnn-small"])
            # Predictions are in a file by process; both are written at the same time.
            made.workers[0].pid += name == "second"
            replies = dict(made.replies)

            def meets(request):
                if type(request) is meet and request.case == ONE.id:
                    barrier.wait()
                return replies[type(request)](request)

            made.replies[Build] = lambda request: events.append((name, request.case, request.cores)) or meets(request)
            made.replies[Predict] = meets
            return made

        start(recorded("first"), recorded("second"))
        prove_arms(replace(context, plan=plan), tally, CountedSteps())
        return events

    return two_arms


@measures_starts
def test_arms_start_alone_and_prove_their_work_together(two_arms) -> None:
    """Both arms have had their cold start before one of them predicts; each gets a core of its own."""
    events = two_arms(meet=Predict)
    assert events[:2] == [("first", ONE.id, (0,)), ("second", ONE.id, (0,))]
    assert sorted(events[2:]) == [("first", FOUR.id, (1,)), ("second", FOUR.id, (0,))]


@measures_none
def test_without_cold_starts_arms_start_beside_each_other(two_arms) -> None:
    events = two_arms(meet=Build)
    assert sorted(events[:2]) == [("first", ONE.id, (0,)), ("second", ONE.id, (1,))]
    assert sorted(events[2:]) == [("first", FOUR.id, (0,)), ("second", FOUR.id, (1,))]


def test_an_arm_that_does_not_fit_into_memory_beside_others_waits_for_their_end(context, two_arms, monkeypatch) -> None:
    """Each uses 2 GB, and 1 GB is left beside the first."""
    monkeypatch.setattr(module.resources, "memory_used_bytes", lambda _: 2 * 10**9)
    monkeypatch.setattr(module.resources, "memory_available_bytes", lambda: 10**9)
    events = two_arms()
    assert [(name, case) for name, case, _ in events] == [
        (name, case.id) for name in ("first", "second") for case in (ONE, FOUR)
    ]


@measures_none
def test_an_arm_that_has_just_started_counts_with_the_memory_that_it_will_need(two_arms, monkeypatch) -> None:
    monkeypatch.setattr(module.resources, "memory_used_bytes", lambda _: 10**7)
    monkeypatch.setattr(module.resources, "memory_available_bytes", lambda: 2 * module.GROWING_BYTES - 10**8)
    assert [name for name, _, _ in two_arms()] == ["first", "first", "second", "second"]


@measures_none
def test_without_cold_starts_no_arm_is_built_while_another_is_converted(two_arms, context, tally, monkeypatch) -> None:
    """The time of a conversion is stored, and later runs report it."""
    converted = []

    def convert(*_):
        assert not tally.journal.of(Proof)
        converted.append(len(built))

    built = []
    monkeypatch.setattr(module, "converted_files", convert)
    monkeypatch.setattr(
        module, "_build_cases", lambda *given, build=module._build_cases: built.append(1) or build(*given)
    )
    two_arms()
    assert (converted, len(built)) == ([0, 0], 2)


class Broken(FakeGroup):
    def wait_until_ready(self):
        raise WorkerError("broken")


@measures_none
@pytest.mark.parametrize(
    ("broken", "failed", "proved"),
    [("start", ONE, FOUR), ("first line", ONE, FOUR), (ONE.id, ONE, FOUR), (FOUR.id, FOUR, ONE)],
)
def test_without_cold_starts_the_other_case_of_a_broken_start_is_proved(
    context, tally, start, monkeypatch, broken, failed, proved
) -> None:
    def build(request: Build) -> BuildReply:
        if request.case == broken:
            raise WorkerError("broken")
        return BuildReply(1, 2, 3)

    first, second = (group(tally.oracle["cnn-small"]) for _ in range(2))
    first.replies[Build] = build
    start(Broken({}) if broken == "first line" else first, second)
    if broken == "start":
        starts = iter([None, second])
        monkeypatch.setattr(module, "start_group", lambda *_: next(starts) or Broken({}).wait_until_ready())
    steps = CountedSteps()
    prove_arms(context, tally, steps)
    assert [(failure.case, failure.reason) for failure in tally.journal.of(Failure)] == [(failed.id, "broken")]
    assert tally.labels.keys() == {(ORACLE.id, proved.id)}
    assert sum(weight for weight, _ in steps) == module.START_WEIGHT + module.PROOF_WEIGHT
    assert second.stopped
    assert first.stopped == (broken in (ONE.id, FOUR.id))


@pytest.mark.parametrize(
    ("context", "request_type"), [(True, Predict), (False, Predict), (False, Build)], indirect=["context"]
)
def test_an_interrupt_stores_no_failure_of_the_arms_that_it_kills(context, tally, start, request_type) -> None:
    """The thread in which an arm is waited for sees that it was killed."""
    killed = Event()
    waiting = group(tally.oracle["cnn-small"])
    waiting.kill = killed.set

    def wait_until_killed(_):
        signal.pthread_kill(main_thread().ident, signal.SIGINT)
        killed.wait(300)
        raise WorkerError("was killed by SIGKILL")

    waiting.replies[request_type] = wait_until_killed
    start(waiting)
    with pytest.raises(KeyboardInterrupt):
        prove_arms(context, tally, CountedSteps())
    assert killed.is_set()
    assert waiting.stopped
    assert not tally.journal.of(Failure)


def test_a_retry_that_does_not_start_leaves_nothing_proved(context, tally, start, monkeypatch) -> None:
    """The case with the largest batch fails, and the other one, which was proved on fewer images, can't be retried."""
    monkeypatch.setattr(module.gates, "PARITY_IMAGES", 5)
    proofs = iter([PROOF, replace(PROOF, threads=9)])
    first = group(tally.oracle["cnn-small"], lambda _: next(proofs))
    start(first, Broken({}))
    prove_arms(context, tally, CountedSteps())
    assert [failure.case for failure in tally.journal.of(Failure)] == [FOUR.id, ONE.id]
    assert not tally.labels
    assert not tally.journal.of(Parity)
    assert first.stopped


@measures_none
@pytest.mark.parametrize(("workers", "beside"), [(1, 3), (2, 1), (3, 0), (9, 0)])
def test_at_most_as_many_workers_start_at_a_time_as_cores_and_two(
    context, tally, start, monkeypatch, workers, beside
) -> None:
    monkeypatch.setattr(module.facts, "usable_cores", lambda: 2)
    monkeypatch.setattr(module, "workers_and_threads", lambda *_: (workers, 1))
    building, most = set(), []

    def build(context, tally, candidate, group):
        building.add(candidate)
        most.append(len(building) - 1)
        time.sleep(0.05)
        building.remove(candidate)
        return candidate.cases[0], WorkerError("enough")

    monkeypatch.setattr(module, "_build_cases", build)
    (both,) = context.plan.groups
    arms = tuple(replace(ORACLE, settings=str(number)) for number in range(6))
    start(*(group([]) for _ in range(12)))
    prove_arms(replace(context, plan=replace(context.plan, groups=(replace(both, arms=arms),))), tally, CountedSteps())
    assert max(most) <= beside
    assert len(most) == 12


@pytest.mark.parametrize(
    ("threads", "usable", "quota", "expected"),
    [
        ((1, 1, 1, 1), 2, 2, {0: [1], 1: [0]}),
        # Arms that are negative can't move: both start on core 0.
        ((1, -1, 1, -1), 2, 2, {0: [1], 1: [0]}),
        ((-1, -1, 1, 1), 4, 4, {0: [0], 2: [1], 3: [2]}),
        ((2, 2, 2, 2), 2, 2, {0: [0, 1]}),
        ((2, 2, 2, 2), 8, 8, {0: [2, 3], 1: [4, 5], 2: [6, 7], 3: [0, 1]}),
        ((2, 2, 2, 2), 8, 5, {0: [2, 3], 1: [4, 5]}),
        # Each arm has its own best number of threads.
        ((2, -6, 1, 2), 8, 8, {0: [6, 7], 1: [0, 1, 2, 3, 4, 5]}),
    ],
)
def test_arms_prove_their_work_side_by_side_on_disjoint_cores(threads, usable, quota, expected, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)))
    monkeypatch.setattr(module.facts, "usable_cores", lambda: quota)
    monkeypatch.setattr(module, "can_move", lambda arm, _: arm.delay == 0)
    waiting = [
        Candidate(replace(ORACLE, settings=str(index), delay=float(count < 0)), [ONE], Split(1, 1), range(abs(count)))
        for index, count in enumerate(threads)
    ]
    assert {int(one.arm.settings): one.own for one in module._side_by_side(waiting)} == expected
