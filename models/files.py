"""Write files atomically, so that a partial file never has the final name; read them on any file system."""

from __future__ import annotations

import errno
import mmap
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# What file systems say that can't map files into memory, such as some network and union file systems.
UNMAPPABLE = (errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the same suffix; it is renamed to `path` unless the block raises."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
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
