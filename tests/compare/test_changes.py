"""Two runs with known differences, and what may be said of them."""

import math
from dataclasses import replace

import pytest

from bench.analysis.gates import FAILED, FASTER, SLOWER, UNRESOLVED, WITHHELD
from bench.analysis.latency import AS_IT_WAS, AT_REST
from bench.analysis.stats import error_of_shift, rank_sum_interval, rank_sum_p
from bench.compare.changes import (
    NO_CONTROL,
    UNCHANGED,
    UNMATCHED,
    USUAL_EFFECT,
    USUAL_FREEDOM,
    RunEffect,
    change_of,
    compare_runs,
    judge_change,
    run_effect,
)
from bench.machine.facts import Machine
from bench.records import Evidence, Failure, Proof, Slice
from bench.run_info import EnvironmentInfo
from bench.suite.arms import Arm
from tests.analysis.recorded_run import CASE, COMPILE, EAGER, JIT, TORCH, inference_run, training_run, with_two_speeds

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
    found, comparison = rows(before, after(tmp_path, jit=115_000), 0.05)
    assert {arm: row.verdict.word for arm, row in found.items()} == {
        EAGER: UNCHANGED, COMPILE: UNCHANGED, JIT: SLOWER,
    }  # fmt: skip
    assert found[JIT].net.ratio == pytest.approx(1 / 1.15, rel=0.01)
    assert found[JIT].net.ratio_interval.low < 1 / 1.15 < found[JIT].net.ratio_interval.high
    assert comparison.regressions == [found[JIT]]
    assert {arm: row.ruled_out for arm, row in found.items()} == {EAGER: True, COMPILE: True, JIT: False}


def test_runs_that_follow_different_rules_are_compared_as_the_machine_was(tmp_path) -> None:
    runs = [with_two_speeds(inference_run(tmp_path / f"{spread}", noise=0.004), spread) for spread in (0.0, 0.06)]
    assert [run.read().rule_of(CASE) for run in runs] == [AT_REST, AS_IT_WAS]
    found, _ = rows(runs[0], runs[1].describe(started=LATER))
    latencies = tuple(run.read().typical_latency_ns(EAGER, CASE, AS_IT_WAS) for run in runs)
    assert found[EAGER].latencies_ns == latencies


def test_a_drift_of_the_machine_is_no_change_of_an_arm(before, tmp_path) -> None:
    found, comparison = rows(before, after(tmp_path, drift=1.3), 0.05)
    assert {row.verdict.word for row in found.values()} == {UNCHANGED}
    assert math.exp(found[JIT].alone) == pytest.approx(1 / 1.3, rel=0.01)
    assert found[JIT].net.ratio == pytest.approx(1, rel=0.01)
    assert comparison.regressions == []


def test_a_slowdown_is_found_although_the_machine_became_faster(before, tmp_path) -> None:
    found, comparison = rows(before, after(tmp_path, drift=0.8, jit=115_000), 0.05)
    assert found[JIT].alone > 0
    assert comparison.regressions == [found[JIT]]


def test_the_own_baseline_is_the_control_and_the_baseline_has_another(before, tmp_path) -> None:
    found, _ = rows(before, after(tmp_path))
    assert {arm: row.control for arm, row in found.items()} == {EAGER: COMPILE, COMPILE: EAGER, JIT: EAGER}


def test_a_vanilla_arm_with_other_versions_is_no_control(before, tmp_path) -> None:
    later = after(tmp_path).change(Proof, lambda record: record.arm == EAGER.id, versions={"v": "2"})
    found, _ = rows(before, later)
    assert found[JIT].control == COMPILE


def test_without_a_control_nothing_is_claimed_and_the_times_are_shown(before, tmp_path) -> None:
    later = after(tmp_path, jit=150_000).change(Proof, lambda _: True, versions={"v": "2"})
    found, comparison = rows(before, later, 0.05)
    assert {(row.verdict.word, row.verdict.reason) for row in found.values()} == {(UNRESOLVED, NO_CONTROL)}
    assert math.exp(found[JIT].alone) == pytest.approx(1 / 1.5, rel=0.01)
    assert comparison.regressions == []


def test_an_arm_that_changes_like_unchanged_arms_do_is_unresolved(before, tmp_path) -> None:
    """The compiled arm ran the same software, and yet is 8 % slower: so much is the run."""
    found, comparison = rows(before, after(tmp_path, jit=109_000, compiled=134_000 * 1.08), 0.02)
    assert comparison.effect.deviation == pytest.approx(0.023, rel=0.1)
    assert (found[JIT].verdict.word, found[JIT].verdict.reason) == (
        UNRESOLVED, "not significant after Holm's correction",
    )  # fmt: skip
    assert comparison.regressions == []


def test_a_small_change_is_not_claimed_although_the_blocks_agree(before, tmp_path) -> None:
    found, _ = rows(before, after(tmp_path, jit=102_300))
    assert found[JIT].verdict.word == UNCHANGED


def test_a_slowdown_that_may_be_smaller_than_the_threshold_does_not_trip_the_gate(before, tmp_path) -> None:
    found, comparison = rows(before, after(tmp_path, jit=107_000), 0.05)
    assert found[JIT].verdict.word == SLOWER
    assert not found[JIT].ruled_out
    assert comparison.regressions == []


