"""Which groups of ranks stay in a block and which leave it; no processes are started."""

from dataclasses import replace

import pytest

from bench.engine import block as block_module
from bench.engine.scaling import block as module
from bench.engine.scaling.block import ScalingBlock
from bench.engine.workers import WorkerError
from bench.records import Evidence, Failure, SingleEpoch
from bench.suite.arms import STRONG, WEAK, Arm
from bench.suite.schedule import Block, Round
from bench.suite.suite import Suite
from bench.worker.messages import (
    DigestWeights,
    EpochReply,
    Listen,
    ListenReply,
    OpenTraining,
    OpenTrainingReply,
    ProofReply,
    ProveTraining,
    RunEpoch,
    WeightsReply,
)
from models.recipes.parse import load_recipe
from tests.engine.conftest import FakeGroup

ARM = Arm("pytorch", "train")
SUITE = Suite(
    name="classes", summary="s", scenarios=("training",), models=("cnn-small",), batch_sizes=(64,),
    precisions=("fp32",), arm_patterns=(ARM,), baselines=(ARM,), primary=(), recipe=load_recipe("adam"), epochs=2,
    workers=(1, 2), scaling=(STRONG, WEAK),
)  # fmt: skip
ONE, BOTH, EACH = (case.id for case in SUITE.cases)
BLOCK = Block(2, (ONE, BOTH, EACH), (ARM.id,), tuple(Round(case.id, 0, (ARM.id,)) for case in SUITE.cases))
LOST = "proof failed: no epoch of one worker to compare its losses with"


@pytest.fixture
def run(context, tally, monkeypatch):
    """Return a function that measures a block in which some requests fail, by their type, name and number of ranks."""
    proof = ProofReply("fp32", 1, ("k",), {}, 9, (0, 1))
    replies = {
        Listen: lambda _: ListenReply("127.0.0.1:1"),
        OpenTraining: lambda _: OpenTrainingReply(1),
        RunEpoch: lambda _: EpochReply(128, 0.5, 10, 8, 1, "0" * 64, 7, 0, (0.5,)),
        DigestWeights: lambda _: WeightsReply("d", (), (0, 1)[:0]),
        ProveTraining: lambda _: proof,
    }
    monkeypatch.setattr(module, "start_group", lambda _, arm, split, *__: FakeGroup(replies, split.streams))
    monkeypatch.setattr(
        block_module.counters, "quiet_core_sets", lambda counts: {count: list(range(count)) for count in counts}
    )

    def run(errors=()) -> None:
        def request_of_ranks(group, requests, _):
            place = type(requests[0]), getattr(requests[0], "name", ""), len(requests)
            if place in errors:
                raise WorkerError("exited")
            return group.request_each(requests, 1)

        monkeypatch.setattr(module, "request_of_ranks", request_of_ranks)
        plan = replace(context.plan, suite=SUITE, arms=(ARM,))
        ScalingBlock(replace(context, plan=plan), tally, BLOCK).measure()

    return run


def failures(tally) -> dict[str, str]:
    return {failure.case: failure.reason for failure in tally.journal.of(Failure)}


def proven(tally) -> list[str]:
    return [evidence.case for evidence in tally.journal.of(Evidence)]


def test_each_case_is_proven_and_each_group_has_an_epoch_of_one_worker(run, tally) -> None:
    run()
    assert not failures(tally)
    assert proven(tally) == [ONE, BOTH, EACH]
    assert [single.case for single in tally.journal.of(SingleEpoch)] == [BOTH, EACH]
    assert [tally.memory_of(ARM, count) for count in (1, 2)] == [9, 18]


@pytest.mark.parametrize("kind", [OpenTraining, RunEpoch])
def test_an_error_of_one_worker_alone_leaves_strong_scaling_in_the_block(run, tally, kind) -> None:
    run({(kind, EACH, 1)})
    assert failures(tally) == {ONE: "as one worker, with the batches of 2: exited", EACH: LOST}
    assert proven(tally) == [BOTH]


def test_a_block_without_one_worker_proves_nothing_of_its_groups(run, tally) -> None:
    run({(RunEpoch, ONE, 1)})
    assert failures(tally) == {ONE: "exited", BOTH: LOST, EACH: LOST}
    assert not proven(tally)


def test_memory_is_reserved_for_all_groups_of_a_block_and_the_same_one_stays_out_later(run, tally, monkeypatch) -> None:
    """Each group fits alone: the second is refused although the first has not taken its memory yet."""
    monkeypatch.setattr(block_module.resources, "memory_available_bytes", lambda: 3 * 10**9)
    tally.add_memory(ARM, 10**9, 1)
    tally.add_memory(ARM, 25 * 10**8, 2)
    run()
    reason = "2.5 GB needed and 2.0 GB of memory available; measure fewer arms at a time: --stack, --workers"
    assert failures(tally) == {BOTH: reason, EACH: reason}
    assert proven(tally) == [ONE]
    monkeypatch.setattr(block_module.resources, "memory_available_bytes", lambda: 10**10)
    tally.journal.clear()
    run()
    assert failures(tally) == {BOTH: reason, EACH: reason}
