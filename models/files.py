"""Write files atomically, so that a partial file never has the final name; read them on any file system."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# What file systems say that can't map files into memory, such as some network and union file systems.
UNMAPPABLE = (errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def read_at_most(path: Path, most_bytes: int) -> bytes:
    """Return the content of a file of a stranger; raises OSError if it is larger, or no ordinary file.

    A pipe would keep its reader waiting, and a device has no end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "not an ordinary file", str(path))
        if about.st_size > most_bytes:
            raise OSError(errno.EFBIG, f"{about.st_size:,} bytes; allowed: {most_bytes:,}", str(path))
        return stream.read(most_bytes)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the same suffix; it is renamed to `path` unless the block raises."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    # In a folder of a stranger it may be a link, through which another file would be written.
    partial.unlink(missing_ok=True)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def mappable(path: Path) -> Iterator[Path]:
    """Yield the path of a file that can be mapped into memory: the file itself, or a temporary copy of it."""
    try:
        with path.open("rb") as file:
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ).close()
    except OSError as error:
        if error.errno in UNMAPPABLE:
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                yield Path(shutil.copyfile(path, Path(folder) / path.name))
            return
    except ValueError:
        # It is empty.
        pass
    # Whoever reads it reports what else is wrong with it.
    yield path
