"""Options that several commands take, and what they all store of how they were called."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from bench.machine.facts import usable_cores
from bench.suite.schedule import MAX_SEED
from models.errors import UserError

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LATEST = "latest"


def chosen_threads(threads: int) -> int:
    """Return the threads of every arm: those that are wanted, or one per usable core for 0."""
    most = usable_cores()
    if not 0 <= threads <= most:
        raise UserError(f"--threads {threads}: allowed: 1 to {most}, the cores this process may use, or 0 for all")
    return threads or most


def require_seed(seed: int) -> None:
    """Raise UserError for a seed that can't be one."""
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"--seed {seed}: allowed: 0 to {MAX_SEED}")


def require_name(name: str) -> None:
    """Raise UserError for a name that no folder of a run may have."""
    if not RUN_NAME.fullmatch(name) or name == LATEST:
        raise UserError(f"--name {name}: allowed: letters, digits, '.', '_' and '-', at most 100, not '{LATEST}'")


def git_commit() -> str | None:
    """Return the commit of the checkout this runs from, marked when it has changes; None outside of one."""
    here = Path(__file__).parent
    try:
        call = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def names_of(option: str, text: str) -> list[str]:
    """Split at commas; an option that was given must name something."""
    names = [name.strip() for name in text.split(",")]
    if text and not all(names):
        raise UserError(f"{option} {text!r}: allowed: names separated by commas")
    return names if text else []
