"""What this process may use: CPU quota, memory, priority, open files. Linux."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bench.clock import pause
from bench.machine.kernel import exists, parse_number, read_fields, read_lines, read_number, read_text

if TYPE_CHECKING:
    from collections.abc import Iterable

MEMORY_INFO = Path("/proc/meminfo")

# setpriority(2); RLIMIT_NICE counts down from 20, getrlimit(2).
MOST_URGENT, NICE_AT_LIMIT_0 = -20, 20
# Without CAP_SYS_ADMIN the kernel accepts one session priority in 100 ms, all processes together.
SESSION_RETRY_NS, SESSION_TRIES = 110_000_000, 20


@cache
def control_group_files(version_2: str, version_1: str, controller: str = "cpu") -> tuple[Path, ...]:
    """Return a controller's files, by their name in either hierarchy, of this process's group and its ancestors."""
    files = []
    for line in read_lines(Path("/proc/self/cgroup")):
        _, _, controllers_and_group = line.partition(":")
        controllers, colon, group = controllers_and_group.partition(":")
        if not colon:
            continue
        if controllers == "":
            mount, name = Path("/sys/fs/cgroup"), version_2
        elif controller in controllers.split(","):
            mount, name = Path("/sys/fs/cgroup") / controller, version_1
        else:
            continue
        # In a container the mount's root is the container's own group.
        own = mount / group.lstrip("/")
        folders = [folder for folder in (own, *own.parents) if folder.is_relative_to(mount)]
        files += [folder / name for folder in folders if exists(folder / name)]
    return tuple(files)


def quota_cores() -> float | None:
    """Return the smallest CPU quota that applies, in cores, or None if none is known."""
    quotas = [_quota(file) for file in control_group_files("cpu.max", "cpu.cfs_quota_us")]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(file: Path) -> float | None:
    if file.name == "cpu.max":
        quota, period = (*(read_text(file) or "").split(), "", "")[:2]
    else:
        quota, period = (read_text(path) or "" for path in (file, file.with_name("cpu.cfs_period_us")))
    quota_us, period_us = parse_number(quota), parse_number(period)
    # Without a quota, the first version has -1 there, and the second a word.
    return quota_us / period_us if quota_us and period_us and quota_us > 0 and period_us > 0 else None


def memory_available_bytes() -> int | None:
    """Return the memory that new processes can use without swapping, within the limits of the control groups.

    None if the kernel does not tell.
    """
    free = read_fields(MEMORY_INFO).get("MemAvailable")
    groups = map(_memory_left_bytes, control_group_files("memory.max", "memory.limit_in_bytes", "memory"))
    known = [left for left in (None if free is None else free * 1024, *groups) if left is not None]
    return max(0, min(known)) if known else None


def _memory_left_bytes(file: Path) -> int | None:
    """Return what a control group may still use, or None if that is unlimited or unknown."""
    used = file.with_name("memory.current" if file.name == "memory.max" else "memory.usage_in_bytes")
    limit_bytes, used_bytes, stat = read_number(file), read_number(used), read_fields(file.with_name("memory.stat"))
    if limit_bytes is None or used_bytes is None:
        return None
    # The usage includes cached files, which the kernel drops when memory is needed.
    cached = (stat.get(f"total_{name}", stat.get(name, 0)) for name in ("inactive_file", "active_file"))
    return limit_bytes - used_bytes + sum(cached)


def require_memory(size: int, reserved: int = 0) -> None:
    """Raise MemoryError if a process of `size` bytes does not fit into the available memory that is not reserved."""
    available = memory_available_bytes()
    if available is not None and (left := max(0, available - reserved)) < size:
        raise MemoryError(f"{size / 1e9:.1f} GB needed and {left / 1e9:.1f} GB of memory available")


def memory_used_bytes(pid: int) -> int | None:
    """Return the memory that a process uses, None if it has ended."""
    fields = (read_text(Path(f"/proc/{pid}/statm")) or "").split()
    return int(fields[1]) * resource.getpagesize() if len(fields) > 1 and fields[1].isdecimal() else None


def memory_used_by_all(pids: Iterable[int]) -> int:
    """Return the memory in bytes that processes use together; those that have ended use none."""
    return sum(filter(None, map(memory_used_bytes, pids)))


def allow_many_files() -> None:
    """Raise the limit on open files as far as allowed: each worker needs two pipes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some sandboxes refuse the limit that they name.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def raise_priority(pid: int) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_NICE)
    for nice in (MOST_URGENT, min(0, NICE_AT_LIMIT_0 - limit)):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, nice)
            _raise_session(pid, nice)
            return


def _raise_session(pid: int, nice: int) -> None:
    """Give a process's session a priority, unless sessions have none or it is not allowed."""
    for _ in range(SESSION_TRIES):
        try:
            _autogroup(pid).write_text(str(nice))
        except BlockingIOError:
            pause(SESSION_RETRY_NS)
        except OSError:
            return
        else:
            return


def nice_of(pid: int) -> int:
    """Return the nice value that counts against processes of other sessions."""
    own = os.getpriority(os.PRIO_PROCESS, pid)
    # Such as "/autogroup-25 nice 0". Empty where sessions compete with nice values, as in a container's own group.
    group = parse_number((read_text(_autogroup(pid)) or "").rpartition(" ")[2])
    return own if group is None else max(own, group)


def _autogroup(pid: int) -> Path:
    # Where the kernel has this file, sessions compete by its value, and nice values count only within a session:
    # sched(7).
    return Path(f"/proc/{pid}/autogroup")


@cache
def allowed_nice() -> int:
    """Return the nice value that measured processes get, by trying it on an idle process."""
    command = [sys.executable, "-I", "-S", "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as idle:
        raise_priority(idle.pid)
        return nice_of(idle.pid)
