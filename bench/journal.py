"""A run's files on disk: the append-only journal, one complete line per record, and files that appear at once."""

from __future__ import annotations

import os
from threading import Lock
from typing import TYPE_CHECKING, Self

from bench.codec import CodecError
from bench.records import Record, from_line, to_line
from models.errors import UserError, remedy_of
from models.files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

JOURNAL, LOGS = "journal.jsonl", "logs"


class Journal:
    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def append(self, record: Record) -> None:
        """Write one record; several threads may do so.

        Raises UserError if the disk refuses it; the journal is then cut back to its last complete line.
        """
        line = to_line(record).encode() + b"\n"
        with self._lock:
            size = os.fstat(self._descriptor).st_size
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._descriptor, line[written:])
            # An interrupt must not leave half a line either.
            except BaseException as error:
                os.ftruncate(self._descriptor, size)
                if isinstance(error, OSError):
                    raise disk_error(self._path, error) from error
                raise


def has_records(folder: Path) -> bool:
    """Return whether anything was measured into a folder."""
    try:
        return (folder / JOURNAL).stat().st_size > 0
    except OSError:
        return False


def disk_error(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: {error.strerror or error}; {remedy_of(error)}, or name another folder")


def write_atomically(path: Path, text: str) -> None:
    """Write a file that appears under its name only once it is complete; raises UserError if the disk refuses it."""
    try:
        with atomic_write(path) as partial:
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise disk_error(path, error) from error


def write_pages(folder: Path, texts: dict[str, str], plots: dict[str, str]) -> None:
    """Write the files of a report by name, the plots into a folder of their own."""
    try:
        (folder / "plots").mkdir(exist_ok=True)
    except OSError as error:
        raise disk_error(folder / "plots", error) from error
    for name, text in (texts | {f"plots/{name}": svg for name, svg in plots.items()}).items():
        write_atomically(folder / name, text)


def read_journal(folder: Path) -> list[Record]:
    """Read every complete line; raises UserError that names the first line that is not a record."""
    path, records = folder / JOURNAL, list[Record]()
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                # A run that was killed while it wrote leaves a last line without an end.
                if line.endswith("\n"):
                    records.append(from_line(line))
    except CodecError as error:
        raise UserError(f"{path}, line {len(records) + 1}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read ({error})") from error
    return records
