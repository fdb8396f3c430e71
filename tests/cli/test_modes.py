"""Quiet, plain, and for other programs: what commands print, and where."""

import json
import shutil

import pytest
from jsonschema_rs import Draft202012Validator

from bench.exports.outputs import OUTPUT_SCHEMA, OUTPUTS
from bench.journal import JOURNAL
from tests.analysis.recorded_run import inference_run
from tests.command_line import run_bench
from tests.json_schema import FOLDER

SCHEMA = json.loads((FOLDER / f"output-{OUTPUT_SCHEMA}.schema.json").read_text())
LATER = "2026-02-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Write two runs, of which the later one is slower, and a damaged copy."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "results").mkdir()
    inference_run(folder / "results" / "before").write()
    inference_run(folder / "results" / "slower", seed=8, jit=115_000).describe(started=LATER).write()
    shutil.copytree(folder / "results" / "before", folder / "changed")
    journal = folder / "changed" / JOURNAL
    journal.write_text(journal.read_text().replace('"load":0', '"load":1', 1))
    return folder


@pytest.fixture
def bench(runs):
    return lambda *arguments, **variables: run_bench(runs, *arguments, **variables)


def checked(done) -> dict:
    """Return the JSON that a command has printed, if it has the form that is documented."""
    content = json.loads(done.stdout)
    Draft202012Validator(SCHEMA).validate(content)
    assert content["status"] == done.returncode
    return content


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["report", "results/before"], 0),
        (["compare", "results/before", "results/slower"], 0),
        (["compare", "results/before", "results/slower", "--fail-if-slower", "5%"], 1),
        (["history"], 0),
        (["convert", "results/before", "--to", "pyperf,trace"], 0),
        (["verify", "results/before"], 0),
        (["verify", "changed"], 1),
        (["withdraw", "changed", "--why", "it was changed"], 0),
        (["list"], 0),
        (["claims", "--only-read"], 1),
        (["doctor"], 0),
    ],
    ids=lambda value: value if isinstance(value, int) else " ".join(value),
)
def test_a_result_as_json_has_the_documented_form_and_nothing_beside_it(bench, arguments, status) -> None:
    done = bench(*arguments, "--json")
    content = checked(done)
    assert (content["command"], done.returncode) == (arguments[0], status)
    assert "Traceback" not in done.stderr


def test_the_schema_describes_every_command_with_json() -> None:
    described = [name for kind in SCHEMA["oneOf"] for name in kind["properties"]["command"]["enum"]]
    assert sorted(described) == sorted(OUTPUTS)
    assert not Draft202012Validator(SCHEMA).is_valid({"schema": OUTPUT_SCHEMA, "command": "run", "status": 0})


def test_the_figures_of_a_report_are_those_of_its_tables(bench) -> None:
    done = bench("report", "results/before", "--json")
    content = checked(done)
    (jit,) = (row for row in content["speedups"] if (row["variant"], row["family"]) == ("jit", "primary"))
    assert 1 < jit["ci_low"] < jit["speedup"] < jit["ci_high"]
    assert (jit["verdict"], jit["batch_size"], jit["reason"]) == ("FASTER", 1, "")
    # What people read is on the standard error.
    assert content["answer"] in " ".join(done.stderr.split())
    assert {row["status"] for row in content["arms"]} == {"measured"}


def test_a_comparison_as_json_tells_what_the_gate_tells(bench) -> None:
    done = bench("compare", "results/before", "results/slower", "--fail-if-slower", "5%", "--json")
    content = checked(done)
    (comparison,) = content["comparisons"]
    assert (content["threshold"], comparison["regressions"], comparison["same_machine"]) == (0.05, 1, True)
    assert [row["variant"] for row in comparison["rows"] if row["regression"]] == ["jit"]
    assert content["answer"][0].startswith("REGRESSION: ipex jit")


def test_verify_as_json_names_the_fault(bench) -> None:
    content = checked(bench("verify", "changed", "--json"))
    assert not content["intact"]
    assert "it was changed" in content["fault"] or "first line" in content["fault"]


@pytest.mark.parametrize("mode", [["--json"], ["--quiet"], ["--plain"], []])
def test_wrong_input_is_one_line_on_the_standard_error_in_every_mode(bench, mode) -> None:
    done = bench("report", "nowhere", *mode)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["report", "results/before"], 1),
        (["compare", "results/before", "results/slower"], 1),
        (["history"], 1),
        (["convert", "results/before", "--to", "trace"], 0),
        (["verify", "results/before"], 0),
        (["verify", "changed"], 1),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else " ".join(value),
)
def test_a_quiet_command_prints_only_its_answer(bench, arguments, lines) -> None:
    done = bench(*arguments, "--quiet")
    assert (len(done.stdout.splitlines()), done.stderr) == (lines, "")


def test_a_plain_table_has_a_line_for_each_row_and_tabs_between_its_columns(bench) -> None:
    done = bench("report", "results/before", "--plain", COLUMNS="40", FORCE_COLOR="1")
    assert "\x1b" not in done.stdout
    rows = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    assert rows[0] == ["Arm", "Baseline", "Speedup", "95 % interval", "Verdict"]
    assert rows[1][0] == "ipex jit"
    assert rows[1][-1] == "FASTER"
    assert {len(row) for row in rows} == {5, 6}


def test_what_to_read_first_comes_last_and_fits_80_columns(bench) -> None:
    shown = bench("report", "results/before", COLUMNS="80").stdout
    tables = [line for line in shown.splitlines() if line.startswith(" ")]
    assert max(map(len, tables)) <= 80
    before, title, after = shown.partition("Read this first: each stack against the fastest stock variant")
    assert title
    assert "Verdict" in before
    (row,) = (line for line in after.splitlines() if line.startswith(" IPEX"))
    assert row.split()[-2:] == ["worth", "it"]
    assert after.splitlines()[-1].startswith("report: ")
