"""Each format is read back by the tool that it is for, or checked against what that tool accepts."""

import json
import subprocess
import sys
from statistics import median

import pyperf
import pytest

from bench.analysis.speedups import speedups
from bench.exports.peers import (
    LONGEST_STEM,
    file_stems,
    left_out,
    to_bencher,
    to_github_action,
    to_pyperf,
    to_pytest_benchmark,
)
from bench.records import Evidence, Failure, Proof, Slice
from bench.suite.arms import Arm
from tests.analysis.recorded_run import AA, BLOCKS, CASE, COMPILE, EAGER, JIT, ROUNDS, inference_run, training_run


@pytest.fixture
def run(tmp_path):
    """Return a run in which one arm failed and one is withheld."""
    builder = inference_run(tmp_path / "run").remove(lambda r: isinstance(r, Slice | Evidence) and r.arm == COMPILE.id)
    builder.records.append(Failure(COMPILE.id, CASE.id, 1, "it died"))
    builder.add_arm(Arm("ipex", "wrong"), JIT)
    builder.change(Proof, lambda record: record.arm == "ipex/wrong", max_abs_logit_diff=0.5)
    return builder.read()


def written(folder, files) -> list:
    for name, text in files.items():
        (folder / name).write_text(text)
    return [folder / name for name in files]


def call(folder, *arguments) -> str:
    """Run a module in a folder, where it finds no configuration of this project."""
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_only_arms_with_valid_times_are_handed_on_and_the_others_are_named(run) -> None:
    assert set(to_pyperf(run)) == {"pytorch-eager.json", "pytorch-eager-A-A.json", "ipex-jit.json"}
    assert [line.partition(": left out: ")[2].partition(" ")[0] for line in left_out(run)] == ["it", "ipex"]


def test_pyperf_reads_a_run_for_each_process_and_compares_two_arms(run, tmp_path) -> None:
    eager, _, jit = written(tmp_path, to_pyperf(run))
    (benchmark,) = pyperf.BenchmarkSuite.load(str(jit)).get_benchmarks()
    assert benchmark.get_name() == CASE.id
    assert benchmark.get_nrun() == BLOCKS
    expected = {number: [] for number in range(1, BLOCKS + 1)}
    for turn in run.slices(JIT, CASE):
        expected[turn.block].append(turn.samples_ns[0] / 1e9)
    assert [list(one.values) for one in benchmark.get_runs()] == list(expected.values())
    shown = call(tmp_path, "pyperf", "compare_to", eager, jit)
    assert "Mean +- std dev" in shown
    assert "2.00x faster" in shown


def test_pytest_benchmark_reads_and_compares_all_arms(run, tmp_path) -> None:
    (file,) = written(tmp_path, to_pytest_benchmark(run))
    shown = call(tmp_path, "pytest_benchmark", "compare", file, "--csv", "out")
    for arm in (EAGER, AA, JIT):
        assert arm.id in shown
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert len(lines) == 4
    rows = {row["name"]: row["stats"] for row in json.loads(file.read_text())["benchmarks"]}
    times = [turn.samples_ns[0] / 1e9 for turn in run.slices(JIT, CASE)]
    stats = rows[JIT.id]
    assert (stats["rounds"], stats["min"], stats["max"]) == (BLOCKS * ROUNDS, min(times), max(times))
    assert stats["median"] == median(times)
    assert stats["q1"] <= stats["median"] <= stats["q3"]


@pytest.mark.parametrize("started", ["", "yesterday", "2026-01-01T00:00:00", "2026-01-01T00:00:00+00:00"])
def test_pytest_benchmark_gets_a_date_with_a_zone(tmp_path, started) -> None:
    run = inference_run(tmp_path / "r").describe(started=started).read()
    assert json.loads(to_pytest_benchmark(run)["benchmarks.json"])["datetime"].endswith("+00:00")


def test_github_action_benchmark_gets_entries_of_its_schema_in_a_file_for_each_direction(run) -> None:
    """The schema is that of customSmallerIsBetter: strings, and a number as the value."""
    files = {name: json.loads(text) for name, text in to_github_action(run).items()}
    assert {name: len(entries) for name, entries in files.items()} == {
        "smaller-is-better.json": 3, "bigger-is-better.json": 3, "speedups-bigger-is-better.json": 2,
    }  # fmt: skip
    for entry in (entry for entries in files.values() for entry in entries):
        assert {key: type(value) for key, value in entry.items()} == {
            "name": str, "unit": str, "value": float, "range": str, "extra": str,
        }  # fmt: skip
    jit = files["smaller-is-better.json"][-1]
    assert (jit["name"], jit["unit"]) == (f"{CASE.label}: ipex jit", "us")
    assert jit["value"] == pytest.approx(100, rel=0.01)
    assert files["bigger-is-better.json"][-1]["value"] == pytest.approx(1e6 / jit["value"])


def test_bencher_gets_our_interval(run) -> None:
    content = json.loads(to_bencher(run)["bencher.json"])
    row = next(row for row in speedups(run) if (row.pair.arm, row.pair.baseline) == (JIT, EAGER))
    assert content[f"{CASE.id} {JIT.id} / {EAGER.id}"] == {
        "speedup": {"value": row.speedup, "lower_value": row.interval.low, "upper_value": row.interval.high}
    }
    for measures in content.values():
        assert measures.keys() <= {"latency", "throughput", "speedup"}
        for metric in measures.values():
            assert 0 < metric["lower_value"] <= metric["value"] <= metric["upper_value"]


def test_training_is_handed_on_as_epochs(tmp_path) -> None:
    run = training_run(tmp_path / "run").read()
    (_, values), *_ = [(name, json.loads(text)) for name, text in to_pyperf(run).items()]
    # The first epoch of a process is its warm-up.
    assert values["benchmarks"][0]["runs"][0]["values"] == pytest.approx([6.006, 6.006])


def test_file_names_stay_in_their_folder_and_differ() -> None:
    names = ["../../etc/passwd", "a/b", "a-b", "A-B", "..", "x" * 500]
    stems = file_stems(names)
    assert list(stems.values()) == ["etc-passwd", "a-b", "a-b-2", "A-B-3", "arm", "x" * LONGEST_STEM]
