"""A signal to a training or a search leaves nothing behind, and the same command continues it."""

import re
import signal
import subprocess

import psutil
import pytest

from conftest import SMALL
from tests.command_line import HANG_S, run_bench, shortened
from tests.training.test_train import RECIPE

OPTIONS = ("--recipe", "./own.toml", "--stack", "toy", "--data", "synthetic", "--threads", "1", "--name", "t")
STREAMS = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
# Long enough for a signal to arrive.
SLOW, EPOCHS = RECIPE.replace("batch_size = 1024", "batch_size = 16"), "40"
COMMANDS = {"train": ("epoch", ("--epochs", EPOCHS)), "tune": ("trial", ("--trials", "4", "--epochs", "1"))}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_leaves_no_process_and_no_file_behind(tmp_path, command, number) -> None:
    (tmp_path / "own.toml").write_text(SLOW)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    what, more = COMMANDS[command]
    call = shortened(tmp_path, command, *OPTIONS, *more)
    call["env"]["TMPDIR"] = str(scratch)
    with subprocess.Popen(**call, bufsize=1, **STREAMS) as process:
        first = next(text for text in process.stdout if f"{what} 1" in text)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        rest, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 1
    assert errors == (
        "bench: interrupted; finished work is kept, and the same command continues a training or a search\n"
    )
    assert f"{what} {4 if command == 'tune' else EPOCHS}" not in rest
    # A killed process ends soon, not at once.
    _, left = psutil.wait_procs(children, timeout=60)
    assert not [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert list(scratch.iterdir()) == []
    assert not [path for path in (tmp_path / "results").rglob("*") if "partial" in path.name]
    done = subprocess.run(**call, **STREAMS, check=False)
    assert done.returncode == 0, done.stderr
    assert first.partition("]")[2] not in done.stdout
    assert re.search(rf"{what} ({EPOCHS} of {EPOCHS}|4|5)", done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_command_in_the_same_folder_is_refused_and_a_run_on_the_same_machine(tmp_path, command) -> None:
    (tmp_path / "own.toml").write_text(SLOW)
    (tmp_path / "toys.toml").write_text(SMALL)
    what, more = COMMANDS[command]
    with subprocess.Popen(**shortened(tmp_path, command, *OPTIONS, *more), bufsize=1, **STREAMS) as process:
        next(text for text in process.stdout if f"{what} 1" in text)
        # It must not end before the others were refused.
        process.send_signal(signal.SIGSTOP)
        second = run_bench(tmp_path, command, *OPTIONS, *more)
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
