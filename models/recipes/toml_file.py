"""TOML files written by users, with errors that name the line."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


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
        text = path.read_text(encoding="utf-8-sig")
        return TomlFile(path, text), tomllib.loads(text)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not TOML: {error}") from error