def test_another_machine_is_named_and_never_gated(before, tmp_path) -> None:
    later = after(tmp_path, jit=150_000).describe(machine=Machine("other", 4, 4), threads=2)
    found, comparison = rows(before, later, 0.05)
    assert comparison.other_machine == ("cpu: c / other", "cores: 2 / 4", "usable cores: 2 / 4")
    assert found[JIT].verdict.word == SLOWER
    assert comparison.regressions == []


def test_on_another_machine_the_usual_threads_correspond_and_kernels_may_differ(before, tmp_path) -> None:
    later = after(tmp_path).describe(machine=Machine("other", 2, 2), threads=16)
    found, comparison = rows(before, later.change(Proof, lambda _: True, kernels=("other",)))
    assert comparison.other_machine == ("cpu: c / other", "threads: 2 / 16")
    assert found[JIT].control == EAGER


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


def test_packages_that_changed_alike_in_several_environments_are_listed_once(before, tmp_path) -> None:
    """A package that both runs have comes before one that only one has."""

    def environments(*versions: dict[str, str]) -> dict[str, EnvironmentInfo]:
        return {name: EnvironmentInfo("3.11", 1, own) for name, own in zip(("ipex", "vanilla"), versions, strict=True)}

    before.describe(environments=environments({"a": "1", "torch": "2.7", "x": "1"}, {"a": "1", "torch": "2.7"}))
    later = after(tmp_path).describe(environments=environments({"torch": "2.8", "x": "2"}, {"torch": "2.8"}))
    _, comparison = rows(before, later)
    assert comparison.notes == (
        "environment ipex: x 1 / 2",
        "environments ipex, vanilla: torch 2.7 / 2.8, a 1 / none",
    )


def test_other_threads_are_another_case(before, tmp_path) -> None:
    found, comparison = rows(before, after(tmp_path).describe(threads=1))
    assert found == {}
    assert comparison.missing == (f"{CASE.label}: only before", f"{CASE.label}: only after")


def test_training_is_compared_by_epochs_with_the_environment_as_the_proof(tmp_path) -> None:
    found, _ = rows(training_run(tmp_path / "a"), training_run(tmp_path / "b").describe(started=LATER))
    assert {arm: row.control for arm, row in found.items()} == {TORCH: None, Arm("ipex", "train"): TORCH}
    assert found[Arm("ipex", "train")].net.ratio == pytest.approx(1)


def test_holm_counts_the_rows_of_all_comparisons(before, tmp_path) -> None:
    early, later = before.read(), after(tmp_path, jit=107_000).read()
    alone = compare_runs(early, [later])[0].rows[-1]
    third = inference_run(tmp_path / "third", seed=9, jit=107_000).describe(started="2026-03-01").read()
    together = compare_runs(early, [later, third])[0].rows[-1]
    assert alone.net.p_value < together.net.p_value < 1


def test_the_effect_of_a_run_is_that_of_unchanged_arms_moderated_by_the_usual_one() -> None:
    assert run_effect([]) == RunEffect(pytest.approx(USUAL_EFFECT), USUAL_FREEDOM)
    # A common drift is no effect: around their means the groups have squares of 0.0008 and 0.
    effect = run_effect([[0.98, 1.02], [0.3, 0.3, 0.3]])
    assert effect.freedom == USUAL_FREEDOM + 3
    assert effect.deviation**2 == pytest.approx((0.0008 + USUAL_FREEDOM * USUAL_EFFECT**2) / effect.freedom)


SMALL_EFFECT = RunEffect(0.001, 50)
BEFORE, LOWER = [0.0, 0.01, -0.01, 0.005] * 4, [-0.10, -0.09, -0.11, -0.095] * 4


def judged(before, after, effect=SMALL_EFFECT):
    return judge_change(change_of(before, after, effect, 0.95, 0.05), 0.05, 0.0, 0.05)


def test_a_verdict_needs_the_ranks_and_the_means_and_a_change_larger_than_the_effect_of_a_run() -> None:
    assert judged(BEFORE, LOWER).word == SLOWER
    assert judged(LOWER, BEFORE).word == FASTER
    # One wild block of 16 widens Welch's interval, not that of the ranks.
    assert judged(BEFORE, [*LOWER[:-1], 3.0]).word == UNRESOLVED
    # Ranks of so few blocks can't exclude 1, however far apart they are.
    assert judged(BEFORE[:3], LOWER[:3]).reason == "too few blocks for an interval: 3"
    assert judged(BEFORE[:1], LOWER[:1]).reason == "too few blocks for an interval: 1"
    assert judged(BEFORE, LOWER, RunEffect(0.05, 50)).word == UNRESOLVED


def test_the_interval_holds_both_of_its_parts() -> None:
    change = change_of(BEFORE, LOWER, SMALL_EFFECT, 0.95, 0.05)
    ranks = rank_sum_interval(BEFORE, LOWER, 0.95)
    error = error_of_shift(BEFORE, LOWER, 2 * 0.001**2, 50).half_width(0.95)
    assert change.interval.low == min(ranks.low, change.log_change - error)
    assert change.interval.high == max(ranks.high, change.log_change + error)
    assert change.slower_p == max(
        rank_sum_p(BEFORE, LOWER, math.log(1.05)),
        error_of_shift(BEFORE, LOWER, 2e-6, 50).p_below(change.log_change + math.log(1.05)),
    )
