"""Two runs with known differences, and what may be said of them."""

from dataclasses import replace

import pytest

from bench.analysis.gates import EQUIVALENT, FAILED, FASTER, SLOWER, UNRESOLVED, WITHHELD
from bench.compare.changes import NO_CONTROL, UNMATCHED, change_of, compare_runs, is_regression, judge_change
from bench.machine.facts import Machine
from bench.records import Evidence, Failure, Proof, Slice
from bench.suite.arms import Arm
from tests.analysis.recorded_run import CASE, COMPILE, EAGER, JIT, TORCH, inference_run, training_run

LATER = "2026-02-01T00:00:00+00:00"


@pytest.fixture
def before(tmp_path):
    return inference_run(tmp_path / "before")


def after(tmp_path, drift=1.0, **options):
    """Return a later run; `drift` is how many times slower the machine is in it, for all arms."""
    latencies = {"eager": 200_000, "aa": 200_000, "compiled": 134_000, "jit": 100_000} | options
    slowed = {name: drift * value for name, value in latencies.items() if name != "seed"}
    return inference_run(tmp_path / "after", seed=8, **slowed).describe(started=LATER)


def rows(before, after, threshold=None):
    (comparison,) = compare_runs(before.read(), [after.read()], threshold)
    return {row.arm: row for row in comparison.rows}, comparison


def test_an_arm_that_became_slower_is_found_and_the_others_are_not(before, tmp_path) -> None:
    found, comparison = rows(before, after(tmp_path, jit=110_000), 0.05)
    assert {arm: row.verdict.word for arm, row in found.items()} == {
        EAGER: EQUIVALENT, COMPILE: EQUIVALENT, JIT: SLOWER,
    }  # fmt: skip
    assert found[JIT].net.ratio == pytest.approx(1 / 1.1, rel=0.01)
    assert found[JIT].net.ratio_interval.low < 1 / 1.1 < found[JIT].net.ratio_interval.high
    assert comparison.regressions == [found[JIT]]
    assert {arm: row.ruled_out for arm, row in found.items()} == {EAGER: True, COMPILE: True, JIT: False}


def test_a_drift_of_the_machine_is_no_change_of_an_arm(before, tmp_path) -> None:
    found, comparison = rows(before, after(tmp_path, drift=1.3), 0.05)
    assert {row.verdict.word for row in found.values()} == {EQUIVALENT}
    assert found[JIT].alone.ratio == pytest.approx(1 / 1.3, rel=0.01)
    assert found[JIT].net.ratio == pytest.approx(1, rel=0.01)
    assert comparison.regressions == []


def test_a_slowdown_is_found_although_the_machine_became_faster(before, tmp_path) -> None:
    found, comparison = rows(before, after(tmp_path, drift=0.8, jit=110_000), 0.05)
    assert found[JIT].alone.ratio > 1
    assert comparison.regressions == [found[JIT]]


def test_the_own_baseline_is_the_control_and_the_baseline_has_another(before, tmp_path) -> None:
    found, _ = rows(before, after(tmp_path))
    assert {arm: row.control for arm, row in found.items()} == {EAGER: COMPILE, COMPILE: EAGER, JIT: EAGER}


def test_a_vanilla_arm_with_other_versions_is_no_control(before, tmp_path) -> None:
    later = after(tmp_path).change(Proof, lambda record: record.arm == EAGER.id, versions={"v": "2"})
    found, _ = rows(before, later)
    assert found[JIT].control == COMPILE
    # The A/A arm is a twin of an arm that changed.
    assert "no A/A arm in both runs" in found[JIT].verdict.reason


def test_without_a_control_nothing_is_claimed_and_the_times_are_shown(before, tmp_path) -> None:
    later = after(tmp_path, jit=150_000).change(Proof, lambda _: True, versions={"v": "2"})
    found, comparison = rows(before, later, 0.05)
    assert {(row.verdict.word, row.verdict.reason) for row in found.values()} == {(UNRESOLVED, NO_CONTROL)}
    assert found[JIT].alone.ratio == pytest.approx(1 / 1.5, rel=0.01)
    assert comparison.regressions == []


def test_an_arm_that_changes_like_unchanged_arms_do_is_unresolved(before, tmp_path) -> None:
    """The compiled arm ran the same software, and yet is 6 % slower: so much is the session."""
    found, comparison = rows(before, after(tmp_path, jit=106_000, compiled=134_000 * 1.07), 0.02)
    assert found[JIT].verdict.word == UNRESOLVED
    assert "arms that did not change differ by up to" in found[JIT].verdict.reason
    assert JIT not in [row.arm for row in comparison.regressions]


def test_a_change_of_under_3_percent_is_not_claimed_between_runs(before, tmp_path) -> None:
    found, _ = rows(before, after(tmp_path, jit=102_300))
    assert found[JIT].net.ratio_interval.excludes(1)
    assert (found[JIT].verdict.word, "under 3%" in found[JIT].verdict.reason) == (UNRESOLVED, True)


def test_a_slowdown_that_may_be_smaller_than_the_threshold_does_not_trip_the_gate(before, tmp_path) -> None:
    found, comparison = rows(before, after(tmp_path, jit=105_000), 0.05)
    assert found[JIT].verdict.word == SLOWER
    assert not found[JIT].ruled_out
    assert comparison.regressions == []


