"""Training from the command line: what is left, what goes on, what is refused. The toy stack needs no framework."""

import csv
import json

import numpy as np
import pytest

from bench.training.train import read_history
from models.weights import load_weights, read_metadata
from models.zoo import CNN_SMALL

RECIPE = """\
name = "own"
summary = "quick"
network = "cnn-small"
epochs = 3
batch_size = 8192
optimizer = "sgd"
learning_rate = 0.1
"""
TRAIN = ("train", "--recipe", "./own.toml", "--stack", "toy", "--data", "synthetic", "--threads", "1")


@pytest.fixture
def own(bench, tmp_path):
    """Return a function that trains the toy by a recipe of its own, and the folder that it fills by default."""
    (tmp_path / "own.toml").write_text(RECIPE)
    return lambda *arguments: bench(*TRAIN, *arguments), tmp_path / "results" / "train-own-toy-seed0"


def test_a_training_leaves_its_model_history_tables_and_pages(own, tmp_path) -> None:
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
    assert [each.epoch for each in history] == [1, 2, 3]
    assert all(each.images == 60_000 and each.wall_ns > each.wait_ns >= 0 for each in history)
    assert len({each.digest for each in history}) == 3
    assert "SYNTHETIC DATA" in (folder / "report.md").read_text()
    with (folder / "confusion.csv").open() as stream:
        assert sum(int(row["images"]) for row in csv.DictReader(stream)) == 10_000


def test_an_interrupted_training_goes_on_and_ends_where_an_uninterrupted_one_does(own, tmp_path) -> None:
    train, folder = own
    done = train("--variant", "train-dies", "--name", "dies")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "exited with status 7" in done.stderr
    assert "2 epochs are kept in results/dies" in done.stderr
    assert train().returncode == 0
    # What the dying process has left is what the other would have left there.
    dies = tmp_path / "results" / "dies"
    assert [each.digest for each in read_history(dies)] == [each.digest for each in read_history(folder)][:2]
    about = json.loads((dies / "training.json").read_text())
    (dies / "training.json").write_text(json.dumps(about | {"variant": "train"}))
    done = train("--name", "dies")
    assert done.returncode == 0, done.stderr
    assert "epoch 3 of 3" in done.stdout
    assert "epoch 2 of 3" not in done.stdout
    ours, theirs = (load_weights(each / "model.safetensors", CNN_SMALL) for each in (dies, folder))
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])
    same = ("epoch", "loss", "digest", "test_accuracy", "test_loss", "learning_rate")
    for one, other in zip(read_history(dies), read_history(folder), strict=True):
        assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]


def test_a_finished_training_is_not_repeated_and_another_one_does_not_overwrite_it(own) -> None:
    train, folder = own
    assert train().returncode == 0
    before = (folder / "model.safetensors").stat().st_mtime_ns
    again = train()
    assert (again.returncode, "was trained before" in again.stdout) == (0, True)
    other = train("--seed", "1", "--name", folder.name)
    assert other.returncode == 2
    assert "holds a training with another seed; choose another --name" in other.stderr
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_training_that_diverges_stops_in_one_line(own) -> None:
    train, folder = own
    done = train("--variant", "train-diverges")
    assert done.returncode == 2
    assert "diverged: the loss of step 4 of 8 is nan" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (folder / "model.safetensors").exists()


def test_patience_ends_a_training_and_brings_the_best_weights_back(own, tmp_path) -> None:
    """The toy's accuracy on held-out images wanders from class to class: some epoch is the best, and not the last."""
    train, folder = own
    (tmp_path / "own.toml").write_text(RECIPE.replace("epochs = 3", "epochs = 40") + "validation = 0.1\npatience = 3\n")
    done = train()
    assert done.returncode == 0, done.stderr
    history = read_history(folder)
    losses = [each.validation_loss for each in history]
    best = losses.index(min(losses))
    assert len(history) == best + 4 < 40
    assert read_metadata(folder / "model.safetensors")["epoch"] == str(best + 1)
    assert all(each.images == 54_000 for each in history)


def test_the_checkpoint_alone_brings_a_training_back(own, tmp_path) -> None:
    """Killed between the checkpoint and what is written from it: nothing is lost, nothing is done twice."""
    train, _ = own
    train("--variant", "train-dies", "--name", "dies")
    folder = tmp_path / "results" / "dies"
    (folder / "history.json").write_text("[]")
    about = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps(about | {"variant": "train"}))
    done = train("--name", "dies")
    assert done.returncode == 0, done.stderr
    assert [each.epoch for each in read_history(folder)] == [1, 2, 3]
    assert "epoch 2 of 3" not in done.stdout


