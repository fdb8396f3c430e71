"""One measurement at a time on a machine, and one command at a time in a folder."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

# A folder in memory that all users may write to, and that a restart of the machine empties.
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the same place for all users is the point
LOCK_VARIABLE, LOCK = "BENCH_LOCK", "cnn-stack-bench.lock"
MOST_BYTES = 4096
# A look at a lock holds it for a moment, in which its owner-to-be must not give up.
LOOKS, LOOK_PAUSE_S = 10, 0.02


def lock_path() -> Path:
    """Return the file that a measurement locks: the same for all users of the machine, unless BENCH_LOCK names one."""
    shared = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    return Path(os.environ.get(LOCK_VARIABLE) or shared / LOCK)


def is_free(path: Path | None = None) -> bool:
    """Return whether no process holds this file, by default that of the machine's measurement."""
    try:
        descriptor = os.open(path or lock_path(), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        # Shared, so that two that look at the same time do not take each other for a measurement.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def hold(descriptor: int, *, shared: bool = False) -> None:
    """Lock an open file until it is closed; raises BlockingIOError if another process keeps it."""
    for look in range(LOOKS):
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if look + 1 == LOOKS:
                raise
            time.sleep(LOOK_PAUSE_S)
        else:
            return


@contextmanager
def only_measurement(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Keep other measurements from starting; the kernel ends this when the process ends, however it does.

    Trainings may be `shared`: with each other, but not with a run. Raises UserError if another measurement, which may
    be another user's, is under way.
    """
    path = lock_path()
    try:
        descriptor = _open(path)
    except OSError as error:
        raise UserError(
            f"{path}: can't be locked ({error.strerror}); name another file with {LOCK_VARIABLE}"
        ) from error
    try:
        try:
            hold(descriptor, shared=shared)
        except BlockingIOError as error:
            holder = ascii(os.pread(descriptor, MOST_BYTES, 0).decode(errors="replace"))[1:-1] or "a process"
            raise UserError(
                f"another measurement is under way on this machine ({holder}); two would disturb each other; wait for "
                f"its end. For machines that are divided, {LOCK_VARIABLE} names a lock file for each part"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}, {folder.absolute()}".encode(), 0)
        yield
        if not shared:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@contextmanager
def only_command_in(
    folder: Path,
    refusal: str = "another command is writing to it; wait for its end, or choose another --name",
    *,
    shared: bool = False,
) -> Iterator[None]:
    """Keep other commands from writing to a folder; raises UserError, with the `refusal`, if one does so already.

    Commands that are `shared` exclude only those that are not.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems lock no folders.
        with suppress(OSError):
            try:
                hold(descriptor, shared=shared)
            except BlockingIOError as error:
                raise UserError(f"{folder}: {refusal}") from error
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(FileNotFoundError):
        # Without O_CREAT: in a folder that all may write to, Linux refuses to create a file that another user has made.
        return os.open(path, flags)
    descriptor = os.open(path, flags | os.O_CREAT, 0o666)
    # The umask would keep other users from opening it.
    os.fchmod(descriptor, 0o666)
    return descriptor
