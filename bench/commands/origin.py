"""The origin of a result: the command, the time and the commit."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench.engine.describe import Origin


def origin_of_now(advice: tuple[str, ...] = ()) -> Origin:
    command = ("bench", *sys.argv[1:])
    return Origin(command, datetime.now(UTC).isoformat(timespec="seconds"), _git_commit(), advice)


def _git_commit() -> str | None:
    """Return the commit of the checkout that this code is in, with `-dirty` if it has changes, None without one."""
    folder = str(Path(__file__).parent)
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
