"""A run of toys that something happens to."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import pytest

from bench.journal import JOURNAL, broken_link, read_journal
from bench.processes.scratch import processes_in
from conftest import ROOT, SMALL
from tests.command_line import HANG_S, environment_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

    from bench.records import Record

GONE_S = 60


@dataclass(frozen=True)
class Measuring:
    """A run that is under way in a folder, and its temporary files."""

    folder: Path
    process: subprocess.Popen[str]

    @property
    def run(self) -> Path:
        return self.folder / "results" / "r"

    def wait_for(self, kind: str) -> None:
        """Wait until the journal has a record of this kind."""
        journal, deadline = self.run / JOURNAL, time.monotonic() + HANG_S
        while not (journal.exists() and f'"kind":"{kind}"' in journal.read_text()) and time.monotonic() < deadline:
            assert self.process.poll() is None, "it has ended"
            time.sleep(0.02)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def journal_when_gone(self, children: Sequence[psutil.Process] = ()) -> list[Record]:
        """Return the journal, after making sure that nothing else is left: no process and no temporary file."""
        _, left = psutil.wait_procs(children, timeout=GONE_S)
        assert not [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        assert list((self.folder / "scratch").iterdir()) == []
        assert not [path for path in self.folder.rglob("*") if "partial" in path.name]
        assert broken_link(self.run) is None
        return read_journal(self.run)


def run_command(*options: str) -> list[str]:
    """Return a command that measures toys, shortened, and on one thread: threads in pools spin after each slice."""
    measured = ("--suite", "./toys.toml", "--data", "synthetic", "--name", "r", "--preset", "smoke", "--threads", "1")
    return [sys.executable, "-m", "tests.shortened", "run", *measured, *options]


def folders(folder: Path) -> dict[str, str]:
    """Return the variables with which a command in a folder finds these tests, and has temporary files of its own."""
    return {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "scratch")}


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Measuring]:
    """Return a function that starts a run; `popen` are further arguments of its process, `variables` of its own."""
    (tmp_path / "scratch").mkdir()

    def start(suite: str = SMALL, *options: str, variables: dict[str, str] | None = None, **popen: Any) -> Measuring:
        (tmp_path / "toys.toml").write_text(suite)
        command = run_command(*options)
        environment = environment_of(tmp_path, command) | folders(tmp_path) | (variables or {})
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | popen
        return Measuring(tmp_path, subprocess.Popen(command, cwd=tmp_path, env=environment, **streams))

    return start


def left_in(folder: Path) -> list[int]:
    """Return the processes whose temporary files lie below a folder."""
    return [pid for path in folder.iterdir() for pid in processes_in(str(path))]
