"""Temporary folders: they go at the end, and when their process is killed, with all that runs in them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.processes import scratch
from bench.processes.scratch import processes_in, scratch_folder

PROGRAM = """
import os, subprocess, sys, time
from pathlib import Path
from bench.processes.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "file").write_text("content")
    child = [sys.executable, "-S", "-c", "import time; time.sleep(1000)"]
    process = subprocess.Popen(child, env=os.environ | {"TMPDIR": str(folder)}, start_new_session=True)
    print(process.pid, flush=True)
    time.sleep(1000)
"""


def test_a_folder_goes_at_the_end_with_what_still_runs_in_it(tmp_path) -> None:
    with scratch_folder(tmp_path) as folder:
        assert folder.parent == tmp_path
        child = [sys.executable, "-S", "-c", "import time; time.sleep(1000)"]
        process = subprocess.Popen(child, env={"TMPDIR": str(folder)}, start_new_session=True)
        while processes_in(str(folder)) != [process.pid]:
            assert process.poll() is None
    assert process.wait(60) == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_folder_goes_when_its_process_is_killed_with_what_still_runs_in_it(tmp_path, number) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, tmp_path], stdout=subprocess.PIPE) as process:
        child = psutil.Process(int(process.stdout.readline()))
        guards = [other for other in psutil.Process(process.pid).children() if other.pid != child.pid]
        process.send_signal(number)
    _, left = psutil.wait_procs([child, *guards], timeout=60)
    assert left == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_goes_when_its_process_is_killed_as_soon_as_it_exists(tmp_path) -> None:
    dies = "import os; make = os.mkdir; os.mkdir = lambda *given: (make(*given), os.kill(os.getpid(), 9))"
    done = subprocess.run([sys.executable, "-c", dies + PROGRAM, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_just_being_started_is_found(tmp_path, monkeypatch) -> None:
    found, killed = iter([[], [123], [], []]), []
    monkeypatch.setattr(scratch, "processes_in", lambda _: next(found))
    monkeypatch.setattr(scratch.os, "kill", lambda pid, _: killed.append(pid))
    reader, writer = os.pipe()
    os.close(writer)
    scratch.guard(reader, str(tmp_path / "folder"))
    os.close(reader)
    assert killed == [123]


def test_a_folder_goes_even_without_its_guard(tmp_path) -> None:
    before = set(psutil.Process().children())
    with scratch_folder(tmp_path):
        # A process that is just being started shows no command line for a moment.
        (guard,) = set(psutil.Process().children()) - before
        guard.kill()
    assert list(tmp_path.iterdir()) == []


def test_a_relative_folder_is_the_one_where_the_command_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with scratch_folder(Path()) as folder:
        assert folder.is_absolute()
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []
