"""What a worker does to, and knows of, its own process."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from backends.protocol import ProofError
from backends.registry import stacks


def take_place(cores: list[int] | None) -> None:
    """Let this process, as one of a team, run on its own cores only."""
    if cores:
        os.sched_setaffinity(0, cores)


def require_preloaded() -> None:
    """Raise ProofError when the loader has left out a library that was to be preloaded, which it does silently."""
    mapped = Path("/proc/self/maps").read_text()
    for library in os.environ.get("LD_PRELOAD", "").split(":"):
        if library and str(Path(library).resolve()) not in mapped:
            raise ProofError(f"{Path(library).name} was not preloaded")


def peak_memory_bytes() -> int:
    """Return the peak resident set of this program (ru_maxrss would count the parent's before exec)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def require_no_other_framework(stack: str) -> None:
    """Raise ProofError when the framework of another stack was imported."""
    others = {name for each in stacks().values() for name in each.modules} - set(stacks()[stack].modules)
    if foreign := sorted(others & sys.modules.keys()):
        raise ProofError(f"the process has imported {', '.join(foreign)} as well")


def involuntary_switches() -> int:
    """Return how often the process was made to wait for a core."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
