"""How training scales with the number of workers: efficiency, and the gates of a group."""

from dataclasses import replace

import pytest

from bench.analysis.gates import WITHHELD, curve_fault
from bench.analysis.scaling import WORKERS, sweeps
from bench.analysis.speedups import speedups
from bench.analysis.training import scaling_faults
from bench.records import Failure, SingleEpoch, TrainedEpoch
from bench.run_info import PairInfo
from bench.suite.arms import Case
from tests.analysis.recorded_run import IPEX, TORCH, TORCH_AA, TRAINING_CASE, training_run

ONE = replace(TRAINING_CASE, workers=1)
STRONG, WEAK = (replace(TRAINING_CASE, workers=2, scaling=way) for way in ("strong", "weak"))
LOSSES = (2.0, 1.0)
# How many times as fast as one worker two of them are.
GAINS = {STRONG: 1.6, WEAK: 1.8}


def workers_run(folder):
    """Return a run on one worker, and on two in both ways of scaling, each in the same blocks."""
    builder = training_run(folder)
    epochs = [record for record in builder.records if isinstance(record, TrainedEpoch)]
    rest = [record for record in builder.records if not isinstance(record, TrainedEpoch)]
    builder.records = []
    for case, gain in {ONE: 1.0, **GAINS}.items():
        for record in epochs:
            result = replace(record.result, losses=LOSSES, wall_ns=round(record.wall_ns / gain))
            builder.records.append(replace(record, case=case.id, result=result, test_accuracy=None))
            if record.round == 0 and case != ONE:
                digest = record.result.digest
                builder.records.append(SingleEpoch(record.arm, case.id, record.block, digest, LOSSES))
        builder.records += [replace(record, case=case.id) for record in rest]
    arms = tuple(arm.id for arm in (TORCH, TORCH_AA, IPEX))
    cases = (ONE, STRONG, WEAK)
    pairs = tuple(PairInfo(arm.id, TORCH.id, case.id, candidate=False) for case in cases for arm in (TORCH_AA, IPEX))
    return builder.describe(cases=cases, lineups={case.id: arms for case in cases}, pairs=pairs, threads=1)


def test_the_ids_and_labels_of_cases_tell_them_apart() -> None:
    assert [case.id.rpartition("/")[2] for case in (ONE, STRONG, WEAK)] == ["w1", "w2-strong", "w2-weak"]
    assert WEAK.label == "cnn-small, training, batch 64 each, 2 workers, weak scaling"
    assert [case.global_batch_size for case in (ONE, STRONG, WEAK)] == [64, 64, 128]
    assert Case("cnn-small", "training", 64).id == TRAINING_CASE.id == "cnn-small/training/b64"


def test_efficiency_is_the_throughput_of_workers_divided_by_that_of_as_many_single_ones(tmp_path) -> None:
    run = workers_run(tmp_path / "r").read()
    strong, weak = sweeps(run)
    assert (strong.over, strong.cases, weak.cases) == (WORKERS, (ONE, STRONG), (ONE, WEAK))
    for sweep, gain in ((strong, 1.6), (weak, 1.8)):
        first, second = next(curve for curve in sweep.curves if curve.arm == TORCH).points
        assert first.efficiency is None
        assert second.efficiency == pytest.approx(gain / 2)
        assert second.efficiency_interval.low == pytest.approx(gain / 2)
        assert second.images_per_s == pytest.approx(first.images_per_s * gain)
        assert second.faults == ()


def test_a_case_of_workers_uses_the_cores_of_all_of_them(tmp_path) -> None:
    run = workers_run(tmp_path / "r").read()
    assert [run.split(TORCH, case).cores for case in (ONE, STRONG, WEAK)] == [1, 2, 2]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"losses": (2.01, 1.0)}, "the loss in part 1 of 2 of the first epoch, 2.00000, is not one worker's 2.01000"),
        ({"losses": (2.0, 1.1)}, "the loss in part 2 of 2"),
        ({"losses": ()}, "2 parts of an epoch have a loss, and 0 of one worker's"),
        ({"digest": "other"}, "had other images than one worker, or in another order"),
        ({"block": 999}, "20 of 20 blocks have no epoch of one worker to compare its losses with"),
    ],
)
def test_a_group_that_trains_unlike_one_worker_is_withheld(tmp_path, change, reason) -> None:
    builder = workers_run(tmp_path / "r")
    run = builder.change(SingleEpoch, lambda one: (one.arm, one.case) == (IPEX.id, WEAK.id), **change).read()
    rows = {row.pair.case: row for row in speedups(run) if row.pair.arm == IPEX}
    assert rows[WEAK].verdict.word == WITHHELD
    assert reason in rows[WEAK].verdict.reason
    assert rows[STRONG].verdict.word != WITHHELD
    point = next(curve for curve in sweeps(run)[1].curves if curve.arm == IPEX).points[1]
    assert point.faults != ()


def test_one_block_without_an_epoch_of_one_worker_is_not_trusted(tmp_path) -> None:
    builder = workers_run(tmp_path / "r")
    lost = next(
        one for one in builder.records if isinstance(one, SingleEpoch) and (one.arm, one.case) == (IPEX.id, WEAK.id)
    )
    builder.records.remove(lost)
    assert scaling_faults(builder.read(), IPEX, WEAK) == [
        "1 of 20 blocks have no epoch of one worker to compare its losses with"
    ]


@pytest.mark.parametrize("lost", [STRONG, ONE])
def test_an_efficiency_is_withheld_if_either_side_lost_over_five_percent_of_its_blocks(tmp_path, lost) -> None:
    builder = workers_run(tmp_path / "r")
    builder.records += [Failure(IPEX.id, lost.id, block, "exited") for block in (98, 99)]
    strong, weak = sweeps(builder.read())
    fault = f"{lost.label}: 2 of 22 blocks failed (exited)"
    for sweep, faults in ((strong, (fault,)), (weak, (fault,) if lost == ONE else ())):
        curves = {curve.arm: curve.points[1].faults for curve in sweep.curves}
        assert curves == {TORCH: (), IPEX: faults}


def test_lower_precisions_have_one_limit_for_all_parts() -> None:
    assert curve_fault("bf16", (2.0, 1.0), (2.05, 1.0)) is None
    assert curve_fault("fp32", (2.0, 1.0), (2.05, 1.0)) is not None
    assert curve_fault("bf16", (float("nan"), 1.0), (2.0, 1.0)) is not None
