"""Append-only results on disk: every record is one atomic_write line, flushed, or not there at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from bench.records import Record, RecordError, from_line, to_line
from models.errors import UserError
from models.files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

JOURNAL = "journal.jsonl"


class Journal:
    """The open journal of a run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def append(self, record: Record) -> None:
        """Write one record.

        Raises UserError when the disk refuses; the journal is then cut back to its last atomic_write line.
        """
        line = to_line(record).encode() + b"\n"
        size = os.fstat(self._descriptor).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except BaseException as error:  # an interrupt too must not leave half a line
            os.ftruncate(self._descriptor, size)
            if isinstance(error, OSError):
                raise disk_error(self._path, error, measured=size > 0) from error
            raise


def disk_error(path: Path, error: OSError, *, measured: bool = True) -> UserError:
    """Return the one line for a disk that refuses, with what can be done about it."""
    if not measured:
        return UserError(f"{path}: {error.strerror}; nothing was measured; free space, or name another --results")
    return UserError(
        f"{path}: {error.strerror}; what was measured before is whole; free space, then "
        f"`python -m bench report {path.parent}` makes the report of it"
    )


def write_whole(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it.

    Raises UserError when the disk refuses.
    """
    try:
        with atomic_write(path) as partial:
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise disk_error(path, error) from error


def write_pages(folder: Path, texts: dict[str, str], drawn: dict[str, str]) -> None:
    """Write a report's files, each atomic_write: texts by name, and plots into their own folder."""
    (folder / "plots").mkdir(exist_ok=True)
    for name, text in (texts | {f"plots/{name}": svg for name, svg in drawn.items()}).items():
        write_whole(folder / name, text)


def read_journal(folder: Path) -> list[Record]:
    """Read every atomic_write line; raises UserError that names the first line which is no record."""
    path = folder / JOURNAL
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read ({error})") from error
    records = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line's end was never finished
        try:
            records.append(from_line(line))
        except RecordError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
    return records
