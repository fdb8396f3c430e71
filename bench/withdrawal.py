"""Withdrawn runs: they stay, with their reports, but claim nothing any more."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.codec import CodecError, decode, encode, read_json
from bench.journal import read_description, write_atomically
from models.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

WITHDRAWAL = "withdrawn.json"


@dataclass(frozen=True)
class Withdrawal:
    """When a run was withdrawn, and why."""

    date: str
    why: str


def write_withdrawal(folder: Path, withdrawal: Withdrawal) -> None:
    write_atomically(folder / WITHDRAWAL, json.dumps(encode(withdrawal)) + "\n")


def read_withdrawal(folder: Path) -> Withdrawal | None:
    """Return how a run was withdrawn, or None; raises UserError if that can't be read."""
    path = folder / WITHDRAWAL
    try:
        return decode(Withdrawal, read_json(read_description(path)))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, CodecError) as error:
        raise UserError(f"{path}: can't be read ({error})") from error
