"""A run's files on disk: the append-only journal, one complete line per record, and files that appear at once."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import re
import zlib
from threading import Lock
from typing import TYPE_CHECKING, Self

from bench.codec import CodecError, read_json
from bench.migration import SCHEMA, current_records, schema_of
from bench.records import LINK, Record, from_content, to_line
from models.errors import UserError, remedy_of
from models.files import atomic_write, read_at_most

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOURNAL, LOGS = "journal.jsonl", "logs"
# The journal of a run that has ended may be compressed.
COMPRESSED = f"{JOURNAL}.gz"
# The description of a run, from which the links of its journal start.
RUN = "run.json"
# The sizes that no description, line or journal has.
MOST_TEXT_BYTES, MOST_LINE, MOST_JOURNAL_BYTES = 1 << 26, 1 << 26, 1 << 32
LINK_DIGITS = 32
LINKED_LINE = re.compile(rf'(.*),"{LINK}":"([0-9a-f]{{{LINK_DIGITS}}})"}}')


class Journal:
    """The journal that a run writes. Each line ends with a link: a digest of run.json and all lines so far."""

    def __init__(self, folder: Path, *, resumed: bool = False) -> None:
        """Create the journal, or open that of an earlier start without the line that was never finished.

        Raises FileExistsError if there is one already, or FileNotFoundError if there is none to go on with.
        """
        self._path, self._lock = folder / JOURNAL, Lock()
        self._descriptor = os.open(
            self._path, os.O_RDWR | os.O_APPEND | (0 if resumed else os.O_CREAT | os.O_EXCL), 0o644
        )
        self._link = first_link(folder)
        with self._path.open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                if not line.endswith("\n"):
                    os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - len(line.encode()))
                elif linked := LINKED_LINE.fullmatch(line[:-1]):
                    self._link = linked[2]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def append(self, record: Record) -> None:
        """Write one record; several threads may do so.

        Raises UserError if the disk refuses it; the journal is then cut back to its last complete line.
        """
        text = to_line(record)
        with self._lock:
            before, link = self._link, next_link(self._link, text)
            line = f'{text[:-1]},"{LINK}":"{link}"}}\n'.encode()
            size = os.fstat(self._descriptor).st_size
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._descriptor, line[written:])
                self._link = link
            # An interrupt must not leave half a line either, nor a line that the next one does not continue.
            except BaseException as error:
                self._link = before
                os.ftruncate(self._descriptor, size)
                if isinstance(error, OSError):
                    raise disk_error(self._path, error) from error
                raise


def first_link(folder: Path) -> str:
    """Return the link that the first line of a journal continues: the digest of its run.json, if there is one."""
    path = folder / RUN
    return next_link("", read_description(path)) if path.exists() else ""


def next_link(link: str, text: str) -> str:
    return hashlib.sha256(f"{link}{text}".encode()).hexdigest()[:LINK_DIGITS]


def broken_link(folder: Path) -> str | None:
    """Return where a run's files were changed after they were written, or None if they were not.

    Raises UserError if the journal can't be read, or was written without links.
    """
    path, link = journal_of(folder), first_link(folder)
    try:
        lines = [line[:-1] for line in lines_of(folder, "utf-8") if line.endswith("\n")]
    except (OSError, UnicodeDecodeError, CodecError) as error:
        raise UserError(f"{path}: can't be read ({error})") from error
    linked = [LINKED_LINE.fullmatch(line) for line in lines]
    if not any(linked):
        raise UserError(f"{path}: has no links between its records; later changes of it can't be detected")
    for number, match in enumerate(linked, 1):
        if match is None:
            return f"{path}, line {number}: has no link"
        link = next_link(link, match[1] + "}")
        if link != match[2]:
            if number == 1:
                return f"{path}: {RUN} or the first line was changed"
            return f"{path}, line {number}: it was changed, or lines before it are missing"
    return None


def read_description(path: Path) -> str:
    """Return the text of a file that describes a run or a training; raises OSError or UnicodeDecodeError."""
    return read_at_most(path, MOST_TEXT_BYTES).decode()


def refuse_links(folder: Path) -> None:
    """Raise UserError for a link, pipe or device below a folder of a stranger.

    Through a link, other files of the user would be read, or replaced by those of a report.
    """
    try:
        with os.scandir(folder) as found:
            entries = list(found)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                refuse_links(folder / entry.name)
            elif not entry.is_file(follow_symlinks=False):
                raise UserError(
                    f"{folder / entry.name}: is a link or a device; the folder of a run has only files and folders; "
                    "delete it, or put the file itself there"
                )
    # Whoever reads a file there says what is wrong with the folder.
    except OSError:
        return


def journal_of(folder: Path) -> Path:
    """Return the path of a folder's journal, which may be compressed."""
    path = folder / JOURNAL
    return folder / COMPRESSED if not path.exists() and (folder / COMPRESSED).exists() else path


def lines_of(folder: Path, encoding: str) -> Iterator[str]:
    """Yield the lines of a folder's journal with their ends, the last one perhaps without.

    Raises OSError or UnicodeDecodeError if it can't be read, and CodecError for a line without an end.
    """
    path = journal_of(folder)
    if not path.is_file():
        raise OSError(errno.ENOENT, "is not there, or no file")
    read = 0
    try:
        with gzip.open(path) if path.name == COMPRESSED else path.open("rb") as stream:
            while line := stream.readline(MOST_LINE):
                if len(line) == MOST_LINE:
                    raise CodecError(f"has more than {MOST_LINE:,} bytes")
                if (read := read + len(line)) > MOST_JOURNAL_BYTES:
                    raise OSError(errno.EFBIG, f"has more than {MOST_JOURNAL_BYTES:,} bytes")
                # A run that was killed may have left half a character.
                yield line.decode(encoding, "strict" if line.endswith(b"\n") else "replace")
    # What gzip raises for a damaged file, beside OSError.
    except (EOFError, zlib.error) as error:
        raise OSError(str(error)) from error


def has_records(folder: Path) -> bool:
    """Return whether anything was measured into a folder."""
    try:
        return journal_of(folder).stat().st_size > 0
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
    refuse_links(folder)
    try:
        (folder / "plots").mkdir(exist_ok=True)
    except OSError as error:
        raise disk_error(folder / "plots", error) from error
    for name, text in (texts | {f"plots/{name}": svg for name, svg in plots.items()}).items():
        write_atomically(folder / name, text)


def read_journal(folder: Path) -> list[Record]:
    """Read every complete line; raises UserError that names the first line that is not a record."""
    path, records, number, schema = journal_of(folder), list[Record](), 1, _schema_of(folder)
    try:
        # Some editors begin a file with a byte order mark.
        for line in lines_of(folder, "utf-8-sig"):
            # A run that was killed while it wrote leaves a last line without an end. Editors leave empty lines.
            if line.endswith("\n") and line.strip():
                records += map(from_content, current_records(read_json(line[:-1]), schema))
            number += 1
    except CodecError as error:
        raise UserError(f"{path}, line {number}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read ({error})") from error
    return records


def _schema_of(folder: Path) -> int:
    """Return the schema of a journal. Whoever reads a run.json that is missing or damaged says so."""
    try:
        return schema_of(read_json(read_description(folder / RUN)))
    except (OSError, UnicodeDecodeError, CodecError):
        return SCHEMA
