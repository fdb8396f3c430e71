import hashlib
from dataclasses import replace

import pytest

from bench.engine import block as block_module
from bench.engine.training_block import PART_NS, TrainingBlock
from bench.engine.workers import Unsupported, WorkerError
from bench.records import Conditions, Evidence, Failure, TrainedEpoch
from bench.suite.arms import Arm, Case
from bench.suite.schedule import MAX_SEED, PRESETS, Block, Round
from bench.suite.suite import Suite
from bench.worker.messages import (
    EpochReply,
    Evaluate,
    EvaluateReply,
    OpenTraining,
    OpenTrainingReply,
    ProofReply,
    ProveTraining,
    RunEpoch,
)
from models.recipes.learning_rate import learning_rates
from models.recipes.parse import load_recipe
from tests.engine.conftest import FakeGroup

CASE = Case("cnn-small", "training", 64)
TORCH, TENSORFLOW = Arm("pytorch", "train"), Arm("tensorflow", "train")
SUITE = Suite(
    name="school", summary="s", scenarios=("training",), models=("cnn-small",), batch_sizes=(64,),
    precisions=("fp32",), arm_patterns=(TORCH, TENSORFLOW), baselines=(TORCH,), primary=(),
    recipe=load_recipe("adam"), epochs=3,
)  # fmt: skip
ROUNDS = tuple(Round(CASE.id, number, (TORCH.id, TENSORFLOW.id)) for number in range(2))
EPOCH = EpochReply(128, 0.5, 10, 8, 1, "d", 7, 0)


@pytest.fixture
def group(monkeypatch):
    """Return the group that all arms are started as."""
    group = FakeGroup({
        OpenTraining: lambda _: OpenTrainingReply(1),
        RunEpoch: lambda _: EPOCH,
        Evaluate: lambda _: EvaluateReply(0.75, 0.6, 12),
        ProveTraining: lambda _: ProofReply("fp32", 1, ("k",), {}, 9),
    })  # fmt: skip
    monkeypatch.setattr(block_module, "start_group", lambda *_: group)
    monkeypatch.setattr(
        block_module.counters, "quiet_core_sets", lambda counts: {count: list(range(count)) for count in counts}
    )
    return group


@pytest.fixture
def run(context, tally, group, tmp_path):
    """Return a function that measures block 2 of a suite that trains on 128 images."""

    def run(suite=SUITE, seeds=2, seed=1):
        preset = replace(PRESETS["smoke"], seeds=seeds, training_images=128)
        plan = replace(context.plan, suite=suite, arms=(TORCH, TENSORFLOW), preset=preset, seed=seed)
        block = Block(number=2, cases=(CASE.id,), start=(TENSORFLOW.id, TORCH.id), rounds=ROUNDS)
        TrainingBlock(replace(context, plan=plan), tally, block).measure()

    return run


def of(kind, group):
    return [request for request in group.requests if isinstance(request, kind)]


def test_all_arms_start_from_the_same_weights_with_the_seed_of_the_block(run, group, context) -> None:
    run()
    # Arms are built side by side: which of them is first is not fixed.
    first, second = sorted(of(OpenTraining, group), key=lambda request: request.stack)
    assert (first.stack, second.stack) == ("pytorch", "tensorflow")
    assert replace(first, stack=second.stack) == second
    assert (first.seed, first.recipe.batch_size, first.cores, first.threads) == (3, 64, (0,), 1)
    assert first.weights == str(context.scratch / "initial-cnn-small.safetensors")


def test_other_seeds_start_from_other_weights(run, group, context) -> None:
    digests = set()
    for seed in (1, 2):
        run(seed=seed)
        digests.add(hashlib.sha256((context.scratch / "initial-cnn-small.safetensors").read_bytes()).hexdigest())
    assert len(digests) == 2


def test_the_seed_of_a_block_stays_in_range(run, group) -> None:
    run(seed=MAX_SEED - 1)
    assert {request.seed for request in of(OpenTraining, group)} == {1}


def test_a_short_epoch_is_one_turn_with_its_learning_rates(run, group, tally) -> None:
    run()
    expected = [tuple(learning_rates(SUITE.recipe, 3, 2, number)) for number in range(2)]
    assert [(request.epoch, request.learning_rates) for request in of(RunEpoch, group)] == [
        (number, expected[number]) for number in range(2) for _ in range(2)
    ]
    epochs = tally.journal.of(TrainedEpoch)
    assert [(epoch.arm, epoch.round, epoch.position) for epoch in epochs] == [
        (arm.id, number, position) for number in range(2) for position, arm in enumerate((TORCH, TENSORFLOW))
    ]
    assert {epoch.result for epoch in epochs} == {EPOCH}


