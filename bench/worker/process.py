"""What a worker does to its own process, and reads from it."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from backends.protocol import ProofError
from backends.registry import stacks
from bench.worker.messages import Move, MoveReply

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


class NotReadyError(Exception):
    """A request that needs an earlier one, which this process has not had."""


# Cached, because a framework binds the calling thread to a core of its own: only the first call may set the affinity.
@cache
def pin_to_cores(cores: tuple[int, ...] | None) -> None:
    if cores:
        os.sched_setaffinity(0, cores)


@contextmanager
def unbound(cores: Collection[int]) -> Iterator[None]:
    """Let the calling thread use all of these cores meanwhile, although OpenMP has bound it to one of them.

    A thread that is not bound yet is left alone, so that it stays bound if a library binds it meanwhile.
    """
    bound = os.sched_getaffinity(0)
    if bound == set(cores):
        yield
        return
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, bound)


def move_threads(request: Move) -> MoveReply:
    """Move all threads of this process.

    A thread that OpenMP has bound to one core stays bound, to the core in the same place. A thread that was not pinned
    to the cores before, because it is older than the pinning, may then use all of the new ones.
    """
    places = dict(zip(request.before, request.after, strict=True))
    for thread, mask in _thread_masks().items():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(thread, {places[core] for core in mask} if mask <= places.keys() else request.after)
    return MoveReply(allowed_cores())


def allowed_cores() -> tuple[int, ...]:
    """Return the cores that any thread of this process may use."""
    return tuple(sorted(set[int]().union(*_thread_masks().values())))


def _thread_masks() -> dict[int, set[int]]:
    masks = {}
    for thread in (int(folder.name) for folder in Path("/proc/self/task").iterdir()):
        # A thread may have ended.
        with suppress(ProcessLookupError):
            masks[thread] = os.sched_getaffinity(thread)
    return masks


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
    # ru_maxrss counts the memory of the parent before exec as well. Some sandboxes have nothing else.
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/self/status").read_text().splitlines()
        peak_kib = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), peak_kib)
    return peak_kib * 1024


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def limit_memory(further_bytes: int) -> None:
    """Let allocations fail beyond what this process has and these bytes, so that no file can fill the machine."""
    status = Path("/proc/self/status").read_text()
    held = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData")) * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = held + further_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def involuntary_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
