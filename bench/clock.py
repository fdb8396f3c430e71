"""The project's only reader of a clock. Every clock is monotonic and injectable."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

Clock: TypeAlias = "Callable[[], int]"

now_ns: Clock = time.perf_counter_ns
cpu_ns: Clock = time.process_time_ns

# A coarser clock can't time calls of tens of microseconds.
MAX_RESOLUTION_NS = 1_000

# Linux: the CPU clock of all threads of a process, clock_getcpuclockid(3).
CPUCLOCK_SCHED = 2


def cpu_ns_of(pid: int) -> int:
    """Return the CPU time that all threads of process `pid` have used, in ns, or 0 if it has ended."""
    try:
        return time.clock_gettime_ns((~pid << 3) | CPUCLOCK_SCHED)
    except OSError:
        return 0


def suspended_ns() -> int:
    """Return how long the machine has been suspended since it was started, in ns; no other clock here counts that."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def pause(duration_ns: int) -> None:
    time.sleep(duration_ns / 1e9)


def timer_resolution_ns(clock: Clock = now_ns, readings: int = 10_000) -> int:
    """Return the smallest step between two readings of a clock, in ns; 0 if it never advanced."""
    read = [clock() for _ in range(readings)]
    return min((after - before for before, after in pairwise(read) if after != before), default=0)
