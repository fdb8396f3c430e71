"""A training run, end to end, with stacks that need no framework."""

import csv

import pytest

from bench.analysis.run import Run
from bench.records import TrainedEpoch
from bench.run_info import read_run
from tests.command_line import run_bench

SUITE = """\
name = "school"
summary = "toys that train"
scenarios = ["training"]
models = ["cnn-small"]
batch_sizes = [64]
precisions = ["fp32", "bf16"]
recipe = "adam"
epochs = 3
arms = ["pupil/train", "toy/train", "toy/train-diverges", "toy/train-dies"]
baselines = ["pupil/train"]
primary = ["toy/train"]
[[ladders]]
name = "toy"
steps = [["baseline", "pupil/train"], ["toy", "toy/train"]]
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Measure once; return the folder of the run and the finished command."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "school.toml").write_text(SUITE)
    options = ("--preset", "smoke", "--data", "synthetic", "--name", "r", "--seed", "5", "--threads", "1")
    return folder / "results" / "r", run_bench(folder, "run", "--suite", "./school.toml", *options)


def rows(folder, name):
    with (folder / name).open() as stream:
        return list(csv.DictReader(stream))


def test_arms_that_fail_are_rows_with_reasons_and_the_others_are_measured(measured) -> None:
    folder, done = measured
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    arms = {(row["stack"], row["variant"], row["precision"], row["replica"]): row for row in rows(folder, "arms.csv")}
    assert arms["toy", "train", "fp32", "False"]["status"] == "measured"
    assert arms["pupil", "train", "fp32", "True"]["status"] == "measured"
    assert (
        "diverged: the loss of step 4 of the epoch is nan" in arms["toy", "train-diverges", "fp32", "False"]["reason"]
    )
    assert "exited with status 7" in arms["toy", "train-dies", "fp32", "False"]["reason"]
    assert arms["toy", "train", "bf16", "False"]["status"] == "skipped"


def test_arms_train_on_equal_batches_in_each_epoch(measured) -> None:
    folder, _ = measured
    epochs = Run(folder).of(TrainedEpoch)
    places = {(epoch.block, epoch.round) for epoch in epochs}
    assert places == {(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)}
    for place in places:
        turn = [epoch for epoch in epochs if (epoch.block, epoch.round) == place]
        assert len({epoch.result.digest for epoch in turn}) == 1
        assert {epoch.result.images for epoch in turn} == {6400}
        assert sorted(epoch.position for epoch in turn) == sorted({epoch.position for epoch in turn})
    assert len({epoch.result.digest for epoch in epochs}) == len(places)
    assert all((epoch.test_accuracy is None) == (epoch.block == 2) for epoch in epochs)


def test_speedups_have_verdicts_and_training_has_its_table(measured) -> None:
    folder, _ = measured
    speedups = {(row["stack"], row["variant"], row["family"]): row for row in rows(folder, "speedups.csv")}
    # The preset smoke claims nothing.
    assert speedups["toy", "train", "primary"]["verdict"] == "UNRESOLVED"
    assert float(speedups["toy", "train", "primary"]["speedup"]) > 0
    assert speedups["toy", "train-diverges", "exploratory"]["verdict"] == "FAILED"
    training = {(row["stack"], row["variant"], row["replica"]): row for row in rows(folder, "training.csv")}
    ours = training["toy", "train", "False"]
    assert (ours["epochs"], ours["seeds"], ours["judgement"]) == ("5", "1", "too few seeds")
    assert float(ours["epoch_s"]) > 0
    assert 0 <= float(ours["wait_share"]) < 1
    assert float(ours["accuracy"]) == float(training["pupil", "train", "False"]["accuracy"])


def test_the_report_is_about_epochs(measured) -> None:
    folder, done = measured
    page = (folder / "report.html").read_text()
    assert "<h2>Training</h2>" in page
    assert "Epoch, s, arm / baseline" in page
    assert "<h2>Costs</h2>" not in page
    assert "toy_kernel" in page
    assert "SYNTHETIC DATA" in page
    assert "report: results/r/report.html" in done.stdout
    training = read_run(folder).suite.training
    assert training is not None
    assert (training.recipe.name, training.epochs, training.images, training.seeds) == ("adam", 3, 6400, 1)


def test_the_report_can_be_made_again_from_the_journal_alone(measured) -> None:
    folder, _ = measured
    before = {name: (folder / name).read_bytes() for name in ("report.md", "report.html", "training.csv", "arms.csv")}
    assert run_bench(folder.parent.parent, "report", "results/r").returncode == 1
    assert before == {name: (folder / name).read_bytes() for name in before}


@pytest.mark.parametrize(("old", "new", "reason"), [
    ('recipe = "adam"\n', "", "the scenario 'training' needs a recipe and epochs"),
    ("epochs = 3", "epochs = 1", "line 8: epochs must be a whole number from 2 to 10000, not 1"),
    ('recipe = "adam"', 'recipe = "eve"', "line 7: unknown recipe 'eve'; allowed: adam, bn, fast, fast-94, sam"),
    ('"toy/train-dies"]', '"toy/train-dies", "toy/good"]', "line 9: 'toy/good' takes part in none of training"),
    ('["training"]', '["latency"]', "the scenario 'training' needs a recipe and epochs, and no other does"),
    ('["training"]', '["training", "latency"]', "line 3: 'training' can't be combined with other scenarios"),
    ("epochs = 3", "epochs = 3\nimages = 0", "line 9: images must be a whole number from 1 to 60000, not 0"),
])  # fmt: skip
def test_an_error_in_a_suite_is_reported_with_its_line(bench, tmp_path, old, new, reason) -> None:
    (tmp_path / "school.toml").write_text(SUITE.replace(old, new))
    done = bench("run", "--suite", "./school.toml", "--preset", "smoke", "--data", "synthetic")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert reason in done.stderr
