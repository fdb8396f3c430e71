"""`bench tune` with the toy stack: its files, how it continues, and what it refuses."""

import csv
import sqlite3

import pytest

from bench.training.tune import search_space
from models.recipes.parse import load_recipe

RECIPE = """\
name = "own"
summary = "quick"
network = "cnn-small"
epochs = 3
batch_size = 1024
optimizer = "sgd"
learning_rate = 0.1
rho = 0.05
"""
TUNE = ("tune", "--recipe", "./own.toml", "--stack", "toy", "--data", "synthetic", "--threads", "1", "--epochs", "1")


@pytest.fixture
def own(bench, tmp_path):
    (tmp_path / "own.toml").write_text(RECIPE)
    return lambda *arguments: bench(*TUNE, *arguments), tmp_path / "results" / "tune-own-toy-seed0"


def trials(folder):
    with (folder / "trials.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_a_search_writes_table_plot_and_recipe_and_continues(own, tmp_path) -> None:
    tune, folder = own
    first = tune("--trials", "2")
    assert first.returncode == 0, first.stderr
    assert {path.name for path in folder.iterdir()} == {"study.db", "trials.csv", "trials.svg", "best.toml"}
    before = trials(folder)
    assert [row["trial"] for row in before] == ["1", "2"]
    # As if the second trial had been interrupted.
    with sqlite3.connect(folder / "study.db") as database:
        database.execute("UPDATE trials SET state = 'RUNNING' WHERE number = 1")
    again = tune("--trials", "3")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("held-out accuracy") == 2
    after = trials(folder)
    assert after[0] == before[0]
    assert [row["trial"] for row in after] == ["1", "3", "4"]
    best = load_recipe(str(folder / "best.toml"))
    row = max(after, key=lambda trial: float(trial["held_out_accuracy"]))
    assert best.rho == pytest.approx(float(row["rho"]), rel=1e-4)
    assert best.batch_size == int(row["batch_size"])
    assert (best.name, best.network, best.epochs) == ("own", "cnn-small", 3)


def test_the_same_seed_gives_the_same_trials(own) -> None:
    tune, folder = own
    tune("--trials", "2")
    tune("--trials", "2", "--name", "again")
    ours, theirs = (
        [(row["batch_size"], row["learning_rate"], row["rho"]) for row in trials(path)]
        for path in (folder, folder.parent / "again")
    )
    assert ours == theirs


def test_a_trial_that_diverges_is_a_row_with_its_reason(own) -> None:
    tune, folder = own
    done = tune("--trials", "1", "--variant", "train-diverges")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "none of 1 trials has trained to the end" in done.stderr
    assert "diverged" in trials(folder)[0]["reason"]


def test_a_first_trial_that_diverges_does_not_end_the_search(own) -> None:
    tune, folder = own
    done = tune("--trials", "2", "--variant", "train-diverges")
    assert "none of 2 trials has trained to the end" in done.stderr
    assert len(trials(folder)) == 2


def test_a_search_whose_training_reads_back_another_precision_is_refused(own) -> None:
    tune, folder = own
    done = tune("--trials", "1", "--variant", "train-reduced")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "proof failed: precision read back as bf16, asked for fp32" in done.stderr
    assert not (folder / "trials.csv").exists()


def test_another_search_in_the_same_folder_is_refused(own) -> None:
    tune, folder = own
    tune("--trials", "1")
    done = tune("--trials", "2", "--set", "momentum=0.5", "--name", folder.name)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "holds a search with other settings; choose another --name" in done.stderr


def test_a_damaged_study_is_refused_in_one_line(own) -> None:
    tune, folder = own
    folder.mkdir(parents=True)
    (folder / "study.db").write_bytes(b"no database" * 100)
    done = tune("--trials", "1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "study.db: not a search that can continue" in done.stderr


def test_no_trials_are_refused(own) -> None:
    tune, _ = own
    assert "--trials 0: allowed: 1 to" in tune("--trials", "0").stderr


def test_rho_is_searched_only_where_there_is_one() -> None:
    assert set(search_space(load_recipe("sam"))) == {"batch_size", "learning_rate", "rho"}
    assert set(search_space(load_recipe("adam"))) == {"batch_size", "learning_rate"}
