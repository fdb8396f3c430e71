"""Sweeps over batch sizes and threads: measured in one run, told in one table and one plot each."""

import csv
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from bench.analysis.scaling import sweeps
from bench.analysis.selftest import equal_suite
from bench.analysis.speedups import Run
from bench.commands import run
from bench.machine.facts import usable_cores
from bench.suite.arms import Arm
from bench.suite.plan import make_plan
from bench.suite.schedule import PRESETS
from conftest import let_images_be_few

ARM = Arm("oracle", "numpy")
ARMS = (ARM, replace(ARM, settings="plain"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Measure three batch sizes, on one thread and on two where there are as many cores; return the folder."""
    folder = tmp_path_factory.mktemp("sweep")
    suite = replace(equal_suite(ARM, range(1, min(2, usable_cores()) + 1)), arm_patterns=ARMS, batch_sizes=(4, 1, 2))
    target = run.new_folder(folder / "results", "r", suite)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(folder / ".cache"))
        let_images_be_few(patched)
        plan = make_plan(suite, replace(PRESETS["smoke"], slice_ns=1_000_000, warm_up_limit_ns=0), 1, usable_cores())
        assert run.measure(plan, "synthetic", target, Console(file=StringIO()), ["bench", "run"]) == 0
    return target


def test_each_sweep_holds_every_arm_and_its_points_in_order(swept) -> None:
    found = sweeps(Run(swept))
    labels = [(each.over, each.label) for each in found]
    if usable_cores() > 1:
        assert labels == [
            ("batch_size", "cnn-small, latency, 1 thread"),
            ("batch_size", "cnn-small, latency, 2 threads"),
            *(("threads", f"cnn-small, latency, batch {size}") for size in (4, 1, 2)),
        ]
    for sweep in found[:2]:
        assert [case.batch_size for case in sweep.cases] == [1, 2, 4]
        assert [curve.arm.id for curve in sweep.curves] == ["oracle/numpy", "oracle/numpy+plain"]


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
    assert {row["batch_size"] for row in rows if row["over"] == "batch_size"} == {"1", "2", "4"}
    assert all(float(row["images_per_s"]) > 0 for row in rows)
    assert "images/s (log scale)" in (swept / "plots" / "scaling.svg").read_text()
    for page in ("report.md", "report.html"):
        assert "By batch size" in (swept / page).read_text()
