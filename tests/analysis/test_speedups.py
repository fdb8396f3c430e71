"""From ratios to verdicts: what is claimed of a comparison, and what went wrong."""

from dataclasses import replace

import pytest

from bench.analysis import gates
from bench.analysis.speedups import (
    ArmStatus,
    arm_status,
    baselines_not_measured,
    failed,
    failed_aa_checks,
    pair_faults,
    speedups,
    withheld,
)
from bench.records import Check, Evidence, Failure, Parity, Proof, Slice
from tests.analysis.recorded_run import AA, BLOCKS, CASE, COMPILE, EAGER, JIT, inference_run


@pytest.fixture
def builder(tmp_path):
    return inference_run(tmp_path / "run")


def is_jit(record) -> bool:
    return record.arm == JIT.id


def row(run, arm, baseline):
    return next(row for row in speedups(run) if (row.pair.arm, row.pair.baseline) == (arm, baseline))


def test_a_clear_difference_is_claimed_with_its_size(builder) -> None:
    faster = row(builder.read(), JIT, EAGER)
    assert faster.verdict.word == gates.FASTER
    assert faster.speedup == pytest.approx(2, rel=0.01)
    assert faster.interval.low < 2 < faster.interval.high
    assert faster.estimate.blocks == BLOCKS


def test_the_primary_comparison_is_the_one_with_the_fastest_baseline_and_comes_first(builder) -> None:
    first, *others = speedups(builder.read())
    assert (first.pair.arm, first.pair.baseline, first.primary) == (JIT, COMPILE, True)
    assert not any(row.primary for row in others)


def test_holm_corrects_for_the_choice_of_the_baseline(builder) -> None:
    run = builder.read()
    p_values = [row(run, JIT, baseline).estimate.p_value for baseline in (EAGER, COMPILE)]
    assert p_values == [2 * 2 / 2**BLOCKS] * 2


def test_the_rows_of_a_run_are_computed_once(builder) -> None:
    run = builder.read()
    assert speedups(run) is speedups(run)


def test_the_aa_arm_is_equivalent_to_its_baseline(builder) -> None:
    run = builder.read()
    assert row(run, AA, EAGER).verdict.word == gates.EQUIVALENT
    assert failed_aa_checks(run) == []


def test_an_aa_comparison_that_shows_a_difference_is_reported(tmp_path) -> None:
    run = inference_run(tmp_path / "run", aa=220_000).read()
    assert failed_aa_checks(run) == [row(run, AA, EAGER)]


def test_one_failed_block_of_twenty_is_tolerated(builder) -> None:
    builder.remove(lambda record: isinstance(record, Evidence) and is_jit(record) and record.block == 3)
    builder.records.append(Failure(JIT.id, CASE.id, 3, "died"))
    run = builder.read()
    assert row(run, JIT, EAGER).verdict.word == gates.FASTER
    assert failed(run) == [(JIT, CASE, ArmStatus("measured", "died", 1))]


def test_more_than_five_percent_of_failed_blocks_withhold_the_verdict(builder) -> None:
    builder.records = [
        Failure(JIT.id, CASE.id, record.block, "died")
        if isinstance(record, Evidence) and is_jit(record) and record.block in (3, 4)
        else record
        for record in builder.records
    ]
    run = builder.read()
    verdict = row(run, JIT, EAGER).verdict
    assert verdict.word == gates.WITHHELD
    assert "2 of 20 blocks failed (died)" in verdict.reason
    assert withheld(run) == [row(run, JIT, COMPILE), row(run, JIT, EAGER)]


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        (Proof, {"max_abs_logit_diff": 0.1}, "oracle's by 0.1"),
        (Proof, {"agreement": 0.99}, "agree with the oracle's in 99.00%"),
        (Proof, {"accuracy": 0.98}, "leak"),
        (Parity, {"max_abs_logit_diff": 0.1}, "baseline's by 0.1"),
    ],
)
def test_a_failed_gate_withholds_the_verdict(builder, kind, change, reason) -> None:
    run = builder.change(kind, is_jit, **change).read()
    verdict = row(run, JIT, EAGER).verdict
    assert verdict.word == gates.WITHHELD
    assert reason in verdict.reason
    assert pair_faults(run, JIT, EAGER, CASE) == [verdict.reason]


