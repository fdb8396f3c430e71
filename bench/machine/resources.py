"""What this process may use: CPU quota, memory, priority, open files. Linux."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from bench.clock import pause

# setpriority(2); RLIMIT_NICE counts down from 20, getrlimit(2).
MOST_URGENT, NICE_AT_LIMIT_0 = -20, 20
# Without CAP_SYS_ADMIN the kernel accepts one session priority in 100 ms, all processes together.
SESSION_RETRY_NS, SESSION_TRIES = 110_000_000, 20


@cache
def control_group_files(version_2: str, version_1: str, controller: str = "cpu") -> tuple[Path, ...]:
    """Return a controller's files, by their name in either hierarchy, of this process's group and its ancestors."""
    files = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount, name = Path("/sys/fs/cgroup"), version_2
        elif controller in controllers.split(","):
            mount, name = Path("/sys/fs/cgroup") / controller, version_1
        else:
            continue
        # In a container the mount's root is the container's own group.
        own = mount / group.lstrip("/")
        folders = [folder for folder in (own, *own.parents) if folder.is_relative_to(mount)]
        files += [folder / name for folder in folders if (folder / name).is_file()]
    return tuple(files)


def quota_cores() -> float | None:
    """Return the smallest CPU quota that applies, in cores, or None."""
    quotas = [_quota(file) for file in control_group_files("cpu.max", "cpu.cfs_quota_us")]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(file: Path) -> float | None:
    if file.name == "cpu.max":
        quota, period = file.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    quota_us = int(file.read_text())
    return None if quota_us < 0 else quota_us / int(file.with_name("cpu.cfs_period_us").read_text())


def memory_available_bytes() -> int:
    """Return the memory that new processes can use without swapping, within the limits of the control groups."""
    fields = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    free = next(int(field[1]) * 1024 for field in fields if field[0] == "MemAvailable:")
    groups = control_group_files("memory.max", "memory.limit_in_bytes", "memory")
    return max(0, min([free, *map(_memory_left_bytes, groups)]))


def _memory_left_bytes(file: Path) -> int:
    if (limit := file.read_text().strip()) == "max":
        return sys.maxsize
    used = file.with_name("memory.current" if file.name == "memory.max" else "memory.usage_in_bytes").read_text()
    stat = dict(line.split() for line in file.with_name("memory.stat").read_text().splitlines())
    # The usage includes cached files, which the kernel drops when memory is needed.
    cached = (int(stat.get(f"total_{name}", stat.get(name, 0))) for name in ("inactive_file", "active_file"))
    return int(limit) - int(used) + sum(cached)


def require_memory(size: int) -> None:
    """Raise MemoryError if a process of `size` bytes does not fit into the available memory."""
    available = memory_available_bytes()
    if available < size:
        raise MemoryError(f"{size / 1e9:.1f} GB needed and {available / 1e9:.1f} GB of memory available")


def allow_many_files() -> None:
    """Raise the limit on open files as far as allowed: each worker needs two pipes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
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
    try:
        # Such as "/autogroup-25 nice 0". Empty where sessions compete with nice values, as in a container's own group.
        group = _autogroup(pid).read_text().split()
    except OSError:
        group = []
    return max(own, int(group[-1])) if group else own


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