def test_another_machine_is_named_and_never_gated(before, tmp_path) -> None:
    later = after(tmp_path, jit=150_000).describe(machine=Machine("other", 4, 4), threads=2)
    found, comparison = rows(before, later, 0.05)
    assert comparison.other_machine == ("cpu: c / other", "cores: 2 / 4", "usable cores: 2 / 4")
    assert found[JIT].verdict.word == SLOWER
    assert comparison.regressions == []


def test_a_preset_that_claims_nothing_has_no_verdict(before, tmp_path) -> None:
    found, comparison = rows(before, after(tmp_path, jit=150_000).describe(preset="smoke"), 0.05)
    assert found[JIT].verdict.reason == "preset smoke claims nothing"
    assert comparison.regressions == []


def test_a_quick_preset_claims_no_change_under_10_percent(before, tmp_path) -> None:
    found, _ = rows(before, after(tmp_path, jit=108_000).describe(preset="quick"))
    assert "under 10%" in found[JIT].verdict.reason


def test_an_arm_that_failed_or_is_withheld_is_shown_with_its_reason(before, tmp_path) -> None:
    later = after(tmp_path).remove(lambda r: isinstance(r, Slice | Evidence) and r.arm == JIT.id)
    later.records.append(Failure(JIT.id, CASE.id, 1, "it died"))
    later.change(Proof, lambda record: record.arm == COMPILE.id, max_abs_logit_diff=0.5)
    found, _ = rows(before, later)
    assert (found[JIT].verdict.word, found[JIT].verdict.reason) == (FAILED, "after: it died")
    assert found[COMPILE].verdict.word == WITHHELD
    assert found[COMPILE].net is None
    # A withheld arm controls nothing.
    assert found[EAGER].control is None


def test_what_is_not_comparable_is_unmatched(before, tmp_path) -> None:
    later = after(tmp_path)
    models = {CASE.model: replace(later.info.models[CASE.model], spec="other")}
    found, _ = rows(before, later.describe(models=models))
    assert {(row.verdict.word, row.verdict.reason) for row in found.values()} == {
        (UNMATCHED, f"another network {CASE.model}")
    }
    found, _ = rows(before, after(tmp_path).describe(protocol=replace(later.info.protocol, slice_ns=7)))
    assert found[JIT].verdict.reason == "slice ns: 1000000 / 7"
    assert found[JIT].alone is None
    found, _ = rows(before, after(tmp_path).describe(settings={"bound": {"A": "1"}}))
    assert found[JIT].verdict.reason == "other variables of the settings bound"


def test_arms_and_cases_of_one_run_only_are_listed(before, tmp_path) -> None:
    extra = Arm("pytorch", "channels_last")
    _, comparison = rows(before, after(tmp_path).add_arm(extra, EAGER))
    assert comparison.missing == (f"{CASE.label}: only after: pytorch channels_last",)


def test_other_threads_are_another_case(before, tmp_path) -> None:
    found, comparison = rows(before, after(tmp_path).describe(threads=1))
    assert found == {}
    assert comparison.missing == (f"{CASE.label}: only before", f"{CASE.label}: only after")


def test_training_is_compared_by_epochs_with_the_environment_as_the_proof(tmp_path) -> None:
    found, _ = rows(training_run(tmp_path / "a"), training_run(tmp_path / "b").describe(started=LATER))
    assert {arm: row.control for arm, row in found.items()} == {TORCH: None, Arm("ipex", "train"): TORCH}
    assert found[Arm("ipex", "train")].net.ratio == pytest.approx(1)


def test_holm_counts_the_rows_of_all_comparisons(before, tmp_path) -> None:
    early, later = before.read(), after(tmp_path, jit=110_000).read()
    alone = compare_runs(early, [later])[0].rows[-1]
    third = inference_run(tmp_path / "third", seed=9, jit=110_000).describe(started="2026-03-01").read()
    together = compare_runs(early, [later, third])[0].rows[-1]
    assert together.net.p_value == pytest.approx(2 * alone.net.p_value, rel=0.5)
    assert together.net.p_value > alone.net.p_value


def test_the_verdict_needs_both_intervals_and_the_gate_both_tests() -> None:
    before, lower = [0.0, 0.01, -0.01, 0.005] * 4, [-0.10, -0.09, -0.11, -0.095] * 4
    change = change_of(before, lower, 0.95, 0.05)
    assert judge_change(change, 0.01, 0.03, 0.05).word == SLOWER
    assert judge_change(change_of(lower, before, 0.95), 0.01, 0.03, 0.05).word == FASTER
    # One wild block of 16 widens Welch's interval, not that of the ranks.
    wild = [*lower[:-1], 3.0]
    doubted = judge_change(change_of(before, wild, 0.95, 0.05), 0.01, 0.03, 0.05)
    assert (doubted.word, doubted.reason) == (UNRESOLVED, "Welch's interval disagrees")
    assert is_regression(change, judge_change(change, 0.01, 0.03, 0.05), 0.05)
    assert not is_regression(change_of(before, lower, 0.95, 0.10), judge_change(change, 0.01, 0.03, 0.05), 0.10)
