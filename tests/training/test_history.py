"""When a training ends, which epoch is the best, and what its files accept."""

import json
import math
from dataclasses import replace

import pytest

from bench.machine.facts import Machine
from bench.run_info import DataInfo
from bench.training.history import (
    Epoch,
    JobInfo,
    TrainingRecord,
    best_epoch,
    is_over,
    read_history,
    read_training,
    write_history,
    write_training,
)
from bench.worker.messages import EpochReply
from models.errors import UserError
from models.recipes.parse import load_recipe

VGG = load_recipe("vgg")
EPOCH = Epoch(1, 0.1, EpochReply(10, 1.0, 5, 5, 0, "", 1, 0), 0.5, 1.0, None, None)
JOB = JobInfo(VGG, "n", "toy", "train", "fp32", 3, 0, 1, DataInfo("synthetic", "d"))
RECORD = TrainingRecord(1, ("bench", "train"), "2026-01-01T00:00:00+00:00", None, Machine("cpu", 2, 2), JOB)


def history(*losses):
    return [replace(EPOCH, validation_loss=loss) for loss in losses]


def test_a_training_ends_after_its_epochs_or_when_its_patience_is_exhausted() -> None:
    patient = replace(VGG, patience=2)
    assert not is_over(patient, 5, [])
    assert not is_over(patient, 5, history(3.0, 1.0, 2.0))
    assert is_over(patient, 5, history(3.0, 1.0, 2.0, 2.0))
    assert is_over(replace(VGG, patience=0), 2, history(1.0, 2.0))
    assert not is_over(replace(VGG, patience=0), 3, history(1.0, 2.0))


def test_the_best_epoch_has_the_lowest_validation_loss() -> None:
    assert best_epoch(history(3.0, 1.0, 2.0, 1.0)) == 1
    assert best_epoch(history(math.inf)) == 0


def test_files_of_a_training_are_read_back_as_written(tmp_path) -> None:
    write_training(tmp_path, RECORD)
    write_history(tmp_path, history(3.0, 1.0))
    assert read_training(tmp_path) == RECORD
    assert read_history(tmp_path) == history(3.0, 1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 0},
        {"test_accuracy": 1.1},
        {"test_accuracy": -0.1},
        {"validation_accuracy": 2.0},
        {"test_loss": -1.0},
        {"result": replace(EPOCH.result, wall_ns=0)},
        {"result": replace(EPOCH.result, images=0)},
    ],
    ids=str,
)
def test_epochs_that_no_training_has_are_refused(tmp_path, change) -> None:
    write_history(tmp_path, [EPOCH, replace(EPOCH, **change)])
    with pytest.raises(UserError, match=r"history\.json: damaged \(1 is not an epoch"):
        read_history(tmp_path)


def test_the_files_are_flat(tmp_path) -> None:
    """Tools read these keys, in this order."""
    write_training(tmp_path, RECORD)
    write_history(tmp_path, history(1.0))
    assert list(json.loads((tmp_path / "training.json").read_text())) == [
        "schema", "command", "started", "git_commit", "machine", "recipe", "network", "stack", "variant", "precision",
        "epochs", "seed", "threads", "data", "env", "variables", "proof",
    ]  # fmt: skip
    assert list(json.loads((tmp_path / "history.json").read_text())[0]) == [
        "epoch", "learning_rate", "images", "loss", "wall_ns", "cpu_ns", "wait_ns", "digest", "memory_bytes",
        "involuntary_switches", "losses", "test_accuracy", "test_loss", "validation_accuracy", "validation_loss",
        "start_cpu_ns", "start_wall_ns",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 7}, "does not describe a training that this version reads"),
        ({"recipe": {}}, "damaged: recipe lacks batch_size"),
        ({"seed": "0"}, "damaged: seed must be an integer"),
        ({"machine": None}, "damaged: machine must be an object"),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, change, reason) -> None:
    write_training(tmp_path, RECORD)
    path = tmp_path / "training.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=reason):
        read_training(tmp_path)


@pytest.mark.parametrize("text", ["{}", "[{}]", "[1]", "[" * 100_000, "[NaN]", "\x00"])
def test_a_damaged_history_is_refused(tmp_path, text) -> None:
    (tmp_path / "history.json").write_text(text)
    with pytest.raises(UserError, match=r"history.json: damaged \(.*\); move the folder away"):
        read_history(tmp_path)
