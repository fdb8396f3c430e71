"""A signal to a training or a search leaves nothing behind, and the same command continues it."""

import re
import signal
import subprocess
import sys

import psutil
import pytest

from conftest import SMALL
from tests.command_line import HANG_S, environment_of, run_bench
from tests.training.test_train import RECIPE

OPTIONS = ("--recipe", "./own.toml", "--stack", "toy", "--data", "synthetic", "--threads", "1", "--name", "t")
COMMANDS = {"train": ("epoch", ("--epochs", "8")), "tune": ("trial", ("--trials", "4", "--epochs", "1"))}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_leaves_no_process_and_no_file_behind(tmp_path, command, number) -> None:
    (tmp_path / "own.toml").write_text(RECIPE)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    what, more = COMMANDS[command]
    line = [sys.executable, "-m", "bench", command, *OPTIONS, *more]
    environment = environment_of(tmp_path, line) | {"TMPDIR": str(scratch)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, cwd=tmp_path, env=environment, bufsize=1, **streams) as process:
        first = next(text for text in process.stdout if f"{what} 1" in text)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        rest, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 1
    assert errors == (
        "bench: interrupted; finished work is kept, and the same command continues a training or a search\n"
    )
    assert f"{what} {4 if command == 'tune' else 8}" not in rest
    # A killed process ends soon, not at once.
    _, left = psutil.wait_procs(children, timeout=60)
    assert not [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert list(scratch.iterdir()) == []
    assert not [path for path in (tmp_path / "results").rglob("*") if "partial" in path.name]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert first.partition("]")[2] not in done.stdout
    assert re.search(rf"{what} (8 of 8|4|5)", done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_command_in_the_same_folder_is_refused_and_a_run_on_the_same_machine(tmp_path, command) -> None:
    (tmp_path / "own.toml").write_text(RECIPE)
    (tmp_path / "toys.toml").write_text(SMALL)
    what, more = COMMANDS[command]
    line = [sys.executable, "-m", "bench", command, *OPTIONS, *more]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = environment_of(tmp_path, line)
    with subprocess.Popen(line, cwd=tmp_path, env=environment, bufsize=1, **streams) as process:
        next(text for text in process.stdout if f"{what} 1" in text)
        # It must not end before the others were refused.
        process.send_signal(signal.SIGSTOP)
        second = run_bench(tmp_path, *line[3:])
        run = run_bench(tmp_path, "run", "--suite", "./toys.toml", "--data", "synthetic", "--name", "r")
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.communicate(timeout=HANG_S)
    refused = "bench: results/t: another command is writing to it; wait for its end, or choose another --name\n"
    assert (second.returncode, second.stderr) == (2, refused)
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert "another measurement is under way on this machine (process " in run.stderr
    assert f"{tmp_path}/results/t)" in run.stderr
    assert not (tmp_path / "results" / "r").exists()
