"""Describe the machine, and read what it does while something is measured. Linux."""

from __future__ import annotations

import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CPU = Path("/sys/devices/system/cpu")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
# The instruction sets that the optimised kernels dispatch on, by their flag in /proc/cpuinfo.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")


@dataclass(frozen=True)
class Counters:
    """What the machine has counted until now: stolen and throttled time in ns, over all cores."""

    steal_ns: int
    throttled_ns: int


def counters() -> Counters:
    """Read steal from /proc/stat (field 8 of proc_stat(5)) and throttling from the control group."""
    steal = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])
    return Counters(steal * TICK_NS, _throttled_ns())


def load() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def frequency_hz() -> int | None:
    """Return the first core's current frequency, or None where the kernel does not tell."""
    path = CPU / "cpu0/cpufreq/scaling_cur_freq"
    return int(path.read_text()) * 1000 if path.exists() else None


def require_memory(size: int) -> None:
    """Raise MemoryError when a process of `size` bytes would not fit into what is available."""
    fields = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    available = next(int(each[1]) * 1024 for each in fields if each[0] == "MemAvailable:")
    if available < size:
        raise MemoryError(f"{size / 1e9:.1f} GB needed and {available / 1e9:.1f} GB of memory available")


def allow_many_files() -> None:
    """Raise the number of files that this process may have open to what it may be raised to: workers have pipes."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity mask, or its control group's quota if that is less."""
    mask = len(os.sched_getaffinity(0))
    quota = _quota_cores()
    return mask if quota is None else max(1, min(mask, int(quota)))


def instruction_sets() -> list[str]:
    """Return those of the instruction sets that the first core has."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return [name for name in INSTRUCTION_SETS if name in flags]


def describe() -> dict[str, Any]:
    """Return the facts that a reader needs to judge whether a result concerns him."""
    import cpuinfo
    import psutil

    cpu = cpuinfo.get_cpu_info()
    flags = set(cpu.get("flags", ()))
    return {
        "cpu": cpu.get("brand_raw", platform.processor()),
        "vendor": cpu.get("vendor_id_raw", "unknown"),
        "family": cpu.get("family"),
        "model": cpu.get("model"),
        "instruction_sets": instruction_sets(),
        "virtual": "hypervisor" in flags,
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "quota_cores": _quota_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "governor": _text(CPU / "cpu0/cpufreq/scaling_governor"),
        "transparent_huge_pages": _text(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "kernel": platform.release(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": load(),
    }


def _text(path: Path) -> str | None:
    return path.read_text().strip() if path.exists() else None


def _control_group_files(version_2: str, version_1: str) -> list[Path]:
    """Return the files of this process's CPU control group and of those around it, in either hierarchy.

    In a container the mount's root is the container's own group.
    """
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += _upwards(Path("/sys/fs/cgroup"), path, version_2)
        elif "cpu" in controllers.split(","):
            found += _upwards(Path("/sys/fs/cgroup/cpu"), path, version_1)
    return found


def _upwards(mount: Path, path: str, name: str) -> list[Path]:
    own = mount / path.lstrip("/")
    groups = [group for group in (own, *own.parents) if group.is_relative_to(mount)]
    return [group / name for group in groups if (group / name).is_file()]


def _quota_cores() -> float | None:
    """Return the smallest CPU quota that applies, in cores, or None."""
    quotas = [_quota(file) for file in _control_group_files("cpu.max", "cpu.cfs_quota_us")]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(file: Path) -> float | None:
    if file.name == "cpu.max":
        quota, period = file.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    quota_us = int(file.read_text())
    return None if quota_us < 0 else quota_us / int(file.with_name("cpu.cfs_period_us").read_text())


def _throttled_ns() -> int:
    """Return how long the control groups around this process were throttled, all added up."""
    return sum(map(_throttled, _control_group_files("cpu.stat", "cpu.stat")))


def _throttled(file: Path) -> int:
    stat = dict(line.split() for line in file.read_text().splitlines())
    return int(stat.get("throttled_usec", 0)) * 1000 or int(stat.get("throttled_time", 0))