@pytest.fixture
def slow(group):
    """Let epochs of two steps take so long that each step is a turn; return the reply to a request for an epoch."""

    def reply(request):
        steps = len(request.learning_rates) + request.goes_on
        return replace(EPOCH, images=64 * steps, wall_ns=steps * (PART_NS - request.epoch))

    group.replies[RunEpoch] = reply
    return reply


def test_arms_alternate_in_parts_of_an_epoch_after_the_first_one(run, group, tally, slow) -> None:
    run()
    rates = [learning_rates(SUITE.recipe, 3, 2, number) for number in range(2)]
    assert [(request.epoch, request.learning_rates, request.goes_on) for request in of(RunEpoch, group)] == [
        *[(0, tuple(rates[0]), False)] * 2,
        *[(1, (rates[1][0],), False)] * 2,
        *[(1, (rates[1][1],), True)] * 2,
    ]
    epochs = tally.journal.of(TrainedEpoch)
    assert [(epoch.arm, epoch.round, epoch.position) for epoch in epochs] == [
        (arm.id, number, position) for number in range(2) for position, arm in enumerate((TORCH, TENSORFLOW))
    ]
    whole, divided = slow(RunEpoch(0, 3, (0.1, 0.1))), slow(RunEpoch(1, 3, (0.1,), goes_on=True))
    assert [epoch.result for epoch in epochs] == [whole, whole, divided, divided]
    assert [epoch.parts_ns for epoch in epochs] == [*[(2 * PART_NS,)] * 2, *[(PART_NS - 1,) * 2] * 2]


def test_the_conditions_of_an_epoch_are_those_of_all_its_parts(run, tally, slow, monkeypatch) -> None:
    observed = iter([
        Conditions(idle, 10 * idle, None if idle == 3 else 5, None, idle / 2, 7, -idle, 100)
        for idle in range(1, 7)
    ])  # fmt: skip
    monkeypatch.setattr(TrainingBlock, "observe", lambda self, key, work: (work(), next(observed)))
    run()
    assert [epoch.conditions for epoch in tally.journal.of(TrainedEpoch)] == [
        Conditions(1, 10, 5, None, 0.5, 7, -1, 100),
        Conditions(2, 20, 5, None, 1.0, 7, -2, 100),
        Conditions(3 + 5, 80, None, None, 2.5, 7, -8, 200),
        Conditions(4 + 6, 100, 10, None, 3.0, 7, -10, 200),
    ]


def test_an_arm_that_fails_within_an_epoch_leaves_the_others_to_finish_it(run, tally, group, slow) -> None:
    turns = []

    def reply(request):
        turns.append(request)
        if len(turns) == 3:
            raise WorkerError("gone")
        return slow(request)

    group.replies[RunEpoch] = reply
    run()
    assert [(epoch.arm, epoch.round) for epoch in tally.journal.of(TrainedEpoch)] == [
        (TORCH.id, 0), (TENSORFLOW.id, 0), (TENSORFLOW.id, 1),
    ]  # fmt: skip
    assert [(failure.arm, failure.reason) for failure in tally.journal.of(Failure)] == [(TORCH.id, "gone")]


@pytest.mark.parametrize(
    ("seeds", "images", "accuracy"), [(2, None, 0.75), (1, None, None), (2, 128, None)],
    ids=["trains to the end", "trains two epochs", "trains on a part of the images"],
)  # fmt: skip
def test_accuracy_is_measured_only_after_a_full_training(run, tally, seeds, images, accuracy) -> None:
    run(replace(SUITE, images=images), seeds)
    assert {epoch.test_accuracy for epoch in tally.journal.of(TrainedEpoch)} == {accuracy}


def test_evidence_is_stored_with_the_memory_of_the_arm(run, tally) -> None:
    run()
    assert {record.kernels for record in tally.journal.of(Evidence)} == {("k",)}
    assert tally.memory_of(TORCH) == tally.memory_of(TENSORFLOW) == 9


def test_an_arm_that_is_unsupported_in_one_block_takes_no_part_in_the_next(run, tally, group) -> None:
    def refuse(request):
        if request.stack == "pytorch":
            raise Unsupported("no training")
        return OpenTrainingReply(1)

    group.replies[OpenTraining] = refuse
    run()
    run()
    assert tally.journal.of(Failure) == [Failure(TORCH.id, CASE.id, None, "no training", skipped=True)]
    assert {epoch.arm for epoch in tally.journal.of(TrainedEpoch)} == {TENSORFLOW.id}
