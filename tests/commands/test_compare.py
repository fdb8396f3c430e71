"""`bench compare`: its files, its exit status and its errors."""

import csv
import shutil

import pytest

from tests.analysis.recorded_run import inference_run
from tests.command_line import run_bench

LATER = "2026-02-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Write a run, one in which an arm is 15 % slower, one that differs by noise only, a copy, and a strange one."""
    folder = tmp_path_factory.mktemp("runs")
    inference_run(folder / "before").write()
    inference_run(folder / "slower", seed=8, jit=115_000).describe(started=LATER).write()
    inference_run(folder / "same", seed=9).describe(started="2026-03-01").write()
    inference_run(folder / "other").describe(threads=1, started="2026-04-01").write()
    shutil.copytree(folder / "before", folder / "copy")
    return folder


@pytest.fixture
def bench(runs):
    return lambda *arguments, **variables: run_bench(runs, *arguments, **variables)


def test_the_gate_fails_for_a_regression_only(bench, runs) -> None:
    assert bench("compare", "before", "slower").returncode == 0
    assert bench("compare", "before", "same", "--fail-if-slower", "5%").returncode == 0
    failed = bench("compare", "before", "slower", "--fail-if-slower", "5 %")
    assert (failed.returncode, failed.stderr) == (1, "")
    assert "REGRESSION: ipex jit is SLOWER in slower: 0.87" in failed.stdout
    assert bench("compare", "before", "slower", "--fail-if-slower", "20%").returncode == 0
    assert bench("compare", "before", "same", "slower", "--fail-if-slower", "5%").returncode == 1


def test_the_console_fits_80_columns(bench, runs) -> None:
    shown = bench("compare", "before", "slower", COLUMNS="80").stdout
    tables = [line for line in shown.splitlines() if line.startswith(" ")]
    assert max(map(len, tables)) <= 80
    (row,) = (line.split() for line in tables if line.startswith(" ipex jit"))
    assert (row[2][:3], row[3][:3], row[5], row[7]) == ("0.8", "0.8", "to", "SLOWER")


def test_files_are_written_in_the_format_of_their_suffix(bench, runs) -> None:
    outputs = [part for name in ("c.md", "c.xml", "c.csv") for part in ("--output", name)]
    assert bench("compare", "before", "slower", "same", *outputs).returncode == 0
    assert (runs / "c.md").read_text().startswith("# slower and same compared with before\n")
    assert (runs / "c.xml").read_text().count("<testsuite ") == 2
    with (runs / "c.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["after"], row["variant"], row["verdict"]) for row in rows if row["stack"] == "ipex"] == [
        ("slower", "jit", "SLOWER"), ("same", "jit", "UNCHANGED"),
    ]  # fmt: skip
    assert {row["same_machine"] for row in rows} == {"True"}


def test_a_github_job_gets_annotations_and_a_summary(bench, runs) -> None:
    (runs / "summary").write_text("what was there\n")
    done = bench(
        "compare", "before", "slower", "--fail-if-slower", "5%", "--github", GITHUB_STEP_SUMMARY=str(runs / "summary")
    )
    assert done.returncode == 1
    assert "\n::error title=ipex/jit is slower::ipex jit is SLOWER in slower" in done.stdout
    assert (runs / "summary").read_text().startswith("what was there\n# slower compared with before\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "Missing argument 'runs'; see"),
        (["before"], "name two or more runs"),
        (["before", "before/run.json"], "before/run.json/run.json: not there; name the folder of a run"),
        (["before", "nowhere"], "nowhere/run.json: not there"),
        (["before", "before"], "before: is the same run as before"),
        (["before", "copy"], "copy: is the same run as before; name different runs"),
        (["before", "other"], "other: has no arm on a case in common with before"),
        (["before", "same", "--fail-if-slower", "5"], "--fail-if-slower 5: allowed: a percentage, such as 5%"),
        (["before", "same", "--fail-if-slower", "-5%"], "--fail-if-slower -5%: allowed"),
        (["before", "same", "--output", "c.txt"], "--output c.txt: allowed: a file that ends in .md, .csv, .xml"),
        (["before", "same", "--output", "no/c.md"], "no is not a folder"),
        (["before", "same", "--github"], "GITHUB_STEP_SUMMARY is not set"),
        (["before", "same", "--rule", "x"], "unknown rule 'x'"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_status_2(bench, runs, arguments, reason) -> None:
    before = sorted(runs.rglob("*"))
    done = bench("compare", *arguments, GITHUB_STEP_SUMMARY="")
    assert reason in done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert sorted(runs.rglob("*")) == before


def test_the_history_is_that_of_all_runs_in_the_results(bench, runs) -> None:
    done = bench("history", "--results", ".", "--output", "h.md", "--output", "h.csv", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "left out: copy: is the same run as before" in done.stdout
    assert "Changes are looked for in 8 or more runs. Here are 3." in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert (runs / "h.md").read_text().startswith("# History of 3 runs\n")
    with (runs / "h.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["baseline"] == "pytorch/compile"]
    assert [(row["run"], row["is_change"]) for row in rows] == [
        ("before", "False"), ("slower", "False"), ("same", "False"),
    ]  # fmt: skip
    (runs / "h.md").unlink()
    (runs / "h.csv").unlink()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["before", "copy"], "copy: is the same run as before"),
        (["before"], "before: no two runs of a machine have a comparison in common"),
        (["--results", "nowhere"], "nowhere: no two runs of a machine"),
        (["."], "history: . is a folder of runs; name it with --results"),
        (["before", "nowhere"], "nowhere/run.json: not there"),
        (["before", "same", "--output", "h.xml"], "--output h.xml: allowed: a file that ends in .md, .csv"),
    ],
)  # fmt: skip
def test_a_history_of_nothing_is_one_line_and_status_2(bench, runs, arguments, reason) -> None:
    done = bench("history", *arguments)
    assert reason in done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
