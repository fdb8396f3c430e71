"""`bench claims`: what it reads, measures and writes."""

import csv
from dataclasses import replace

import pytest
from rich.console import Console

from backends.registry import stacks
from bench.analysis.claims import CLAIMS, OPEN, TrainedModel
from bench.commands import claims
from bench.machine.facts import Machine
from bench.run_info import DataInfo
from bench.suite.schedule import PRESETS
from bench.training.history import (
    MODEL_FILE,
    TRAINING_SCHEMA,
    Epoch,
    JobInfo,
    TrainingRecord,
    write_history,
    write_training,
)
from bench.worker.messages import EpochReply
from models.recipes.parse import load_recipe
from tests.analysis.recorded_run import inference_run

EPOCH = Epoch(1, 0.1, EpochReply(10, 1.0, 5, 5, 0, "", 1, 0), 0.92, 1.0, None, None)


def recorded(folder, started, *, suite="claims-inference", **options):
    builder = inference_run(folder, **options)
    return builder.describe(suite=replace(builder.info.suite, name=suite), started=started).write()


def trained(folder, recipe, accuracies, *, epochs=None, data="fashion-mnist", complete=True):
    """Write the folder of a training with these test accuracies after its epochs."""
    folder.mkdir()
    epochs = epochs or len(accuracies)
    job = JobInfo(recipe, "n", "pytorch", "train", "fp32", epochs, 1, 2, DataInfo(data, "d"))
    write_training(folder, TrainingRecord(TRAINING_SCHEMA, (), "", None, Machine("c", 2, 2), job))
    write_history(folder, [replace(EPOCH, test_accuracy=accuracy) for accuracy in accuracies])
    if complete:
        (folder / MODEL_FILE).touch()


def test_the_newest_run_of_a_suite_that_counts_is_taken(tmp_path) -> None:
    recorded(tmp_path / "old", "2026-01-01")
    recorded(tmp_path / "new", "2026-01-03")
    recorded(tmp_path / "newer-synthetic", "2026-01-04", data="synthetic")
    recorded(tmp_path / "newest-smoke", "2026-01-05", preset="smoke")
    recorded(tmp_path / "other", "2026-01-06", suite="inference")
    damaged = recorded(tmp_path / "damaged", "2026-01-07")
    (damaged / "run.json").write_text("{")
    (tmp_path / "latest").symlink_to(tmp_path / "old")
    newest = claims.newest_runs(tmp_path)
    assert {suite: run.folder.name for suite, run in newest.items()} == {"claims-inference": "new"}


def test_only_finished_trainings_with_a_published_recipe_on_the_real_data_count(tmp_path) -> None:
    adam = load_recipe("adam")
    trained(tmp_path / "good", adam, (0.9, 0.92))
    trained(tmp_path / "also", adam, (0.9, 0.91))
    trained(tmp_path / "shorter", adam, (0.93,))
    trained(tmp_path / "synthetic", adam, (0.9, 0.92), data="synthetic")
    trained(tmp_path / "unfinished", adam, (0.9, 0.92), complete=False)
    trained(tmp_path / "changed", replace(adam, learning_rate=0.5), (0.9, 0.92))
    trained(tmp_path / "own", replace(adam, name="own"), (0.9, 0.92))
    trained(tmp_path / "damaged", adam, (0.9, 0.92))
    (tmp_path / "damaged" / "history.json").write_text("[{}]")
    trained(tmp_path / "impossible", adam, (0.9, 0.92), epochs=-5)
    assert claims.trainings(tmp_path) == {"adam": {"also": TrainedModel(0.91, 2), "good": TrainedModel(0.92, 2)}}


def test_of_a_recipe_with_early_stopping_the_best_epoch_counts() -> None:
    history = [
        replace(EPOCH, test_accuracy=accuracy, validation_loss=loss)
        for accuracy, loss in ((0.90, 2.0), (0.94, 1.0), (0.93, 1.5))
    ]
    assert claims.trained_model(load_recipe("vgg"), history) == TrainedModel(0.94, 3)
    assert claims.trained_model(load_recipe("adam"), history) == TrainedModel(0.93, 3)


@pytest.fixture
def measured(monkeypatch):
    """Record what claims would measure and train; return the record and what counts as being there."""
    record, there = [], {"runs": set(), "trainings": set()}

    def run(options, *_) -> int:
        record.append(options.suite.name)
        there["runs"].add(options.suite.name)
        return 0

    monkeypatch.setattr(claims, "measure_suite", run)
    monkeypatch.setattr(claims, "train_model", lambda options, *_: record.append(options.recipe.name))
    monkeypatch.setattr(claims, "newest_runs", lambda _: dict.fromkeys(there["runs"]))
    monkeypatch.setattr(claims, "trainings", lambda _: dict.fromkeys(there["trainings"]))
    monkeypatch.setattr(claims, "_trainer", lambda _: stacks()["pytorch"])
    return record, there


def test_only_missing_runs_and_trainings_are_measured(measured, tmp_path) -> None:
    record, there = measured
    there["runs"].add("claims-training")
    there["trainings"] |= {"vgg", "bn"}
    claims._measure_missing(PRESETS["quick"], tmp_path, "auto", Console(quiet=True))
    assert record == ["claims-inference", "claims-vendors", "adam", "small"]


def test_an_interrupted_run_ends_the_measuring(measured, tmp_path, monkeypatch) -> None:
    record, _ = measured
    monkeypatch.setattr(claims, "measure_suite", lambda options, *_: record.append(options.suite.name) or 1)
    claims._measure_missing(PRESETS["quick"], tmp_path, "auto", Console(quiet=True))
    assert record == ["claims-training"]


def test_claims_are_not_measured_on_other_data(bench) -> None:
    done = bench("claims", "--data", "synthetic")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "claims are about Fashion-MNIST" in done.stderr


def test_an_empty_folder_leaves_claims_open_and_says_so(bench, tmp_path) -> None:
    (tmp_path / "r").mkdir()
    done = bench("claims", "--only-read", "--results", "r")
    assert done.returncode == 1, done.stderr
    with (tmp_path / "r" / "claims.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(CLAIMS)
    assert {row["verdict"].partition(":")[0] for row in rows} == {OPEN, "not testable here"}
    assert "| recipe vgg |" in (tmp_path / "r" / "claims.md").read_text()
