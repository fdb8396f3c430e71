"""Describe the machine. Linux."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.clock import pause

CPU, NODES = Path("/sys/devices/system/cpu"), Path("/sys/devices/system/node")
MOST_URGENT, NICE_AT_LIMIT_0 = -20, 20  # setpriority(2), and what RLIMIT_NICE counts from, getrlimit(2)
# The kernel takes one priority of a session in 100 ms, of all processes that are not the administrator's together.
SESSION_RETRY_NS, SESSION_TRIES = 110_000_000, 20
CLOCK_SOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
# The instruction sets that the optimised kernels dispatch on, by their flag in /proc/cpuinfo.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")


def load() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def frequency_hz() -> int | None:
    """Return the first core's current frequency, or None where the kernel does not tell."""
    path = CPU / "cpu0/cpufreq/scaling_cur_freq"
    return int(path.read_text()) * 1000 if path.exists() else None


def require_memory(size: int) -> None:
    """Raise MemoryError when a process of `size` bytes would not fit into what is available."""
    available = memory_available_bytes()
    if available < size:
        raise MemoryError(f"{size / 1e9:.1f} GB needed and {available / 1e9:.1f} GB of memory available")


def allow_many_files() -> None:
    """Raise the number of files that this process may have open to what it may be raised to: workers have pipes."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity mask, or its control group's quota if that is less."""
    mask = len(os.sched_getaffinity(0))
    quota = quota_cores()
    return mask if quota is None else max(1, min(mask, int(quota)))


def instruction_sets() -> list[str]:
    """Return those of the instruction sets that the first core has."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return [name for name in INSTRUCTION_SETS if name in flags]


def physical_cores() -> int:
    """Return how many physical cores those that this process may use belong to."""
    return len({tuple(siblings(core)) for core in os.sched_getaffinity(0)})


def threads_per_core() -> int:
    """Return how many logical cores share the first physical one (SMT): 1 where none do."""
    return len(siblings(0))


def siblings(core: int) -> list[int]:
    """Return the logical cores of the physical one that `core` is of, itself included."""
    return _cores_in(_text(CPU / f"cpu{core}/topology/thread_siblings_list") or str(core))


def node_of(core: int) -> int:
    """Return the memory node that a core is of."""
    nodes = (int(path.name.removeprefix("node")) for path in NODES.glob("node[0-9]*"))
    return next((node for node in nodes if core in _cores_in(_text(NODES / f"node{node}/cpulist") or "")), 0)


def _cores_in(text: str) -> list[int]:
    """Read a list of cores as the kernel writes it: 0-3,8."""
    bounds = (part.partition("-") for part in text.split(",") if part)
    return [core for first, _, last in bounds for core in range(int(first), int(last or first) + 1)]


def usable_nodes() -> int:
    """Return how many memory nodes the cores belong to that this process may use."""
    return len({node_of(core) for core in os.sched_getaffinity(0)})


def numa_nodes() -> int:
    """Return how many memory nodes there are."""
    return max(1, len(list(NODES.glob("node[0-9]*"))))


def turbo() -> bool | None:
    """Tell whether the clock may rise above its base, or None where the kernel does not tell."""
    off, boost = _text(CPU / "intel_pstate/no_turbo"), _text(CPU / "cpufreq/boost")
    return off == "0" if off is not None else None if boost is None else boost == "1"


def container() -> str | None:
    """Return what kind of container this runs in, or None."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    marks = {"docker": Path("/.dockerenv"), "podman": Path("/run/.containerenv")}
    return _text(Path("/run/systemd/container")) or next((kind for kind, mark in marks.items() if mark.exists()), None)


def memory_available_bytes() -> int:
    """Return how much memory new processes can have without swapping, and within the limits of the control groups."""
    fields = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    free = next(int(each[1]) * 1024 for each in fields if each[0] == "MemAvailable:")
    groups = control_group_files("memory.max", "memory.limit_in_bytes", "memory")
    return max(0, min([free, *map(_room_bytes, groups)]))


def _room_bytes(file: Path) -> int:
    """Return what a control group's limit leaves; cached files can be dropped."""
    if (limit := file.read_text().strip()) == "max":
        return sys.maxsize
    used = file.with_name("memory.current" if file.name == "memory.max" else "memory.usage_in_bytes").read_text()
    stat = dict(line.split() for line in file.with_name("memory.stat").read_text().splitlines())
    cached = (int(stat.get(f"total_{name}", stat.get(name, 0))) for name in ("inactive_file", "active_file"))
    return int(limit) - int(used) + sum(cached)


