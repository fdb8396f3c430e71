"""The selftest recovers what it has put in, and says FAIL where it does not."""

import json
import math
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from bench.analysis import selftest
from bench.analysis.gates import Verdict
from bench.analysis.run import estimate_of
from bench.analysis.speedups import Run
from bench.commands import selftest as commands
from bench.suite.arms import Arm, Case, Pair
from bench.suite.plan import planned_pairs
from bench.suite.schedule import PRESETS
from conftest import let_images_be_few

ARM = Arm("oracle", "numpy")


class Told:
    """Stands for a run: the rows and figures that the selftest looks at."""

    def __init__(self, rows=(), overhead_ns=None, confidence=0.9995):
        self.speedups, self.overhead_ns, self.turns, self.info = list(rows), overhead_ns, {}, {"machine": {"cores": 2}}
        self.preset = type("P", (), {"confidence": confidence})()


class Row:
    """A comparison of twelve blocks around a ratio."""

    def __init__(self, arm, ratio, scatter=0.001):
        self.pair, self.verdict = Pair(arm, ARM, Case("cnn-small", "latency", 1)), Verdict("UNRESOLVED")
        estimate = estimate_of([math.log(ratio) + scatter * (block - 5.5) for block in range(12)], 0.9995)
        self.speedup, self.interval = estimate.speedup, estimate.ratio_interval


def test_the_suite_holds_an_arm_against_itself_and_itself_slowed_down() -> None:
    suite = selftest.make_suite(ARM, [1, 2])
    assert [arm.id for arm in suite.measured] == [
        "oracle/numpy", "oracle/numpy@A/A", "oracle/numpy@slower2", "oracle/numpy@slower5", "oracle/numpy@slower20",
    ]  # fmt: skip
    assert {case.threads for case in suite.cases} == {1, 2}
    assert (suite.wait, selftest.equal_suite(ARM, [1]).wait) == (0.2, 0)


def test_an_intel_arm_is_held_against_itself_too() -> None:
    suite = selftest.make_suite(Arm("ipex", "eager"), [1])
    held = {(pair.arm.label, pair.baseline.label) for pair in planned_pairs(suite)}
    assert {arm for arm, _ in held} == {arm.label for arm in suite.measured} - {"ipex eager"}
    assert {baseline for _, baseline in held} == {"ipex eager"}


@pytest.mark.parametrize(
    ("arm", "ratio", "passed"),
    [
        (replace(ARM, replica=True), 1.0, True),
        (replace(ARM, replica=True), 1.05, False),
        (replace(ARM, delay=0.05), 1 / 1.05, True),
        (replace(ARM, delay=0.05), 1.0, False),
        (replace(ARM, delay=0.2), 1 / 1.2, True),
        (replace(ARM, delay=0.2), 1 / 1.25, False),
    ],
)
def test_a_known_ratio_must_lie_inside_the_interval(arm, ratio, passed) -> None:
    trial = next(each for each in selftest.trials(Told([Row(arm, ratio)])) if "batch 1" in each.what)
    assert trial.passed is passed


def test_what_was_not_measured_fails() -> None:
    by_name = {each.what: each for each in selftest.trials(Told())}
    assert not by_name["Harness overhead in a timed call"].passed
    assert not by_name["CPU that idle workers burned"].passed


def test_a_coarse_clock_fails() -> None:
    ticks = iter(range(10**6))
    assert not selftest._resolution(lambda: next(ticks) // 100 * 10**7).passed
    assert not selftest._resolution(lambda: 0).passed


def test_a_slow_down_of_20_percent_that_noise_hides_fails() -> None:
    row = Row(replace(ARM, delay=0.2), 1 / 1.2, scatter=0.1)
    trial = next(each for each in selftest.trials(Told([row])) if "batch 1" in each.what)
    assert "not told from 1" in trial.found
    assert not trial.passed


def test_a_stack_without_environment_is_one_line(bench, tmp_path) -> None:
    done = bench("selftest", "--stack", "ipex", BENCH_ENVIRONMENTS_DIR=str(tmp_path / "none"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "tox -r -e ipex --notest" in done.stderr


def test_the_command_prints_every_trial_and_stores_it(tmp_path, monkeypatch) -> None:
    """Two blocks give no interval: what can't be shown has failed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.setitem(PRESETS, "selftest", replace(PRESETS["selftest"], blocks=2, rounds=1))
    monkeypatch.setattr(selftest, "BATCH_SIZES", (1,))
    monkeypatch.setattr(selftest, "DELAYS", (0.02, 9.0))  # tenfold: beyond all noise
    let_images_be_few(monkeypatch)
    console = Console(record=True, width=200, file=StringIO())
    assert commands.selftest("oracle", tmp_path / "results", "s", console, ["bench", "selftest"]) == 1
    folder = tmp_path / "results" / "s"
    stored = json.loads((folder / "selftest.json").read_text())
    assert stored["machine"]["cores"] >= 1
    by_kind = {each["what"].split(",")[0]: each["passed"] for each in stored["trials"]}
    assert by_kind.keys() >= {"Timer resolution", "A/A", "Slowed down by 2%", "Slowed down by 900%"}
    assert by_kind["Timer resolution"]
    assert not by_kind["Slowed down by 900%"]
    printed = console.export_text()
    assert "PASS" in printed
    assert "FAIL" in printed
    assert not (tmp_path / "results" / "latest").exists()
    run = Run(folder)
    slowed = [pair for pair in run.pairs if pair.arm.delay == 9.0]
    assert slowed
    for pair in slowed:
        assert 0.03 < run.estimate(pair).speedup < 0.3
    assert all(each.walls_ns[0] > 5 * sum(each.samples_ns) for each in run.turns[ARM.id, slowed[0].case.id])  # it waits
    assert {roof.what for roof in run.roofs} == {"product", "traffic"}
