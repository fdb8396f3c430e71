"""From a journal of epochs to the results of training."""

from dataclasses import replace

import pytest

from bench.analysis import gates
from bench.analysis.speedups import ArmStatus, arm_status, speedups
from bench.analysis.training import learning_curve, trained_arms
from bench.records import Evidence, Failure, TrainedEpoch
from bench.run_info import PairInfo
from tests.analysis.recorded_run import (
    ACCURACIES,
    BLOCKS,
    EPOCHS,
    IPEX,
    SEEDS,
    TORCH,
    TORCH_AA,
    TRAINING_CASE,
    training_run,
)


@pytest.fixture
def builder(tmp_path):
    return training_run(tmp_path / "run")


def row(run):
    return next(row for row in speedups(run) if row.pair.arm == IPEX)


def trained(run, arm=IPEX):
    return next(row for row in trained_arms(run, TRAINING_CASE) if row.arm == arm)


def is_ipex(record) -> bool:
    return record.arm == IPEX.id


def test_the_first_epoch_is_a_warm_up_and_the_ratio_is_of_the_others(builder) -> None:
    faster = row(builder.read())
    assert faster.speedup == pytest.approx(1.5)
    assert faster.verdict.word == gates.FASTER
    assert faster.estimate.blocks == BLOCKS


def test_the_results_of_an_arm_are_those_of_its_epochs(builder) -> None:
    ipex = trained(builder.read())
    assert ipex.epoch_ns == pytest.approx(4.004e9)
    assert ipex.first_epoch_ns == pytest.approx(8.008e9)
    assert ipex.images_per_s == pytest.approx(60_000 / 4.004)
    assert ipex.wait_share == pytest.approx(0.01, rel=1e-3)
    assert (ipex.memory_bytes, ipex.epochs) == (7, 3 * EPOCHS + (BLOCKS - SEEDS) * 2)


def test_a_later_epoch_never_counts_as_the_first_of_its_block(builder) -> None:
    run = builder.remove(lambda record: isinstance(record, TrainedEpoch) and record.block > 1 and record.round == 0)
    assert trained(run.read()).first_epoch_ns == pytest.approx(8.008e9)


def test_time_to_accuracy_covers_all_epochs_until_then(builder) -> None:
    ipex = trained(builder.read())
    assert ipex.time_to_ns(0.90) == pytest.approx(12e9, rel=0.01)
    assert ipex.time_to_ns(0.91) == pytest.approx(16e9, rel=0.01)
    assert len(ipex.goals[0.91]) == SEEDS


def test_an_accuracy_that_no_seed_reaches_has_no_time(builder) -> None:
    run = builder.change(TrainedEpoch, is_ipex, test_accuracy=0.5).read()
    assert trained(run).time_to_ns(0.90) is None
    assert row(run).verdict.word == gates.WITHHELD
    assert "trained to 50.00%, less than 99% of 91.70% of pytorch train" in row(run).verdict.reason


def test_accuracy_is_the_mean_over_seeds_and_a_difference_is_compared_with_their_scatter(builder) -> None:
    run = builder.read()
    ipex = trained(run)
    assert ipex.final == {1: pytest.approx(0.916), 2: pytest.approx(0.917), 3: pytest.approx(0.918)}
    assert (ipex.accuracy, ipex.deviation) == (pytest.approx(0.917), pytest.approx(0.001))
    assert (ipex.difference.mean, ipex.difference.word) == (0, "within seed noise")
    assert [row.is_reference for row in trained_arms(run, TRAINING_CASE)] == [True, False, False]
    assert (ipex.difference.against, trained(run, TORCH).difference) == (TORCH, None)
    assert trained(run, TORCH_AA).difference.word == "within seed noise"


@pytest.mark.parametrize(("shifts", "word"), [
    ((0.004, 0.005, 0.006), "beyond seed noise"),
    ((0.004, -0.005, 0.006), "within seed noise"),
])  # fmt: skip
def test_a_difference_counts_if_it_is_the_same_for_every_seed(builder, shifts, word) -> None:
    for block, shift in enumerate(shifts, 1):
        last, place = ACCURACIES[-1] + block / 1000 + shift, (IPEX.id, block, 2)
        builder.change(
            TrainedEpoch, lambda turn, place=place: (turn.arm, turn.block, turn.round) == place, test_accuracy=last
        )
    assert trained(builder.read()).difference.word == word


