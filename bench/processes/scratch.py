"""Temporary folders that go when the process that made them ends, even if it is killed.

A guard, which is a process of its own, waits for that. It sleeps meanwhile. This file is also its program, so it
imports the standard library only.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRATCH_PREFIX = "bench-"
# Processes may start others while they are looked for. One that is just being started shows no variables for a moment.
MOST_SEARCHES, EMPTY_SEARCHES, SEARCH_PAUSE_S = 100, 2, 0.02


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder, by default in TMPDIR. At the end the guard removes it, and what still runs in it."""
    folder = Path(parent or tempfile.gettempdir(), f"{SCRATCH_PREFIX}{os.urandom(8).hex()}").absolute()
    try:
        ended, own = os.pipe()
        try:
            # First, because this process may be killed as soon as there is a folder.
            guard = subprocess.Popen(  # noqa: S603 - this interpreter and this file
                [sys.executable, "-I", "-S", __file__, str(ended), str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                pass_fds=(ended,),
                # Signals of the terminal are not for it.
                start_new_session=True,
            )
        except BaseException:
            os.close(own)
            raise
        finally:
            os.close(ended)
        try:
            folder.mkdir(mode=0o700)
            yield folder
        finally:
            os.close(own)
            guard.wait()
    finally:
        # Should the guard not have been able to.
        shutil.rmtree(folder, ignore_errors=True)


def processes_in(folder: str) -> list[int]:
    """Return the processes whose temporary files lie in a folder: workers, and all that they have started."""
    found, variable = [], f"TMPDIR={folder}".encode()
    for entry in Path("/proc").iterdir():
        # Other users' processes can't be read; any process may end meanwhile.
        with suppress(OSError):
            if entry.name.isdecimal() and variable in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def guard(descriptor: int, folder: str) -> None:
    """Wait until no process has the other end of a pipe open; then kill what runs in a folder, and remove it."""
    os.read(descriptor, 1)
    empty = 0
    for _ in range(MOST_SEARCHES):
        left = processes_in(folder)
        empty = 0 if left else empty + 1
        if empty == EMPTY_SEARCHES:
            break
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(SEARCH_PAUSE_S)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    guard(int(sys.argv[1]), sys.argv[2])