def test_a_report_that_is_not_there_is_made_by_the_same_command(own) -> None:
    train, folder = own
    train()
    (folder / "report.html").unlink()
    assert train().returncode == 0
    assert (folder / "report.html").exists()


@pytest.mark.parametrize(("name", "reason"), [
    ("run.json", "holds something else (run.json); choose another --name"),
    ("model.safetensors", "holds a model.safetensors of which no training is known"),
])  # fmt: skip
def test_a_folder_that_is_something_else_is_left_alone(own, tmp_path, name, reason) -> None:
    train, _ = own
    folder = tmp_path / "results" / "mine"
    folder.mkdir(parents=True)
    (folder / name).touch()
    done = train("--name", "mine")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert reason in done.stderr
    assert [path.name for path in folder.iterdir()] == [name]


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "training.json"])
def test_a_damaged_folder_is_refused_in_one_line_and_left_as_it_is(own, tmp_path, name) -> None:
    train, _ = own
    train("--variant", "train-dies", "--name", "dies")
    damaged = tmp_path / "results" / "dies" / name
    damaged.write_bytes(damaged.read_bytes()[:50])
    done = train("--variant", "train-dies", "--name", "dies")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert name in done.stderr
    assert damaged.read_bytes()[50:] == b""


@pytest.mark.parametrize(("arguments", "reason"), [
    (["--variant", "good"], "unknown training of toy 'good'; allowed: train, train-again"),
    (["--precision", "bf16"], "unknown precision of toy/train 'bf16'; allowed: fp32"),
    (["--epochs", "-1"], "--epochs -1: allowed: 0"),
    (["--seed", "-1"], "--seed -1: allowed: 0 to"),
    (["--name", "../x"], "--name ../x: allowed"),
    (["--set", "epoch=3"], "--set epoch=3: allowed: KEY=VALUE,... with the keys network, epochs"),
    (["--set", "epochs=x"], "epochs is 'x'; allowed: whole numbers"),
    (["--output", "x.pth"], "--output x.pth: allowed: a file that ends in .safetensors"),
    (["--results", "/proc/x"], "can't be made"),
])  # fmt: skip
def test_what_is_not_allowed_is_refused_in_one_line(own, tmp_path, arguments, reason) -> None:
    train, _ = own
    done = train(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert reason in done.stderr
    assert not (tmp_path / "results").exists() or not any((tmp_path / "results").rglob("*.json"))


def test_a_change_by_hand_shows_in_the_folder_s_name(own, tmp_path) -> None:
    train, _ = own
    assert train("--set", "epochs=1,learning_rate=0.2").returncode == 0
    about = json.loads((tmp_path / "results/train-epochs-1-learning-rate-0.2-own-toy-seed0/training.json").read_text())
    assert (about["recipe"]["learning_rate"], about["epochs"]) == (0.2, 1)


@pytest.mark.stacks
def test_a_model_trained_on_one_stack_answers_alike_on_all_others(bench, tmp_path) -> None:
    """One epoch on the real data where it is there; as a file for other tools too."""
    done = bench("train", "--recipe", "adam", "--stack", "ipex", "--epochs", "1", "--name", "t")
    assert done.returncode == 0, done.stderr
    assert bench("evaluate", "results/t").returncode == 0
    with (tmp_path / "results" / "t" / "classification.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["stack"] for row in rows} == {"pytorch", "tensorflow", "ipex", "itex", "openvino"}
    accuracies = {float(row["accuracy"]) for row in rows}
    assert max(accuracies) - min(accuracies) <= 5e-4
    assert min(accuracies) > 0.85
    for name in ("m.pth", "m.h5", "m.xml"):
        assert bench("export", "results/t", name).returncode == 0
    before = load_weights(tmp_path / "results/t/model.safetensors", CNN_SMALL)
    for name in ("m.pth", "m.h5"):
        assert bench("import", name, "back.safetensors", "--model", "cnn-small").returncode == 0
        after = load_weights(tmp_path / "back.safetensors", CNN_SMALL)
        assert all(np.array_equal(before[each], after[each]) for each in before)
