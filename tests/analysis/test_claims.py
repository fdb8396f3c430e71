"""Claims: what counts as reproduced, and what an empty folder says."""

import csv
import math
from dataclasses import replace

import pytest
from bench.training.course import Epoch
from rich.console import Console

from bench.analysis.claims import (
    BN,
    CLAIMS,
    NOT_REPRODUCED,
    OPEN,
    OPENVINO,
    REPRODUCED,
    SMALL,
    Accuracy,
    Claim,
    Ratio,
    _ratio_verdict,
    judge,
    needed,
)
from bench.analysis.gates import Estimate
from bench.analysis.stats import Interval
from bench.commands import claims
from bench.suite.arms import Arm
from bench.suite.parse import load_suite

RATIO = Ratio("s", SMALL, OPENVINO, Arm("pytorch", "eager"), 2.0)
EPOCH = Epoch(1, 0.1, 10, 1.0, 5, 5, 0, "", 1, 0, 0.92, 1.0, None, None)


def estimate(low, high):
    """Return an estimate with this interval on the ratio."""
    interval = Interval(math.log(low), math.log(high))
    return Estimate(20, math.log(low * high) / 2, interval, interval, (None, None), 0.01)


@pytest.mark.parametrize(("low", "high", "verdict"), [
    (2.5, 2.7, REPRODUCED), (1.9, 2.1, REPRODUCED), (4.0, 5.0, REPRODUCED), (1.5, 1.99, NOT_REPRODUCED),
])  # fmt: skip
def test_a_ratio_is_reproduced_when_its_interval_reaches_the_claim(low, high, verdict) -> None:
    assert _ratio_verdict(RATIO, estimate(low, high)) == verdict


def test_without_an_interval_nothing_is_judged() -> None:
    assert _ratio_verdict(RATIO, replace(estimate(3, 4), interval=None)).startswith(OPEN)


@pytest.mark.parametrize(("accuracies", "verdict"), [
    ((0.92,), REPRODUCED), ((0.916,), REPRODUCED), ((0.91,), NOT_REPRODUCED), ((0.91, 0.925), REPRODUCED),
])  # fmt: skip
def test_an_accuracy_is_reproduced_within_the_chance_of_the_test_images(accuracies, verdict) -> None:
    trained = {"adam": {str(each): [replace(EPOCH, test_accuracy=each)] for each in accuracies}}
    found = judge(Claim("r", "s", Accuracy("adam", 0.92)), {}, trained)
    assert found.verdict == verdict
    assert f"({len(accuracies)} trained" in found.measured


def test_where_images_were_held_out_the_best_epoch_counts() -> None:
    history = [replace(EPOCH, test_accuracy=accuracy, validation_loss=loss) for accuracy, loss in
               ((0.90, 2.0), (0.94, 1.0), (0.93, 1.5))]  # fmt: skip
    assert judge(Claim("r", "s", Accuracy("vgg", 0.92)), {}, {"vgg": {"t": history}}).measured.startswith("94.00%")


def test_every_ratio_is_measured_by_the_suite_that_it_names() -> None:
    for claim in CLAIMS:
        if isinstance(claim.evidence, Ratio):
            suite = load_suite(claim.evidence.suite)
            assert claim.evidence.case in suite.cases
            assert {claim.evidence.arm, claim.evidence.baseline} <= set(suite.arms)
    assert BN in load_suite("claims-inference").cases


def test_what_claims_need_is_named_once() -> None:
    assert needed(CLAIMS, Ratio) == ["claims-training", "claims-inference"]
    assert set(needed(CLAIMS, Accuracy)) == {"vgg", "bn", "adam", "small"}


@pytest.fixture
def made(monkeypatch):
    """Record what claims would measure and train; return the record and what counts as being there."""
    record, there = [], {"runs": set(), "trainings": set()}

    def run(choice, *_) -> int:
        record.append(choice.suite)
        there["runs"].add(choice.suite)
        return 0

    monkeypatch.setattr(claims.run, "run", run)
    monkeypatch.setattr(claims.train, "train", lambda wish, *_: record.append(wish.recipe))
    monkeypatch.setattr(claims, "newest_runs", lambda _: dict.fromkeys(there["runs"]))
    monkeypatch.setattr(claims, "trainings", lambda _: dict.fromkeys(there["trainings"]))
    monkeypatch.setattr(claims, "_trainer", lambda _: "pytorch")
    return record, there


def test_what_is_missing_is_measured_and_trained_and_nothing_else(made, tmp_path) -> None:
    record, there = made
    there["runs"].add("claims-training")
    there["trainings"] |= {"vgg", "bn"}
    claims._measure_missing("quick", tmp_path, "auto", Console(quiet=True), [])
    assert record == ["claims-inference", "adam", "small"]


def test_an_interrupted_run_ends_the_measuring(made, tmp_path, monkeypatch) -> None:
    record, _ = made
    monkeypatch.setattr(claims.run, "run", lambda choice, *_: record.append(choice.suite) or 1)
    claims._measure_missing("quick", tmp_path, "auto", Console(quiet=True), [])
    assert record == ["claims-training"]


def test_claims_are_not_measured_on_other_data(bench) -> None:
    done = bench("claims", "--data", "synthetic")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "claims are about Fashion-MNIST" in done.stderr


def test_an_empty_folder_leaves_claims_open_and_says_so(bench, tmp_path) -> None:
    done = bench("claims", "--only-read", "--results", "r")
    assert done.returncode == 1, done.stderr
    with (tmp_path / "r" / "claims.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(CLAIMS)
    assert {row["verdict"].partition(":")[0] for row in rows} == {OPEN, "not testable here"}
    assert "| recipe vgg |" in (tmp_path / "r" / "claims.md").read_text()
