"""Metrics of an evaluation, compared with values by hand, and the command that writes them."""

import csv
import re

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
    """Return an evaluation of images with these (true, predicted) classes, all predicted with certainty."""
    truth = np.array([true for true, _ in pairs])
    logits = np.array([np.eye(len(CLASSES))[predicted] * 9 for _, predicted in pairs])
    return Evaluation(ARM, logits, truth)


def test_the_metrics_follow_their_definitions() -> None:
    # Class 0: two of three recognised, one false positive. Class 1: one of two recognised, one false positive.
    metrics = evaluation([(0, 0), (0, 0), (0, 1), (1, 0), (1, 1), *((index, index) for index in range(2, 10))])
    first, second = metrics.classification[:2]
    assert first["class"] == "T-shirt/top"
    assert (first["precision"], first["recall"], first["support"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3), 3)
    assert first["f1"] == pytest.approx(2 / 3)
    assert first["iou"] == pytest.approx(2 / 4)
    assert (second["precision"], second["recall"], second["iou"]) == (0.5, 0.5, pytest.approx(1 / 3))
    assert metrics.accuracy == pytest.approx(11 / 13)
    macro, weighted = metrics.classification[-2:]
    assert macro["recall"] == pytest.approx((2 / 3 + 1 / 2 + 8) / 10)
    assert weighted["recall"] == pytest.approx(metrics.accuracy)
    assert metrics.confusion[0].tolist() == [2, 1] + [0] * 8
    assert metrics.confusion.sum() == 13


def test_the_area_under_a_curve_is_the_probability_that_an_image_of_the_class_scores_higher() -> None:
    scores = [(0, 3.0), (0, 1.0), (1, 2.0), (1, 0.0)]
    logits = np.array([[score, *[0.0] * 9] for _, score in scores])
    metrics = Evaluation(ARM, logits, np.array([true for true, _ in scores]))
    assert metrics.curves[0][2] == pytest.approx(3 / 4)


def test_a_perfect_model_has_perfect_metrics() -> None:
    metrics = evaluation([(index, index) for index in range(10)])
    figures = [row[name] for row in metrics.classification for name in ("precision", "recall", "f1", "iou", "auc")]
    assert figures == pytest.approx([1] * 60)


def test_arms_are_reported_together_and_a_failed_one_with_its_reason(bench, tmp_path) -> None:
    done = bench(*EVALUATE, "--arms", "toy/good,toy/dies", "--name", "e")
    assert done.returncode == 1, done.stderr
    assert "toy dies is not evaluated: exited with status 7" in " ".join(done.stdout.split())
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
    assert page.count('class="wide"') == page.count('class="narrow"') == 4
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_an_arm_proves_its_outputs_precision_and_threads_as_in_a_run(bench, tmp_path) -> None:
    names = ("good", "bf16", "unproven", "wrong", "exact/int8", "rounded/int8")
    done = bench(*EVALUATE, "--arms", ",".join(f"toy/{name}" for name in names), "--name", "e")
    assert done.returncode == 1, done.stderr
    for reason in (
        "toy bf16 is not evaluated: proof failed: precision read back as bf16, asked for fp32",
        "toy unproven is not evaluated: proof failed: nothing special ran",
        "toy wrong is not evaluated: proof failed: logits differ from the oracle's by 0.01",
        "toy exact int8 is not evaluated: proof failed: logits equal those of fp32",
    ):
        assert reason in done.stdout
    with (tmp_path / "results" / "e" / "classification.csv").open() as stream:
        read_back = {row["variant"]: row["precision_read_back"] for row in csv.DictReader(stream)}
    assert read_back == {"good": "fp32", "rounded": "int8"}


def test_a_precision_that_the_cpu_lacks_is_refused_before_anything_is_evaluated(bench, tmp_path) -> None:
    limit = ("--env", "ONEDNN_MAX_CPU_ISA=AVX")
    done = bench(*EVALUATE, "--arms", "toy/good,toy/rounded/int8", "--name", "e", *limit)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--arms toy/rounded/int8: " in done.stderr
    assert "none of avx512_vnni, avx_vnni, amx_int8" in done.stderr
    assert not (tmp_path / "results").exists()


def test_the_users_variables_are_said(bench, tmp_path) -> None:
    done = bench(*EVALUATE, "--arms", "toy/good", "--name", "e", "--env", "ODD=1", CXX="cc", KMP_AFFINITY="none")
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, (tmp_path / "results" / "e" / "report.md").read_text().replace("\\", "")):
        assert "Environment variables set for all arms with --env: ODD=1" in text
        assert "Environment variables handed on to all arms: CXX=cc" in text
        assert re.search(r"Environment variables not handed on: .*KMP_AFFINITY", text)


@pytest.mark.parametrize(("arguments", "reason"), [
    (["--env", "OMP_NUM_THREADS=1"], "--env OMP_NUM_THREADS: the harness sets the number of threads; use --threads"),
    (["--arms", "jax/good"], "unknown stack 'jax'"),
    (["--arms", "toy/best"], "unknown variant of toy 'best'; allowed: good"),
    (["--arms", "toy/train"], "unknown variant of toy 'train'"),
    (["--arms", "toy/good/bf16"], "unknown precision of toy/good 'bf16'; allowed: fp32"),
    (["--model", "cnn-bn"], "was trained as cnn-small, not as cnn-bn"),
    (["--model", "resnet"], "unknown model 'resnet'"),
])  # fmt: skip
def test_invalid_options_are_refused_in_one_line(bench, tmp_path, arguments, reason) -> None:
    done = bench(*EVALUATE, *arguments, BENCH_ENVIRONMENTS_DIR=str(tmp_path / "none"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert reason in done.stderr


def test_without_any_stack_there_is_one_line(bench, tmp_path) -> None:
    done = bench(*EVALUATE, BENCH_ENVIRONMENTS_DIR=str(tmp_path / "none"), BENCH_BACKENDS=str(tmp_path / "none"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no stack is installed to evaluate on" in done.stderr


def test_by_default_every_installed_stack_is_evaluated_once(monkeypatch) -> None:
    monkeypatch.setattr("bench.training.evaluate.is_installed", lambda _: True)
    arms = [arm.id for arm in default_arms()]
    assert arms == [
        "pytorch/eager",
        "tensorflow/graph",
        "ipex/jit",
        "itex/frozen",
        "onnxruntime/session",
        "openvino/latency",
    ]
