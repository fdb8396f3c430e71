"""`bench train` with the toy stack: its files, how it continues, and what it refuses."""

import csv
import json

import numpy as np
import pytest

from bench.codec import encode
from bench.training.cost import cost_of
from bench.training.history import read_history, read_training
from models.weights import load_weights, read_metadata
from models.zoo import CNN_SMALL
from tests.command_line import FEW_IMAGES
from tests.shortened import TRAINING_IMAGES

RECIPE = """\
name = "own"
summary = "quick"
network = "cnn-small"
epochs = 3
batch_size = 1024
optimizer = "sgd"
learning_rate = 0.1
target = 0.99
"""
TRAIN = ("train", "--recipe", "./own.toml", "--stack", "toy", "--data", "synthetic", "--threads", "1")


@pytest.fixture
def own(bench, tmp_path):
    """Return a function that trains the toy with a small recipe, and its default folder."""
    (tmp_path / "own.toml").write_text(RECIPE)
    return lambda *arguments: bench(*TRAIN, *arguments), tmp_path / "results" / "train-own-toy-seed0"


def test_a_training_writes_its_model_history_tables_and_reports(own, tmp_path) -> None:
    train, folder = own
    done = train("--output", "copy.safetensors")
    assert done.returncode == 0, done.stderr
    assert "epoch 3 of 3: loss " in done.stdout
    assert "trained, 3 epochs, test accuracy " in done.stdout
    assert {path.name for path in folder.iterdir()} == {
        "training.json", "history.json", "history.csv", "model.safetensors", "classification.csv", "confusion.csv",
        "roc.csv", "report.md", "report.html", "plots",
    }  # fmt: skip
    assert {path.stem for path in (folder / "plots").iterdir()} == {
        "architecture", "learning-curves", "classes", "confusion", "roc",
    }  # fmt: skip
    assert (tmp_path / "copy.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    about = json.loads((folder / "training.json").read_text())
    assert (about["recipe"]["name"], about["stack"], about["variant"], about["seed"]) == ("own", "toy", "train", 0)
    facts = read_metadata(folder / "model.safetensors")
    assert (facts["network"], facts["epochs"], facts["data"]) == ("cnn-small", "3", "synthetic")
    history = read_history(folder)
    assert [epoch.epoch for epoch in history] == [1, 2, 3]
    assert {epoch.result.images for epoch in history} == {TRAINING_IMAGES}
    assert all(epoch.result.wall_ns > epoch.result.wait_ns >= 0 for epoch in history)
    assert len({epoch.result.digest for epoch in history}) == 3
    assert [epoch.start_cpu_ns > 0 and epoch.start_wall_ns > 0 for epoch in history] == [True, False, False]
    assert f"1 threads: {cost_of(history).text}; target 99.00% missed" in done.stdout.replace("\n", " ")
    assert f"Cost: {cost_of(history).text}. Target 99.00% missed." in (folder / "report.md").read_text()
    assert "SYNTHETIC DATA" in (folder / "report.md").read_text()
    with (folder / "confusion.csv").open() as stream:
        assert sum(int(row["images"]) for row in csv.DictReader(stream)) == FEW_IMAGES


def digests(folder):
    return [epoch.result.digest for epoch in read_history(folder)]


def test_a_continued_training_gives_the_same_model_as_an_uninterrupted_one(own, tmp_path) -> None:
    train, folder = own
    done = train("--variant", "train-dies", "--name", "dies")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "exited with status 7" in done.stderr
    assert "2 epochs are kept in results/dies" in done.stderr
    assert train().returncode == 0
    dies = tmp_path / "results" / "dies"
    assert digests(dies) == digests(folder)[:2]
    about = json.loads((dies / "training.json").read_text())
    (dies / "training.json").write_text(json.dumps(about | {"variant": "train"}))
    done = train("--name", "dies")
    assert done.returncode == 0, done.stderr
    assert "epoch 3 of 3" in done.stdout
    assert "epoch 2 of 3" not in done.stdout
    ours, theirs = (load_weights(path / "model.safetensors", CNN_SMALL) for path in (dies, folder))
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])
    same = ("epoch", "loss", "digest", "test_accuracy", "test_loss", "learning_rate")
    for one, other in zip(read_history(dies), read_history(folder), strict=True):
        assert [encode(one)[name] for name in same] == [encode(other)[name] for name in same]


def test_a_finished_training_is_neither_repeated_nor_overwritten(own) -> None:
    train, folder = own
    assert train().returncode == 0
    before = (folder / "model.safetensors").stat().st_mtime_ns
    again = train()
    assert (again.returncode, "was trained before" in again.stdout) == (0, True)
    other = train("--seed", "1", "--name", folder.name)
    assert other.returncode == 2
    assert "holds a training with another seed; choose another --name" in other.stderr
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_training_that_diverges_is_an_error_in_one_line(own) -> None:
    train, folder = own
    done = train("--variant", "train-diverges")
    assert done.returncode == 2
    assert "diverged: the loss of step 4 of the epoch is nan" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (folder / "model.safetensors").exists()


def test_a_training_that_reads_back_another_precision_is_refused_before_its_first_epoch(own) -> None:
    train, folder = own
    done = train("--variant", "train-reduced")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "epoch" not in done.stdout
    assert "proof failed: precision read back as bf16, asked for fp32" in done.stderr
    assert list(folder.iterdir()) == []


