"""The checkout that this code is in, and its commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
# Names the commit of a copy, which may lie in a repository of something else.
COMMIT = "COMMIT"
GIT_TIMEOUT_S = 30


def commit(checkout: Path = CHECKOUT) -> str | None:
    """Return the commit of a checkout, with `-dirty` if it has changes, None where it is unknown."""
    try:
        named = (checkout / COMMIT).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        named = git(checkout, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or ""
    return named.strip() or None


def git(checkout: Path, *arguments: str) -> str | None:
    """Return what git prints about a checkout; None without git, or without a repository there."""
    command = ["git", "-C", str(checkout), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_TIMEOUT_S).stdout
    except (OSError, subprocess.SubprocessError):
        return None
