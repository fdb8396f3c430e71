"""Figures of an evaluation, by hand where they are small, and the command that writes them."""

import csv

import numpy as np
import pytest

from bench.suite.arms import Arm
from bench.training.evaluate import Evaluation, default_arms
from models.data import CLASSES
from models.weights import checkpoint_path
from models.zoo import CNN_SMALL

ARM = Arm("toy", "good")
EVALUATE = ("evaluate", str(checkpoint_path(CNN_SMALL)), "--data", "synthetic", "--threads", "1")


def evaluation(pairs) -> Evaluation:
    """Return an evaluation of images with these (true, predicted) classes, each predicted with certainty."""
    truth = np.array([true for true, _ in pairs])
    logits = np.array([np.eye(len(CLASSES))[predicted] * 9 for _, predicted in pairs])
    return Evaluation(ARM, logits, truth)


def test_the_figures_of_a_class_are_those_of_the_definitions() -> None:
    """Class 0: two of three found, one other taken for it; class 1: the two that were."""
    found = evaluation([(0, 0), (0, 0), (0, 1), (1, 0), (1, 1), *((each, each) for each in range(2, 10))])
    first, second = found.classification[:2]
    assert first["class"] == "T-shirt/top"
    assert (first["precision"], first["recall"], first["support"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3), 3)
    assert first["f1"] == pytest.approx(2 / 3)
    assert first["iou"] == pytest.approx(2 / 4)
    assert (second["precision"], second["recall"], second["iou"]) == (0.5, 0.5, pytest.approx(1 / 3))
    assert found.accuracy == pytest.approx(11 / 13)
    macro, weighted = found.classification[-2:]
    assert macro["recall"] == pytest.approx((2 / 3 + 1 / 2 + 8) / 10)
    assert weighted["recall"] == pytest.approx(found.accuracy)
    assert found.confusion[0].tolist() == [2, 1] + [0] * 8
    assert found.confusion.sum() == 13


def test_the_area_under_a_curve_is_the_chance_that_one_of_the_class_scores_higher() -> None:
    scores = [(0, 3.0), (0, 1.0), (1, 2.0), (1, 0.0)]
    logits = np.array([[score, *[0.0] * 9] for _, score in scores])
    found = Evaluation(ARM, logits, np.array([true for true, _ in scores]))
    assert found.curves[0][2] == pytest.approx(3 / 4)


def test_a_perfect_model_has_perfect_figures() -> None:
    found = evaluation([(each, each) for each in range(10)])
    figures = [row[name] for row in found.classification for name in ("precision", "recall", "f1", "iou", "auc")]
    assert figures == pytest.approx([1] * 60)


def test_arms_stand_side_by_side_and_one_that_can_t_is_named(bench, tmp_path) -> None:
    done = bench(*EVALUATE, "--arms", "toy/good,toy/dies", "--name", "e")
    assert done.returncode == 1, done.stderr
    assert "not evaluated: exited with status 7" in " ".join(done.stdout.split())
    folder = tmp_path / "results" / "e"
    with (folder / "classification.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["class"] for row in rows] == [*CLASSES, "macro average", "weighted average"]
    assert {row["variant"] for row in rows} == {"good"}
    page = (folder / "report.html").read_text()
    assert "Not evaluated: toy dies" in page
    assert "SYNTHETIC DATA" in page
    assert "SYNTHETIC DATA" in done.stdout
    assert {row["data"] for row in rows} == {"synthetic"}
    assert page.count("<svg") == 4
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


@pytest.mark.parametrize(("arguments", "reason"), [
    (["--arms", "jax/good"], "unknown stack 'jax'"),
    (["--arms", "toy/best"], "unknown variant of toy 'best'; allowed: good"),
    (["--arms", "toy/train"], "unknown variant of toy 'train'"),
    (["--arms", "toy/good/bf16"], "unknown precision of toy/good 'bf16'; allowed: fp32"),
    (["--model", "cnn-bn"], "was trained as cnn-small, not as cnn-bn"),
    (["--model", "resnet"], "unknown model 'resnet'"),
    ([], "no stack is installed to evaluate on"),
])  # fmt: skip
def test_what_is_not_allowed_is_refused_in_one_line(bench, tmp_path, arguments, reason) -> None:
    done = bench(*EVALUATE, *arguments, BENCH_ENVIRONMENTS_DIR=str(tmp_path / "none"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert reason in done.stderr


def test_by_default_every_installed_stack_takes_part_once(monkeypatch) -> None:
    monkeypatch.setattr("bench.training.evaluate.is_installed", lambda _: True)
    arms = [arm.id for arm in default_arms()]
    assert arms == ["pytorch/eager", "tensorflow/graph", "ipex/jit", "itex/frozen", "openvino/latency"]
