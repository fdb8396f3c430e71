"""The self-test recovers injected slowdowns, and fails where it does not."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from bench.analysis import selftest
from bench.analysis.latency import AS_IT_WAS
from bench.analysis.run import Run
from bench.analysis.stats import wilcoxon_interval
from bench.console import Steps
from bench.engine.describe import Origin
from bench.engine.run import measure_run, total_weights
from bench.records import Evidence, Overhead, Slice
from bench.suite import selftest as suites
from bench.suite.arms import Arm, Pair
from bench.suite.plan import make_plan, planned_pairs
from bench.suite.schedule import PRESETS
from models import data
from models.errors import UserError
from tests.analysis.recorded_run import AA, CASE, COMPILE, EAGER, inference_run
from tests.shortened import IMAGES, shorten_preparations

ARM = Arm("oracle", "numpy")


def recorded(folder, arm, ratio, noise=0.002):
    """Return a run of eager PyTorch and of itself, as the A/A arm or slowed down, with this ratio."""
    builder = inference_run(folder, preset="selftest", noise=noise, aa=200_000 / ratio, compiled=200_000 / ratio)
    return builder if arm.replica else builder.replace_arm(COMPILE, arm)


def recovery(builder, arm):
    run = builder.read()
    (row,) = [row for row in selftest.speedups(run) if row.pair == Pair(arm, EAGER, CASE)]
    return selftest._recovery(run, row)


def test_the_suite_compares_an_arm_with_itself_and_with_itself_slowed_down() -> None:
    suite = suites.make_suite(ARM, [1, 2])
    assert [arm.id for arm in suite.measured] == [
        "oracle/numpy", "oracle/numpy@A/A", "oracle/numpy@slower2", "oracle/numpy@slower5", "oracle/numpy@slower20",
    ]  # fmt: skip
    assert {case.threads for case in suite.cases} == {1, 2}
    assert (suite.wait, suites.equal_suite(ARM, [1]).wait) == (0.2, 0)


def test_a_working_harness_fails_less_than_once_in_100_runs() -> None:
    """Each truth may lie outside its interval at each look, by each of the two rules that a case may follow."""
    preset, suite = PRESETS["selftest"], suites.make_suite(ARM, [1, 2])
    checks = len(suite.cases) * (len(suite.measured) - 1)
    assert 2 * checks * (len(preset.looks) + 1) * (1 - preset.confidence) < 0.01
    assert all(wilcoxon_interval(range(look), preset.confidence) for look in preset.looks)


def test_an_intel_arm_is_compared_with_itself_too() -> None:
    suite = suites.make_suite(Arm("ipex", "eager"), [1])
    pairs = {(pair.arm.label, pair.baseline.label) for pair in planned_pairs(suite)}
    assert {arm for arm, _ in pairs} == {arm.label for arm in suite.measured} - {"ipex eager"}
    assert {baseline for _, baseline in pairs} == {"ipex eager"}


@pytest.mark.parametrize(
    ("arm", "ratio", "passed"),
    [
        (AA, 1.0, True),
        (AA, 1.05, False),
        (replace(EAGER, delay=0.05), 1 / 1.05, True),
        (replace(EAGER, delay=0.05), 1.0, False),
        (replace(EAGER, delay=0.2), 1 / 1.2, True),
        (replace(EAGER, delay=0.2), 1 / 1.25, False),
    ],
    ids=str,
)
def test_a_known_ratio_must_lie_inside_the_interval(tmp_path, arm, ratio, passed) -> None:
    assert recovery(recorded(tmp_path / "run", arm, ratio), arm).passed is passed


def test_a_trial_gives_the_ratio_its_interval_and_its_error(tmp_path) -> None:
    arm = replace(EAGER, delay=0.2)
    trial = recovery(recorded(tmp_path / "run", arm, 1 / 1.25, noise=0), arm)
    assert trial.what == "Slowed down by 20%, cnn-small, latency, batch 1"
    assert trial.found == "0.8000 (0.800 to 0.800), off by 4.08%, distinguishable from 1"
    assert trial.wanted == "0.833 inside the 99.99 % interval, 1 outside"


@pytest.mark.parametrize(("delay", "passed"), [(0.2, False), (0.05, False), (0.02, True)])
def test_from_5_percent_on_a_slowdown_that_noise_hides_fails(tmp_path, delay, passed) -> None:
    arm = replace(EAGER, delay=delay)
    trial = recovery(recorded(tmp_path / "run", arm, 1 / (1 + delay), noise=0.5), arm)
    assert "not distinguishable from 1" in trial.found
    assert trial.passed is passed


def test_without_an_interval_a_trial_fails_with_the_reason(tmp_path) -> None:
    trial = recovery(recorded(tmp_path / "run", AA, 1.0).describe(preset="smoke"), AA)
    assert (trial.found, trial.passed) == ("preset smoke claims nothing", False)


def test_aa_trials_come_before_slowdowns(tmp_path) -> None:
    run = recorded(tmp_path / "run", replace(EAGER, delay=0.02), 1 / 1.02).describe().read()
    names = [trial.what.split(",")[0] for trial in selftest.trials(run)]
    assert names[:5] == [
        "Timer resolution", "Harness overhead in a timed call", "CPU time of idle workers",
        "CPU time of the orchestrator while it measures", "A/A",
    ]  # fmt: skip
    assert "Slowed down by 2%" in names[5:]


def test_what_was_not_measured_fails(tmp_path) -> None:
    run = inference_run(tmp_path / "run").remove(lambda record: isinstance(record, Evidence)).read()
    trials = {trial.what: trial for trial in selftest.trials(run)}
    for name in ("Harness overhead in a timed call", "CPU time of idle workers"):
        assert (trials[name].found, trials[name].passed) == ("not measured", False)


@pytest.mark.parametrize(("overhead_ns", "idle_cpu_ns", "passed"), [(1000, 10_000, True), (1001, 10_001, False)])
def test_overhead_and_idle_cpu_time_have_limits(tmp_path, overhead_ns, idle_cpu_ns, passed) -> None:
    """Of turns of a millisecond, 1 % is 10 us."""
    builder = inference_run(tmp_path / "run").change(Slice, lambda turn: True, idle_cpu_ns=idle_cpu_ns)
    builder.records.append(Overhead((overhead_ns,)))
    trials = {trial.what: trial.passed for trial in selftest.trials(builder.read())}
    assert trials["Harness overhead in a timed call"] is passed
    assert trials["CPU time of idle workers"] is passed


def test_a_coarse_clock_fails(tmp_path) -> None:
    run, ticks = inference_run(tmp_path / "run").read(), iter(range(10**6))
    assert not selftest.trials(run, lambda: next(ticks) // 100 * 10**7)[0].passed
    assert not selftest.trials(run, lambda: 0)[0].passed


def test_a_stack_without_a_variant_for_inference_is_refused(monkeypatch) -> None:
    stack = replace(suites.stacks()["oracle"], default_variant=None)
    monkeypatch.setattr(suites, "stacks", lambda: {"oracle": stack})
    with pytest.raises(UserError, match="no variant for inference"):
        suites.default_arm("oracle")


def test_an_injected_slowdown_shows_in_the_ratio(tmp_path, monkeypatch) -> None:
    """A tenfold slowdown shows in the quietest calls; the arm's process waits, and its samples stay short."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.setattr(suites, "TRIAL_BATCH_SIZES", (1,))
    monkeypatch.setattr(suites, "SLOWDOWNS", (9.0,))
    shorten_preparations(IMAGES, monkeypatch.setattr)
    plan = make_plan(
        suites.make_suite(ARM, [1]), replace(PRESETS["selftest"], blocks=2, rounds=4, further_rounds=0), 1, 1
    )
    steps = Steps(Console(file=StringIO()), total_weights(plan), None)
    assert measure_run(plan, data.load("synthetic"), tmp_path, steps, Origin((), "", None)) == "complete"
    run = Run(tmp_path)
    slowed = [pair for pair in run.pairs if pair.arm.delay == 9.0]
    assert slowed
    for pair in slowed:
        ours, theirs = (quietest_ns(run, arm_id, pair.case.id) for arm_id in (pair.arm.id, pair.baseline.id))
        assert 0.03 < theirs / ours < 0.3
        assert run.estimate(pair, AS_IT_WAS).blocks == 2
    for turn in run.turns[ARM.id, slowed[0].case.id]:
        assert turn.walls_ns[0] > 5 * (len(turn.samples_ns) - 1) * min(turn.samples_ns)
    assert {roof.what for roof in run.roofs} == {"product", "traffic"}


def quietest_ns(run, arm_id, case_id) -> int:
    """Return the shortest call, which other work on the machine has not interrupted."""
    return min(sample for turn in run.turns[arm_id, case_id] for sample in turn.samples_ns)