def test_the_difference_of_two_seeds_has_no_interval(builder) -> None:
    builder.change(TrainedEpoch, lambda turn: turn.block == 3, test_accuracy=None)
    assert trained(builder.read()).difference.word == "too few seeds"


@pytest.mark.parametrize(("where", "change", "reason"), [
    (lambda turn: turn.block == 4 and turn.round == 1, {"digest": "x"}, "on different images, or in another order"),
    (lambda turn: turn.block == 4 and turn.round == 1, {"images": 59_968}, "on different images"),
    (lambda turn: turn.round == 0, {"loss": 0.6}, "the mean loss of the first epoch, 0.6000, is not the baseline's"),
    (lambda turn: True, {"test_accuracy": 0.98}, "is a leak"),
])  # fmt: skip
def test_unequal_work_is_withheld(builder, where, change, reason) -> None:
    withheld = row(builder.change(TrainedEpoch, lambda turn: is_ipex(turn) and where(turn), **change).read())
    assert withheld.verdict.word == gates.WITHHELD
    assert reason in withheld.verdict.reason


def test_the_loss_of_a_lower_precision_may_differ(builder) -> None:
    bf16 = replace(IPEX, precision="bf16")
    builder.replace_arm(IPEX, bf16)
    builder.change(TrainedEpoch, lambda turn: turn.arm == bf16.id and turn.round == 0, loss=0.6)
    assert speedups(builder.read())[0].verdict.word == gates.FASTER


def test_a_lower_precision_must_train_to_the_accuracy_of_fp32_even_if_its_baseline_fails_too(builder) -> None:
    lower = {arm: replace(arm, precision="bf16") for arm in (TORCH, IPEX)}
    for arm, bf16 in lower.items():
        builder.add_arm(bf16, like=arm)
        builder.change(
            TrainedEpoch,
            lambda turn, bf16=bf16: turn.arm == bf16.id and turn.test_accuracy is not None,
            test_accuracy=0.1,
        )
    pair = PairInfo(lower[IPEX].id, lower[TORCH].id, TRAINING_CASE.id, candidate=False)
    run = builder.describe(pairs=(*builder.info.pairs, pair)).read()
    withheld = next(row for row in speedups(run) if row.pair.arm == lower[IPEX])
    assert withheld.verdict.word == gates.WITHHELD
    assert "of pytorch train" in withheld.verdict.reason


def test_a_preset_that_claims_nothing_requires_no_accuracy(builder) -> None:
    run = builder.describe(preset="smoke").change(TrainedEpoch, is_ipex, test_accuracy=0.5).read()
    assert row(run).verdict.word == gates.UNRESOLVED


def test_a_process_without_proof_contributes_no_epoch(builder) -> None:
    builder.remove(lambda record: isinstance(record, Evidence) and record.block > 6)
    assert row(builder.read()).estimate.blocks == 6


def test_an_arm_that_diverged_is_a_row_with_its_reason(builder) -> None:
    builder.remove(is_ipex).records.append(
        Failure(IPEX.id, TRAINING_CASE.id, 1, "diverged: the loss of step 4 of 938 is nan")
    )
    run = builder.read()
    assert row(run).verdict.word == gates.FAILED
    assert "diverged" in row(run).verdict.reason
    assert arm_status(run, IPEX, TRAINING_CASE) == ArmStatus("failed", "diverged: the loss of step 4 of 938 is nan", 1)
    assert [run.trained_memory_bytes(arm, TRAINING_CASE) for arm in run.arms] == [7, 7, None]


def test_a_learning_curve_is_the_mean_over_seeds(builder) -> None:
    curve = learning_curve(builder.read(), IPEX, TRAINING_CASE)
    assert [seconds for seconds, _ in curve] == pytest.approx([8.008, 12.012, 16.016])
    assert [accuracy for _, accuracy in curve] == pytest.approx([accuracy + 0.002 for accuracy in ACCURACIES])
