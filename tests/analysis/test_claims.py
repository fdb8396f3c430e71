"""When a claim counts as reproduced."""

import math
from dataclasses import replace

import pytest

from bench.analysis.claims import (
    BEYOND,
    BN,
    CLAIMS,
    NOT_REPRODUCED,
    NOT_TESTABLE,
    OPEN,
    OPENVINO,
    OTHER_CASE,
    REPRODUCED,
    SMALL,
    Accuracy,
    Claim,
    Ratio,
    TrainedModel,
    Untestable,
    _ratio_verdict,
    claims_about,
    counts,
    judge_claim,
    needed,
)
from bench.analysis.gates import Estimate
from bench.analysis.stats import Interval
from bench.records import End, Failure, Proof
from bench.suite.arms import Arm
from bench.suite.parse import load_suite
from tests.analysis.recorded_run import (
    CASE,
    COMPILE,
    EAGER,
    IPEX,
    JIT,
    TORCH,
    TRAINING_CASE,
    inference_run,
    training_run,
)

RATIO = Ratio("s", SMALL, OPENVINO, Arm("pytorch", "eager"), 2.0)


def estimate(low, high):
    """Return an estimate with this interval of the ratio."""
    interval = Interval(math.log(low), math.log(high))
    return Estimate(20, math.log(low * high) / 2, interval, interval, (None, None), 0.01)


def claim(criterion) -> Claim:
    return Claim("r", "s", criterion)


@pytest.mark.parametrize(("low", "high", "verdict"), [
    (2.1, 2.7, BEYOND), (1.9, 2.1, REPRODUCED), (1.5, 1.99, NOT_REPRODUCED),
])  # fmt: skip
def test_a_ratio_is_reproduced_if_its_interval_includes_the_claim_or_lies_above(low, high, verdict) -> None:
    assert _ratio_verdict(RATIO, estimate(low, high)) == verdict


@pytest.mark.parametrize(("low", "high", "verdict"), [
    (3.1, 3.2, BEYOND), (2.9, 3.2, REPRODUCED), (2.1, 2.2, REPRODUCED), (1.9, 1.99, NOT_REPRODUCED),
])  # fmt: skip
def test_a_claimed_range_is_reproduced_from_its_lower_end_on(low, high, verdict) -> None:
    claimed = replace(RATIO, high=3.0)
    assert claimed.text == "2x to 3x"
    assert _ratio_verdict(claimed, estimate(low, high)) == verdict


def test_without_an_interval_a_ratio_stays_open() -> None:
    assert _ratio_verdict(RATIO, replace(estimate(3, 4), interval=None)).startswith(OPEN)


@pytest.mark.parametrize(("accuracies", "verdict"), [
    ((0.92,), REPRODUCED), ((0.916,), REPRODUCED), ((0.91,), NOT_REPRODUCED), ((0.91, 0.925), REPRODUCED),
])  # fmt: skip
def test_an_accuracy_is_reproduced_within_two_standard_errors_of_the_test_images(accuracies, verdict) -> None:
    trained = {"adam": {str(accuracy): TrainedModel(accuracy, 1) for accuracy in accuracies}}
    result = judge_claim(claim(Accuracy("adam", 0.92, "itex")), {}, trained)
    assert result.verdict == verdict
    assert f"({len(accuracies)} trained" in result.measured
    assert result.origin == ", ".join(map(str, accuracies))


def test_the_range_and_the_epochs_of_several_trainings_are_given() -> None:
    trained = {"vgg": {"a": TrainedModel(0.94, 3), "b": TrainedModel(0.95, 4), "c": TrainedModel(0.95, 3)}}
    result = judge_claim(claim(Accuracy("vgg", 0.945, "itex")), {}, trained)
    assert result.measured == "94.67% (3 trained, 94.00% to 95.00%; 3, 4 epochs)"


def test_a_claimed_ratio_is_compared_with_that_of_a_run_in_absolute_times_as_well(tmp_path) -> None:
    """200 and 100 us for one image: 2 and 1 s for the 10,000 test images."""
    run = inference_run(tmp_path / "run", noise=0).read()
    result = judge_claim(claim(Ratio("s", CASE, JIT, EAGER, 2.0)), {"s": run}, {})
    assert (
        result.measured == "2.00x (2.00 to 2.00): ipex jit over pytorch eager, cnn-small; 2 s -> 1 s for 10,000 images"
    )
    assert (result.verdict, result.origin) == (REPRODUCED, "run")


def test_a_claimed_ratio_of_training_is_given_for_an_epoch(tmp_path) -> None:
    run = training_run(tmp_path / "run").read()
    result = judge_claim(claim(Ratio("s", TRAINING_CASE, IPEX, TORCH, 6.0)), {"s": run}, {})
    assert result.measured.endswith("6.01 s -> 4 s for an epoch of 60,000 images")
    assert result.verdict == NOT_REPRODUCED


