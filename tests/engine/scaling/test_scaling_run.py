"""A run of the suite of workers that train together, end to end, with stacks that need no framework."""

import csv
import os

import pytest

from bench.analysis.run import Run
from bench.records import Ranks, SingleEpoch, TrainedEpoch
from tests.command_line import run_bench

SUITE = """\
name = "classes"
summary = "toys that train together"
scenarios = ["training"]
models = ["cnn-small"]
batch_sizes = [64]
precisions = ["fp32"]
workers = [1, 2]
scaling = ["strong", "weak"]
recipe = "adam"
epochs = 2
images = 1280
arms = ["pupil/train", "toy/train", "toy/train-rank-dies", "toy/train-alone", "toy/train-otherwise"]
baselines = ["pupil/train"]
primary = ["toy/train"]
"""
ONE, STRONG, WEAK = (f"cnn-small/training/b64/{name}" for name in ("w1", "w2-strong", "w2-weak"))
needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need a core each")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Measure once; return the folder of the run and the finished command."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "classes.toml").write_text(SUITE)
    options = ("--preset", "smoke", "--data", "synthetic", "--name", "r", "--seed", "5")
    return folder / "results" / "r", run_bench(folder, "run", "--suite", "./classes.toml", *options)


def rows(folder, name):
    with (folder / name).open() as stream:
        return list(csv.DictReader(stream))


@needs_two_cores
def test_the_ranks_of_a_group_have_the_images_of_one_worker_and_cores_of_their_own(measured) -> None:
    folder, done = measured
    assert done.returncode == 1, done.stderr
    run = Run(folder)
    good = [epoch for epoch in run.of(TrainedEpoch) if epoch.arm == "toy/train"]
    assert {(epoch.case, epoch.block, epoch.round) for epoch in good} == {
        (case, block, number) for case in (ONE, STRONG, WEAK) for block in (1, 2) for number in (0, 1)
    }
    assert {epoch.result.images for epoch in good} == {1280}
    digests = {(epoch.case, epoch.block, epoch.round): epoch.result.digest for epoch in good}
    single = {(epoch.case, epoch.block): epoch.digest for epoch in run.of(SingleEpoch) if epoch.arm == "toy/train"}
    for block in (1, 2):
        assert digests[ONE, block, 0] == digests[STRONG, block, 0] == single[STRONG, block]
        assert digests[WEAK, block, 0] == single[WEAK, block] != digests[ONE, block, 0]
    groups = [ranks for ranks in run.of(Ranks) if ranks.arm == "toy/train" and ranks.case != ONE]
    assert len(groups) == 4
    for ranks in groups:
        first, second = ranks.cores
        assert len(first) == len(second)
        assert not set(first) & set(second)
        assert [address.split(":")[0] for address in ranks.addresses] == ["127.0.0.1"] * 2


@needs_two_cores
def test_a_group_that_fails_leaves_the_block_with_one_reason_and_one_worker_stays(measured) -> None:
    folder, _ = measured
    arms = {(row["variant"], row["workers"], row["scaling"]): row for row in rows(folder, "arms.csv")}
    assert arms["train", "2", "strong"]["status"] == "measured"
    assert arms["train-rank-dies", "1", ""]["status"] == "measured"
    assert arms["train-rank-dies", "2", "strong"]["status"] == "failed"
    assert "rank 1 of 2: exited with status 7" in arms["train-rank-dies", "2", "strong"]["reason"]
    reason = arms["train-alone", "2", "weak"]["reason"]
    assert "proof failed: its ranks have different weights after training" in reason


@needs_two_cores
def test_efficiency_is_in_the_table_and_losses_unlike_those_of_one_worker_are_withheld(measured) -> None:
    folder, _ = measured
    points = {(row["variant"], row["sweep"], row["workers"]): row for row in rows(folder, "scaling.csv")}
    for way in ("strong", "weak"):
        one, two = (points["train", way, count] for count in ("1", "2"))
        assert (one["efficiency"], one["fault"]) == ("", "")
        assert float(two["efficiency"]) == pytest.approx(float(two["gain_ratio"]) / 2, rel=1e-4)
        assert two["fault"] == ""
        assert "is not one worker's" in points["train-otherwise", way, "2"]["fault"]
    speedups = {(row["variant"], row["workers"], row["scaling"]): row for row in rows(folder, "speedups.csv")}
    assert speedups["train-otherwise", "2", "strong"]["verdict"] == "WITHHELD"
    assert "is not one worker's" in speedups["train-otherwise", "2", "strong"]["reason"]
    assert speedups["train-otherwise", "1", ""]["verdict"] == "UNRESOLVED"
    page = (folder / "report.md").read_text()
    assert "By workers: weak scaling, cnn-small, training, batch 64 for each worker" in page
    assert (folder / "plots" / "scaling.svg").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--workers", "2000"), "--workers 2000: allowed: 1 to 1024"),
        (("--workers", "1000"), "1000 workers with 1 cores each need 1000 cores"),
        (("--threads", "1,2"), "--threads: with workers that train together, give one number"),
        (("--interface", "wire0"), "--interface wire0: no network interface 'wire0' here; allowed: "),
        (("--place", "no-such-command here"), "--place no-such-command here: no such command"),
        (("--place", "'"), "--place ': No closing quotation"),
        (("--workers", "1", "--suite", "inference"), "--workers: suite inference has no workers that train together"),
    ],
)
def test_options_that_cannot_be_followed_are_one_line(tmp_path, options, message) -> None:
    (tmp_path / "classes.toml").write_text(SUITE)
    done = run_bench(tmp_path, "run", "--suite", "./classes.toml", *options)
    assert done.returncode == 2
    assert message in done.stderr.replace("\n", " ")
    assert not (tmp_path / "results").exists()


@needs_two_cores
def test_batches_that_workers_cannot_share_equally_are_refused(tmp_path) -> None:
    (tmp_path / "classes.toml").write_text(SUITE)
    done = run_bench(tmp_path, "run", "--suite", "./classes.toml", "--batch-size", "63")
    assert done.returncode == 2
    assert "a batch of 63 images can't be divided equally" in done.stderr.replace("\n", " ")