def quota_cores() -> float | None:
    """Return the smallest CPU quota that applies, in cores, or None."""
    quotas = [_quota(file) for file in control_group_files("cpu.max", "cpu.cfs_quota_us")]
    return min((quota for quota in quotas if quota is not None), default=None)


def raise_priority(pid: int) -> None:
    """Give a process, leader of its session, the highest priority that is allowed: CAP_SYS_NICE, or RLIMIT_NICE."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NICE)
    for nice in (MOST_URGENT, min(0, NICE_AT_LIMIT_0 - limit)):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, nice)
            _raise_session(pid, nice)
            return


def _raise_session(pid: int, nice: int) -> None:
    """Give a process's session a priority; raises nothing where sessions have none, or where that is not allowed."""
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
    """Return how a process stands against those of other sessions: its nice value, or that of its session."""
    own, group = os.getpriority(os.PRIO_PROCESS, pid), _text(_autogroup(pid))
    return max(own, int(group.split()[-1])) if group else own


def _autogroup(pid: int) -> Path:
    """Return the file of the priority among sessions, which hides that among processes where there is one, sched(7)."""
    return Path(f"/proc/{pid}/autogroup")


@cache
def allowed_nice() -> int:
    """Return the nice value that measured processes can have, found out with one that does nothing."""
    command = [sys.executable, "-I", "-S", "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as idle:
        raise_priority(idle.pid)
        return nice_of(idle.pid)


@dataclass(frozen=True)
class Machine:
    """What a reader needs to decide whether a result concerns them; None where the kernel does not tell.

    Fields with a default are missing in some older runs. `nice` is that of measured processes.
    """

    cpu: str
    cores: int
    usable_cores: int
    vendor: str = "unknown"
    family: int | None = None
    model: int | None = None
    instruction_sets: tuple[str, ...] = ()
    virtual: bool | None = None
    quota_cores: float | None = None
    memory_bytes: int | None = None
    threads_per_core: int | None = None
    numa_nodes: int | None = None
    turbo: bool | None = None
    container: str | None = None
    nice: int | None = None
    clock_source: str | None = None
    governor: str | None = None
    transparent_huge_pages: str | None = None
    kernel: str | None = None
    system: str | None = None
    python: str | None = None
    load: float | None = None


def describe() -> Machine:
    import psutil

    cpu = _cpu_info()
    return Machine(
        cpu=cpu.get("brand_raw", platform.processor()),
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        vendor=cpu.get("vendor_id_raw", "unknown"),
        family=cpu.get("family"),
        model=cpu.get("model"),
        instruction_sets=tuple(instruction_sets()),
        virtual="hypervisor" in cpu.get("flags", ()),
        quota_cores=quota_cores(),
        memory_bytes=psutil.virtual_memory().total,
        threads_per_core=threads_per_core(),
        numa_nodes=numa_nodes(),
        turbo=turbo(),
        container=container(),
        nice=allowed_nice(),
        clock_source=_text(CLOCK_SOURCE),
        governor=_text(CPU / "cpu0/cpufreq/scaling_governor"),
        transparent_huge_pages=_text(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        kernel=platform.release(),
        system=platform.platform(),
        python=platform.python_version(),
        load=load(),
    )


@cache
def _cpu_info() -> dict[str, Any]:
    """Ask for the name of the CPU once: it takes a process of its own."""
    import cpuinfo

    return dict(cpuinfo.get_cpu_info())


def _text(path: Path) -> str | None:
    return path.read_text().strip() if path.exists() else None


def control_group_files(version_2: str, version_1: str, controller: str = "cpu") -> list[Path]:
    """Return the files of a controller's group that this process is in and of those around it, in either hierarchy.

    In a container the mount's root is the container's own group.
    """
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += _upwards(Path("/sys/fs/cgroup"), path, version_2)
        elif controller in controllers.split(","):
            found += _upwards(Path("/sys/fs/cgroup") / controller, path, version_1)
    return found


def _upwards(mount: Path, path: str, name: str) -> list[Path]:
    own = mount / path.lstrip("/")
    groups = [group for group in (own, *own.parents) if group.is_relative_to(mount)]
    return [group / name for group in groups if (group / name).is_file()]


def _quota(file: Path) -> float | None:
    if file.name == "cpu.max":
        quota, period = file.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    quota_us = int(file.read_text())
    return None if quota_us < 0 else quota_us / int(file.with_name("cpu.cfs_period_us").read_text())
