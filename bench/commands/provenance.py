"""Where a result comes from: the command, the time and the commit."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Provenance:
    """What run.json and training.json record of their origin; no commit outside of a git checkout."""

    command: tuple[str, ...]
    started: str
    git_commit: str | None


def provenance() -> Provenance:
    return Provenance(("bench", *sys.argv[1:]), datetime.now(UTC).isoformat(timespec="seconds"), git_commit())


def git_commit() -> str | None:
    """Return the commit of the checkout that this code is in, with `-dirty` if it has changes."""
    folder = str(Path(__file__).parent)
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