def test_without_a_run_or_a_training_a_claim_stays_open() -> None:
    assert judge_claim(claim(RATIO), {}, {}).verdict == OPEN
    assert judge_claim(claim(Accuracy("vgg", 0.9, "itex")), {}, {"vgg": {}}).verdict == OPEN


def test_a_claim_without_a_number_is_not_testable() -> None:
    result = judge_claim(claim(Untestable("no number was given")), {}, {})
    assert result.verdict == f"{NOT_TESTABLE}: no number was given"


def test_a_pair_that_the_run_does_not_have_stays_open_unless_it_failed(tmp_path) -> None:
    builder = inference_run(tmp_path / "run")
    ratio = claim(Ratio("s", CASE, OPENVINO, EAGER, 2.0))
    assert judge_claim(ratio, {"s": builder.read()}, {}).verdict == f"{OPEN}: the newest run has no such pair"
    builder.records.append(Failure(OPENVINO.id, CASE.id, None, "not installed", skipped=True))
    assert judge_claim(ratio, {"s": builder.read()}, {}).verdict == f"{NOT_TESTABLE}: not installed"


def test_a_pair_that_fails_a_gate_is_not_testable(tmp_path) -> None:
    run = inference_run(tmp_path / "run").change(Proof, lambda proof: proof.arm == JIT.id, agreement=0.5).read()
    result = judge_claim(claim(Ratio("s", CASE, JIT, EAGER, 2.0)), {"s": run}, {})
    assert result.verdict.startswith(f"{NOT_TESTABLE}: ipex jit: labels agree")


def test_only_finished_runs_on_the_real_data_with_intervals_count(tmp_path) -> None:
    assert counts(inference_run(tmp_path / "run").read())
    assert not counts(inference_run(tmp_path / "run", data="synthetic").read())
    assert not counts(inference_run(tmp_path / "run", preset="smoke").read())
    interrupted = inference_run(tmp_path / "run")
    interrupted.records.append(End("interrupted", 1))
    assert not counts(interrupted.read())


def moved(builder, case):
    """Give a run with one case another one."""
    builder.records = [replace(one, case=case.id) if hasattr(one, "case") else one for one in builder.records]
    return builder.describe(
        cases=(case,),
        lineups={case.id: builder.info.lineups[CASE.id]},
        pairs=tuple(replace(pair, case=case.id) for pair in builder.info.pairs),
    )


def test_a_run_with_the_case_of_a_claim_judges_it(tmp_path) -> None:
    run = moved(inference_run(tmp_path / "run", noise=0), SMALL).read()
    (judged,) = [result for result in claims_about(run) if result.claim.source == "recipe adam"]
    assert judged == judge_claim(judged.claim, {"claims-inference": run}, {})
    assert judged.verdict == BEYOND


def test_a_claim_about_another_case_is_shown_but_not_judged(tmp_path) -> None:
    results = claims_about(inference_run(tmp_path / "run", noise=0).read())
    assert {result.claim.criterion.arm for result in results} == {JIT, COMPILE}
    assert all(result.verdict.startswith(f"{OTHER_CASE}: the claim is tested with cnn-") for result in results)
    assert {result.measured for result in results if result.claim.criterion.arm == JIT} == {
        "ipex jit over pytorch eager: 2.00x (2.00 to 2.00) at cnn-small, batch 1"
    }


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"data": "synthetic"}, "the data is synthetic"), ({"preset": "smoke"}, "preset smoke has no intervals")],
)
def test_a_run_that_does_not_count_judges_no_claim(tmp_path, options, reason) -> None:
    results = claims_about(moved(inference_run(tmp_path / "run", **options), SMALL).read())
    assert results
    assert {result.verdict for result in results} == {f"{NOT_TESTABLE}: {reason}"}


def test_a_run_without_the_arms_of_a_claim_has_nothing_to_say_about_it(tmp_path) -> None:
    assert claims_about(training_run(tmp_path / "run").read()) == []


def test_what_fails_a_gate_is_not_shown_beside_a_claim(tmp_path) -> None:
    builder = inference_run(tmp_path / "run").change(Proof, lambda proof: proof.arm == JIT.id, agreement=0.5)
    assert {result.claim.criterion.arm for result in claims_about(builder.read())} == {COMPILE}


def test_every_ratio_is_measured_by_the_suite_that_it_names() -> None:
    for published in CLAIMS:
        if isinstance(published.criterion, Ratio):
            suite = load_suite(published.criterion.suite)
            assert published.criterion.case in suite.cases
            assert {published.criterion.arm, published.criterion.baseline} <= set(suite.arms)
    assert BN in load_suite("claims-inference").cases


def test_each_suite_and_recipe_that_claims_need_is_named_once() -> None:
    assert needed(CLAIMS, Ratio) == ["claims-training", "claims-inference", "claims-vendors"]
    assert set(needed(CLAIMS, Accuracy)) == {"vgg", "bn", "adam", "small"}
