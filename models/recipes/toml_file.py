"""TOML files written by users, with errors that name the line."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.errors import UserError
from models.files import read_at_most
from models.texts import printable

if TYPE_CHECKING:
    from pathlib import Path

# The files of the project have a few thousand bytes, and two levels of tables or lists.
MOST_BYTES, MOST_LEVELS = 1 << 18, 8


@dataclass(frozen=True)
class TomlFile:
    """The text of a file, in which an error finds the line of its key."""

    path: Path
    text: str

    def error(self, key: str, message: str) -> UserError:
        """Return an error about the first line that sets `key`; without a line if no line does."""
        match = re.search(rf"^\s*(?:{re.escape(key)}\s*=|\[\[?{re.escape(key)}\]\]?)", self.text, re.MULTILINE)
        line = f", line {self.text.count(chr(10), 0, match.end()) + 1}" if match else ""
        return UserError(f"{self.path}{line}: {message}")


def read_toml(path: Path) -> tuple[TomlFile, dict[str, Any]]:
    """Read a file; raise UserError when it can't be read or is not TOML."""
    try:
        text = read_at_most(path, MOST_BYTES).decode("utf-8-sig").replace("\r\n", "\n")
        content = tomllib.loads(text)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not TOML: {error}") from error
    file = TomlFile(path, text)
    for key, value in content.items():
        _require_plain(file, key, (key, value), MOST_LEVELS)
    return file, content


def _require_plain(file: TomlFile, key: str, value: Any, levels: int) -> None:
    """Raise UserError for a text that would control a terminal, for a huge number, and for too many levels."""
    if isinstance(value, str) and printable(value) != value:
        raise file.error(key, f"{value!a} has characters that can't be shown; allowed: printable ones")
    # TOML has no larger ones, and Python can't write some of them as decimals.
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise file.error(key, f"{key!a} has a number that is too large; allowed: -2^63 to 2^63 - 1")
    if isinstance(value, dict | list | tuple):
        if not levels:
            raise file.error(key, f"{key!a} has more than {MOST_LEVELS} levels of tables and lists")
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            _require_plain(file, key, item, levels - 1)
