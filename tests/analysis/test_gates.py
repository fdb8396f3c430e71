import math
from dataclasses import replace

import pytest

from bench.analysis import gates
from bench.analysis.gates import (
    Estimate,
    judge,
    leak_fault,
    parity_fault,
    precision_fault,
    reduction_fault,
    repetition_fault,
)
from bench.analysis.stats import Interval
from bench.suite.schedule import PRESETS

STANDARD = PRESETS["standard"]


def estimate(ratio=1.2, low=1.15, high=1.25, p_value=0.001) -> Estimate:
    """Return an estimate whose three intervals agree."""
    interval = Interval(math.log(low), math.log(high))
    return Estimate(20, math.log(ratio), interval, interval, (interval, interval), p_value)


def test_faster_and_slower_need_an_interval_without_one_and_an_estimate_outside_the_band() -> None:
    assert judge(estimate(), 0.01, STANDARD).word == gates.FASTER
    assert judge(estimate(1 / 1.2, 1 / 1.25, 1 / 1.15), 0.01, STANDARD).word == gates.SLOWER


def test_an_estimate_inside_the_band_is_unresolved() -> None:
    verdict = judge(estimate(), math.log(1.3), STANDARD)
    assert verdict.word == gates.UNRESOLVED
    assert "A/A band" in verdict.reason


def test_an_interval_that_includes_1_is_unresolved_and_estimates_the_further_blocks() -> None:
    verdict = judge(estimate(1.05, 0.95, 1.16), 0.001, STANDARD)
    assert verdict.word == gates.UNRESOLVED
    assert "includes 1" in verdict.reason
    assert "further blocks" in verdict.reason


def test_a_sign_interval_that_disagrees_leaves_it_unresolved() -> None:
    doubtful = replace(estimate(), sign_interval=Interval(-0.1, 0.3))
    assert "sign-test" in judge(doubtful, 0.01, STANDARD).reason


def test_holm_can_take_a_verdict_back() -> None:
    assert "Holm" in judge(estimate(p_value=0.2), 0.01, STANDARD).reason


def test_equivalent_needs_the_whole_90_percent_interval_within_two_percent() -> None:
    assert judge(estimate(1.001, 0.99, 1.012), 0.001, STANDARD).word == gates.EQUIVALENT
    assert judge(estimate(1.001, 0.97, 1.012), 0.001, STANDARD).word == gates.UNRESOLVED


def test_equivalent_needs_the_sign_interval_as_well() -> None:
    clear = estimate(1.001, 0.99, 1.012)
    doubtful = replace(clear, equivalence_intervals=(clear.interval, Interval(-0.03, 0.03)))
    assert judge(doubtful, 0.001, STANDARD).word == gates.UNRESOLVED


def test_no_blocks_are_promised_where_more_would_not_help() -> None:
    assert "further" not in judge(estimate(1.05, 1.04, 1.06), 0.001, PRESETS["quick"]).reason
    assert "further" not in judge(estimate(p_value=0.2), 0.01, STANDARD).reason


def test_without_an_aa_interval_no_difference_is_claimed() -> None:
    assert judge(estimate(), None, STANDARD).word == gates.UNRESOLVED


def test_smoke_claims_nothing_and_quick_nothing_under_ten_percent() -> None:
    assert judge(estimate(3, 2.9, 3.1), 0.01, PRESETS["smoke"]).word == gates.UNRESOLVED
    assert judge(estimate(1.08, 1.07, 1.09), 0.01, PRESETS["quick"]).word == gates.UNRESOLVED
    assert judge(estimate(1.001, 0.999, 1.002), 0.01, PRESETS["quick"]).word == gates.UNRESOLVED
    assert judge(estimate(1.2, 1.15, 1.25), 0.01, PRESETS["quick"]).word == gates.FASTER


def test_too_few_blocks_are_said_to_be_too_few() -> None:
    assert "too few" in judge(replace(estimate(), interval=None), 0.01, STANDARD).reason


@pytest.mark.parametrize(
    ("difference", "agreement", "fault"),
    [
        (1e-3, 1.0, None),
        (1.1e-3, 1.0, "logits"),
        (float("nan"), 1.0, "logits"),
        (0.0, 0.9994, "labels"),
        (0.0, float("nan"), "labels"),
    ],
)
def test_parity_gate(difference, agreement, fault) -> None:
    actual = parity_fault("fp32", difference, agreement, "oracle")
    assert actual is None if fault is None else fault in (actual or "")


def test_an_accuracy_above_the_record_is_a_leak_on_the_real_data_only() -> None:
    assert leak_fault("fashion-mnist", 0.98)
    assert not leak_fault("fashion-mnist", 0.9691)
    assert not leak_fault("synthetic", 1.0)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_lower_precision_is_judged_by_its_accuracy_and_must_have_been_active(precision) -> None:
    assert parity_fault(precision, 5.0, 0.9, "oracle") is None
    assert precision_fault(precision, 0.9001, 0.909) is None
    assert "less than 99%" in (precision_fault(precision, 0.8999, 0.91) or "")
    assert "less than 99%" in (precision_fault(precision, float("nan"), 0.91) or "")
    assert reduction_fault(precision, 2e-4) is None
    assert f"{precision} was not active" in (reduction_fault(precision, 1e-4) or "")


def test_fp32_is_judged_by_its_outputs_only() -> None:
    assert precision_fault("fp32", 0.1, 0.9) is None
    assert reduction_fault("fp32", 0.0) is None


def test_a_process_must_repeat_what_its_arm_has_proved() -> None:
    assert repetition_fault(0.995) is None
    assert "99.50%" in (repetition_fault(0.9949) or "")
