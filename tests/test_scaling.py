"""Sweeps over batch sizes and threads: measured in one run, told in one table and one plot each."""

import csv
import os

import pytest

from bench.analysis import Run
from bench.scaling import sweeps
from conftest import SMALL, run_bench


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Measure three batch sizes, on one thread and on two where there are as many cores; return the folder."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "sweep.toml").write_text(SMALL)
    arguments = ["--suite", "./sweep.toml", "--preset", "smoke", "--data", "synthetic", "--name", "r"]
    threads = "1,2" if len(os.sched_getaffinity(0)) > 1 else "1"
    done = run_bench(folder, "run", *arguments, "--batch-size", "256,64,128", "--threads", threads)
    assert done.returncode == 0, done.stderr
    return folder / "results" / "r"


def test_each_sweep_holds_every_arm_and_its_points_in_order(swept) -> None:
    found = sweeps(Run(swept))
    labels = [(each.over, each.label) for each in found]
    if len(os.sched_getaffinity(0)) > 1:
        assert labels == [
            ("batch_size", "cnn-small, latency, 1 thread"),
            ("batch_size", "cnn-small, latency, 2 threads"),
            *(("threads", f"cnn-small, latency, batch {size}") for size in (256, 64, 128)),
        ]
    for sweep in found[:2]:
        assert [case.batch_size for case in sweep.cases] == [64, 128, 256]
        assert [curve.arm.id for curve in sweep.curves] == ["oracle/numpy", "toy/good"]


def test_a_gain_is_paired_by_block_over_the_first_case(swept) -> None:
    curve = sweeps(Run(swept))[0].curves[0]
    assert curve.points[0].gain is None
    assert [point.gain.blocks for point in curve.points[1:]] == [2, 2]


def test_the_threads_of_a_case_are_those_of_its_processes(swept) -> None:
    run = Run(swept)
    for proof in run.proofs.values():
        assert proof.threads == int(proof.case.rpartition("/t")[2] or run.info["threads"])


def test_tables_plots_and_pages_tell_the_sweeps(swept) -> None:
    with (swept / "scaling.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["batch_size"] for row in rows if row["over"] == "batch_size"} == {"64", "128", "256"}
    assert all(float(row["images_per_s"]) > 0 for row in rows)
    assert "images/s (log scale)" in (swept / "plots" / "scaling.svg").read_text()
    for page in ("report.md", "report.html"):
        assert "By batch size" in (swept / page).read_text()
