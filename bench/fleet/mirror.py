"""The copy of a node's run on the driver's side: bounded, linked line by line, and read only by the codec."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from bench.codec import CodecError, decode, read_json
from bench.fleet.driver import MOST_LINE_BYTES, Ended, NodeDamagedError
from bench.journal import JOURNAL, LINKED_LINE, MOST_JOURNAL_BYTES, RUN, first_link, next_link
from bench.records import End, from_line

if TYPE_CHECKING:
    from pathlib import Path


class Mirror:
    """The folder of a node's run, which grows by frames. `size` is how much of the journal it has."""

    def __init__(self, folder: Path) -> None:
        """Make the folder, or take up an earlier one without a line that never arrived completely."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.size, self.blocks = folder, 0, 0
        self._last, self._link = b"", first_link(folder)
        self._journal = (folder / JOURNAL).open("a+b")
        self._journal.seek(0)
        for line in self._journal:
            if line.endswith(b"\n"):
                self._check(line[:-1])
        self._journal.truncate(self.size)

    def feed(self, frame: bytes) -> Ended | None:
        """Take a frame; return how the run has ended if it tells that. Raises NodeDamagedError, or OSError."""
        if len(frame) > MOST_LINE_BYTES:
            raise NodeDamagedError(f"a frame of more than {MOST_LINE_BYTES:,} bytes")
        kind, content = frame[:1], frame[1:]
        try:
            if kind == b"J":
                self._check(content)
                self._journal.write(content + b"\n")
                # A driver that is killed has what it has counted.
                self._journal.flush()
            elif kind == b"R":
                self._describe(content)
            elif kind == b"E":
                return decode(Ended, read_json(content.decode()))
            elif kind != b"H":
                raise NodeDamagedError(f"a frame of the unknown kind {kind!r}")
        # CodecError, JSONDecodeError and UnicodeError are ValueErrors.
        except (ValueError, RecursionError) as error:
            raise NodeDamagedError(str(error)) from error
        return None

    def end(self) -> str | None:
        """Return how the run has ended by its last record: complete, settled or interrupted; None if it has not."""
        try:
            record = from_line(self._last.decode())
        except (CodecError, UnicodeDecodeError):
            return None
        return record.status if isinstance(record, End) else None

    def close(self) -> None:
        self._journal.close()

    def _describe(self, content: bytes) -> None:
        path, text = self.folder / RUN, text_in(content)
        if self.size:
            if path.read_text(encoding="utf-8") != text:
                raise NodeDamagedError("its run.json is another one than before")
            return
        path.write_text(text, encoding="utf-8")
        self._link = first_link(self.folder)

    def _check(self, line: bytes) -> None:
        """Count a line of the journal; its records are checked by whoever reads them."""
        self.size += len(line) + 1
        if self.size > MOST_JOURNAL_BYTES:
            raise NodeDamagedError(f"a journal of more than {MOST_JOURNAL_BYTES:,} bytes")
        linked = LINKED_LINE.fullmatch(line.decode())
        if not linked or next_link(self._link, linked[1] + "}") != linked[2]:
            raise NodeDamagedError(f"line after {self.size - len(line) - 1:,} bytes of the journal: its link is broken")
        self._link, self._last = linked[2], line
        self.blocks += line.startswith(b'{"kind":"blockend"')


def text_in(content: bytes) -> str:
    """Return the text in a JSON string, with every character as it is: it is part of a digest."""
    text = json.loads(content)
    if not isinstance(text, str):
        raise CodecError("must be a string")
    return text
