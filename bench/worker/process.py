"""What a worker does to its own process, and reads from it."""

from __future__ import annotations

import os
import resource
import sys
from functools import cache
from pathlib import Path

from backends.protocol import ProofError
from backends.registry import stacks


class NotReadyError(Exception):
    """A request that needs an earlier one, which this process has not had."""


# Cached, because a framework binds the calling thread to a core of its own: only the first call may set the affinity.
@cache
def pin_to_cores(cores: tuple[int, ...] | None) -> None:
    if cores:
        os.sched_setaffinity(0, cores)


def require_preloaded() -> None:
    """Raise ProofError when a library in LD_PRELOAD is not mapped: the loader skips one that it can't load."""
    mapped = Path("/proc/self/maps").read_text()
    for library in os.environ.get("LD_PRELOAD", "").split(":"):
        if library and str(Path(library).resolve()) not in mapped:
            raise ProofError(f"{Path(library).name} was not preloaded")


def require_no_other_framework(stack: str) -> None:
    """Raise ProofError when the framework of another stack was imported."""
    others = {module for other in stacks().values() for module in other.modules} - set(stacks()[stack].modules)
    if imported := sorted(others & sys.modules.keys()):
        raise ProofError(f"the process has imported {', '.join(imported)} as well")


def peak_memory_bytes() -> int:
    # Not ru_maxrss, which counts the memory of the parent before exec as well.
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def involuntary_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
