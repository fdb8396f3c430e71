"""Files and variables of the user that are not meant for the harness change nothing."""

import json
import os
import subprocess
import sys

import pytest

from conftest import ROOT, SMALL
from tests.analysis.recorded_run import inference_run
from tests.command_line import environment_of

BROKEN = "raise RuntimeError('the wrong module was imported')\n"
NOT_UTF_8 = b"axes.titlesize: 12 # gro\xdf\n"


def python(cwd, *arguments, **variables) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter in a folder."""
    command, environment = [sys.executable, *arguments], environment_of(cwd, arguments) | variables
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("place", ["the current folder", "PYTHONPATH"])
def test_packages_with_the_names_of_ours_are_not_imported(tmp_path, place) -> None:
    for name in ("models", "backends"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(BROKEN)
    (tmp_path / "elsewhere").mkdir()
    done = python(tmp_path, "-m", "bench", "list") if place == "the current folder" else (
        python(tmp_path / "elsewhere", "-m", "bench", "list", PYTHONPATH=str(tmp_path))
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "cnn-small" in done.stdout


def test_modules_in_the_current_folder_are_not_imported(tmp_path) -> None:
    for name in ("numpy", "statistics", "typer", "tomllib"):
        (tmp_path / f"{name}.py").write_text(BROKEN)
    assert python(tmp_path, "-m", "bench", "list").returncode == 0


def test_what_the_interpreter_prints_when_it_starts_is_ignored(tmp_path) -> None:
    for name in ("sitecustomize", "usercustomize"):
        (tmp_path / f"{name}.py").write_text("import sys; print('{hello'); sys.stderr.write('welcome\\n')\n")
    (tmp_path / "toys.toml").write_text(SMALL)
    options = ("--suite", "./toys.toml", "--preset", "smoke", "--data", "synthetic", "--name", "r", "--stack", "toy")
    done = python(tmp_path, "-m", "tests.shortened", "run", *options, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 0, done.stderr
    assert "{hello" in done.stdout
    assert json.loads((tmp_path / "results" / "r" / "run.json").read_text())["machine"]["vendor"] != "unknown"


def test_a_report_is_written_whatever_the_settings_of_plots(tmp_path) -> None:
    (tmp_path / "matplotlibrc").write_bytes(NOT_UTF_8)
    inference_run(tmp_path / "r").write()
    done = python(tmp_path, "-m", "bench", "report", "r", MPLBACKEND="no-such-backend")
    assert done.stderr == ""
    assert (tmp_path / "r" / "plots" / "speedups.svg").exists()


def test_variables_of_the_user_are_said_and_stored(tmp_path) -> None:
    (tmp_path / "toys.toml").write_text(SMALL)
    options = ("--suite", "./toys.toml", "--preset", "smoke", "--data", "synthetic", "--name", "r", "--stack", "toy")
    variables = {name: "" for name in os.environ if name.startswith("OPENBLAS")} | {"CXX": "c++", "XLA_FLAGS": "--x=y"}
    variables["PYTHONPATH"] = str(ROOT)
    done = python(tmp_path, "-m", "tests.shortened", "run", *options, "--env", "ODD=1", **variables)
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "results" / "r" / "report.md").read_text().replace("\\", "")
    for text in (done.stdout, report):
        assert "Environment variables set for all arms with --env: ODD=1" in text
        assert "Environment variables handed on to all arms: CXX=c++" in text
        assert "Environment variables not handed on: " in text
    assert "All arms ran with ODD=1." in report
    stored = json.loads((tmp_path / "results" / "r" / "run.json").read_text())["variables"]
    assert (stored["given"], stored["kept"]) == ({"ODD": "1"}, {"CXX": "c++"})
    assert "XLA_FLAGS" in stored["dropped"]
    assert "--x=y" not in (tmp_path / "results" / "r" / "run.json").read_text()


def test_the_doctor_says_what_arms_run_without(tmp_path) -> None:
    done = python(tmp_path, "-m", "bench", "doctor", CXX="c++", LD_LIBRARY_PATH="/opt/odd", COLUMNS="300")
    assert done.returncode == 0, done.stderr
    assert "handed on to all arms: CXX=c++; not handed on: " in done.stdout
    assert "LD_LIBRARY_PATH" in done.stdout
    assert "--env NAME=VALUE sets one for all arms alike" in done.stdout