def test_a_pair_that_is_not_in_the_run_is_checked_by_its_arms(builder) -> None:
    run = builder.change(Proof, is_jit, agreement=0.99).read()
    (fault,) = pair_faults(run, EAGER, JIT, CASE)
    assert "ipex jit: labels agree" in fault
    assert pair_faults(run, EAGER, COMPILE, CASE) == []


def test_disturbed_rounds_are_left_out_of_a_second_estimate(builder) -> None:
    builder.change(Slice, lambda turn: turn.round == 0 and is_jit(turn), steal_ns=10**6, samples_ns=(800_000,))
    run = builder.read()
    assert len(run.disturbed_rounds) == BLOCKS
    assert row(run, JIT, EAGER).undisturbed.speedup == pytest.approx(2, rel=0.01)


def test_smoke_has_no_interval_and_claims_nothing(tmp_path) -> None:
    run = inference_run(tmp_path / "run", preset="smoke", compiled=1e5).read()
    unresolved = row(run, JIT, EAGER)
    assert (unresolved.interval, unresolved.verdict.word) == (None, gates.UNRESOLVED)


def test_environments_with_different_versions_make_a_pair_unmatched(builder) -> None:
    run = builder.describe(mismatches={"ipex vanilla": {"numpy": ("1", "2")}}).read()
    assert row(run, JIT, EAGER).matched is False
    assert row(run, COMPILE, EAGER).matched is True


def test_a_pair_without_one_of_its_environments_is_neither_matched_nor_unmatched(builder) -> None:
    run = builder.describe(environments={"vanilla": builder.info.environments["vanilla"]}).read()
    assert row(run, JIT, EAGER).matched is None


def test_an_arm_that_was_skipped_is_a_row_with_its_reason(builder) -> None:
    builder.remove(lambda record: getattr(record, "arm", "") == JIT.id)
    builder.records.append(Failure(JIT.id, CASE.id, None, "does not exist", skipped=True))
    run = builder.read()
    assert row(run, JIT, EAGER).verdict.word == gates.SKIPPED
    assert arm_status(run, JIT, CASE) == ArmStatus("skipped", "does not exist", 0)
    assert run.typical_latency_ns(JIT, CASE) is None
    assert failed(run) == []


def test_an_arm_without_a_record_failed_because_the_run_ended(builder) -> None:
    run = builder.remove(lambda record: getattr(record, "arm", "") == COMPILE.id).read()
    assert arm_status(run, COMPILE, CASE) == ArmStatus("failed", "the run ended before it was measured", 0)
    assert row(run, JIT, COMPILE).verdict.word == gates.FAILED
    assert baselines_not_measured(run, row(run, JIT, EAGER).pair) == ["pytorch compile"]


def test_the_checks_of_processes_without_a_steady_state_are_kept(builder) -> None:
    builder.records.append(Check(JIT.id, CASE.id, 1, 10, "x", 0.0, (1, 2, 3), steady=False))
    assert [check.steady for check in builder.read().checks[JIT.id, CASE.id]] == [False]


def test_without_the_comparison_of_outputs_nothing_is_claimed(builder) -> None:
    run = builder.remove(lambda record: isinstance(record, Parity)).read()
    assert row(run, JIT, EAGER).verdict.word == gates.WITHHELD


def test_random_weights_have_no_accuracy_to_compare(builder) -> None:
    bf16 = replace(JIT, precision="bf16")
    builder.replace_arm(JIT, bf16).change(Proof, lambda record: record.arm == bf16.id, accuracy=0.5)
    fault, *_ = pair_faults(builder.read(), bf16, bf16, CASE)
    assert "accuracy 50.00% is less than 99% of fp32's 90.00%" in fault
    untrained = replace(builder.info.models[CASE.model], trained=False)
    assert pair_faults(builder.describe(models={CASE.model: untrained}).read(), bf16, bf16, CASE) == []