def test_what_a_training_read_back_and_the_users_variables_are_stored(own) -> None:
    train, folder = own
    assert train("--env", "ODD=1").returncode == 0
    record = read_training(folder)
    assert (record.proof.precision, record.proof.threads, record.proof.kernels) == ("fp32", 1, ("toy_kernel",))
    assert record.variables.given == record.job.env == {"ODD": "1"}


def test_a_training_continues_only_with_the_same_variables(own) -> None:
    train, _ = own
    assert train("--variant", "train-dies", "--env", "ODD=1").returncode == 2
    done = train("--variant", "train-dies")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "holds a training with another env; choose another --name" in done.stderr


def test_early_stopping_ends_a_training_and_keeps_the_best_weights(own, tmp_path) -> None:
    # The toy's validation loss goes up and down, so that its best epoch is not its last.
    train, folder = own
    (tmp_path / "own.toml").write_text(RECIPE.replace("epochs = 3", "epochs = 40") + "validation = 0.1\npatience = 3\n")
    done = train()
    assert done.returncode == 0, done.stderr
    history = read_history(folder)
    losses = [epoch.validation_loss for epoch in history]
    best = losses.index(min(losses))
    assert len(history) == best + 4 < 40
    assert read_metadata(folder / "model.safetensors")["epoch"] == str(best + 1)
    assert all(epoch.result.images == 0.9 * TRAINING_IMAGES for epoch in history)


def test_a_training_continues_from_the_checkpoint_alone(own, tmp_path) -> None:
    """A kill between the checkpoint and history.json loses and repeats nothing."""
    train, _ = own
    train("--variant", "train-dies", "--name", "dies")
    folder = tmp_path / "results" / "dies"
    (folder / "history.json").write_text("[]")
    about = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps(about | {"variant": "train"}))
    done = train("--name", "dies")
    assert done.returncode == 0, done.stderr
    assert [epoch.epoch for epoch in read_history(folder)] == [1, 2, 3]
    assert "epoch 2 of 3" not in done.stdout


def test_the_same_command_writes_a_missing_report(own) -> None:
    train, folder = own
    train()
    (folder / "report.html").unlink()
    assert train().returncode == 0
    assert (folder / "report.html").exists()


@pytest.mark.parametrize(("name", "reason"), [
    ("run.json", "holds something else (run.json); choose another --name"),
    ("model.safetensors", "holds a model.safetensors but no training"),
])  # fmt: skip
def test_a_folder_that_holds_something_else_is_refused(own, tmp_path, name, reason) -> None:
    train, _ = own
    folder = tmp_path / "results" / "mine"
    folder.mkdir(parents=True)
    (folder / name).touch()
    done = train("--name", "mine")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert reason in done.stderr
    assert [path.name for path in folder.iterdir()] == [name]


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "training.json"])
def test_a_damaged_folder_is_refused_in_one_line_and_left_unchanged(own, tmp_path, name) -> None:
    train, _ = own
    train("--variant", "train-dies", "--name", "dies")
    damaged = tmp_path / "results" / "dies" / name
    damaged.write_bytes(damaged.read_bytes()[:50])
    done = train("--variant", "train-dies", "--name", "dies")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert name in done.stderr
    assert damaged.read_bytes()[50:] == b""


@pytest.mark.parametrize("name", ["history.json", "training.json"])
def test_damaged_files_are_an_error_before_an_evaluation_starts(own, bench, name) -> None:
    train, folder = own
    assert train().returncode == 0
    content = json.loads((folder / name).read_text())
    damaged = [{"epoch": 1}] if name == "history.json" else content | {"recipe": 1}
    (folder / name).write_text(json.dumps(damaged))
    done = bench("evaluate", str(folder), "--arms", "toy/good", "--data", "synthetic", "--threads", "1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Accuracy" not in done.stdout
    assert f"{name}: damaged" in done.stderr


@pytest.mark.parametrize(("arguments", "reason"), [
    (["--variant", "good"], "unknown training of toy 'good'; allowed: train, train-again"),
    (["--precision", "bf16"], "unknown precision of toy/train 'bf16'; allowed: fp32"),
    (["--epochs", "-1"], "--epochs -1: allowed: 0"),
    (["--env", "A"], "--env A: allowed: NAME=VALUE"),
    (["--seed", "-1"], "--seed -1: allowed: 0 to"),
    (["--name", "../x"], "--name ../x: allowed"),
    (["--set", "epoch=3"], "--set epoch=3: allowed: KEY=VALUE,... with the keys network, epochs"),
    (["--set", "epochs=0x" + "F" * 5000], "epochs is '0xF"),
    (["--set", "epochs=" + "[" * 5000], "epochs is '[["),
    (["--set", "epochs=x"], "epochs is 'x'; allowed: whole numbers"),
    (["--output", "x.pth"], "--output x.pth: allowed: a file that ends in .safetensors"),
    (["--results", "/proc/x"], "can't be made"),
])  # fmt: skip
def test_invalid_options_are_refused_in_one_line(own, tmp_path, arguments, reason) -> None:
    train, _ = own
    done = train(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert reason in done.stderr
    assert not (tmp_path / "results").exists() or not any((tmp_path / "results").rglob("*.json"))


def test_changes_of_the_recipe_appear_in_the_name_of_the_folder(own, tmp_path) -> None:
    train, _ = own
    assert train("--set", "epochs=1,learning_rate=0.2").returncode == 0
    about = json.loads((tmp_path / "results/train-epochs-1-learning-rate-0.2-own-toy-seed0/training.json").read_text())
    assert (about["recipe"]["learning_rate"], about["epochs"]) == (0.2, 1)
