"""What this machine is: CPU, instruction sets, cores, memory nodes, turbo, container. Linux."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from bench.machine.resources import allowed_nice, quota_cores

CPU, NODES = Path("/sys/devices/system/cpu"), Path("/sys/devices/system/node")
CPU_INFO = Path("/proc/cpuinfo")
CLOCK_SOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
# The cores of a hybrid CPU, by kind.
FAST_CORES, EFFICIENT_CORES = Path("/sys/devices/cpu_core/cpus"), Path("/sys/devices/cpu_atom/cpus")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# The instruction sets that the optimised kernels dispatch on, by their flags in /proc/cpuinfo.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")


@dataclass(frozen=True)
class Machine:
    """What a reader needs to decide whether a result applies to them; None where the kernel does not expose it.

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
        cpu=cpu.get("model name") or platform.processor() or "unknown",
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        vendor=cpu.get("vendor_id") or "unknown",
        family=_number(cpu.get("cpu family")),
        model=_number(cpu.get("model")),
        instruction_sets=tuple(instruction_sets()),
        virtual="hypervisor" in cpu.get("flags", "").split(),
        quota_cores=quota_cores(),
        memory_bytes=psutil.virtual_memory().total,
        threads_per_core=threads_per_core(),
        numa_nodes=max(1, len(list(NODES.glob("node[0-9]*")))),
        turbo=turbo(),
        container=container(),
        nice=allowed_nice(),
        clock_source=_text(CLOCK_SOURCE),
        governor=_text(CPU / "cpu0/cpufreq/scaling_governor"),
        transparent_huge_pages=_text(HUGE_PAGES),
        kernel=platform.release(),
        system=platform.platform(),
        python=platform.python_version(),
        load=load(),
    )


def _cpu_info() -> dict[str, str]:
    """Return what the kernel says about the first core."""
    first_core = CPU_INFO.read_text().partition("\n\n")[0]
    fields = (line.partition(":") for line in first_core.splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _text(path: Path) -> str | None:
    return path.read_text().strip() if path.exists() else None


def load() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def frequency_hz() -> int | None:
    """Return the first core's current frequency, or None where the kernel does not expose it."""
    khz = _text(CPU / "cpu0/cpufreq/scaling_cur_freq")
    return None if khz is None else int(khz) * 1000


def instruction_sets() -> list[str]:
    """Return which of INSTRUCTION_SETS the first core has."""
    flags = _cpu_info().get("flags", "").split()
    return [name for name in INSTRUCTION_SETS if name in flags]


def cores_by_kind() -> tuple[set[int], set[int]]:
    """Return the fast and the efficient cores of a hybrid CPU; both are empty on other CPUs."""
    fast, efficient = (set(_cores_in(_text(file) or "")) for file in (FAST_CORES, EFFICIENT_CORES))
    return fast, efficient


def arm_cores() -> set[int]:
    """Return the cores that arms may use: this process's, on a hybrid CPU only the fast ones if there are any."""
    allowed, (fast, _) = os.sched_getaffinity(0), cores_by_kind()
    return allowed & fast or allowed


def usable_cores() -> int:
    """Return how many cores arms may use at a time: those allowed, or the CPU quota of the control group if less."""
    mask, quota = len(arm_cores()), quota_cores()
    return mask if quota is None else max(1, min(mask, int(quota)))


def physical_cores() -> int:
    """Return the number of physical cores behind the logical ones that this process may use."""
    return len({tuple(siblings(core)) for core in arm_cores()})


def threads_per_core() -> int:
    return len(siblings(0))


def siblings(core: int) -> list[int]:
    """Return the logical cores of a core's physical core, itself included."""
    return _cores_in(_text(CPU / f"cpu{core}/topology/thread_siblings_list") or str(core))


def node_of(core: int) -> int:
    nodes = (int(path.name.removeprefix("node")) for path in NODES.glob("node[0-9]*"))
    return next((node for node in nodes if core in _cores_in(_text(NODES / f"node{node}/cpulist") or "")), 0)


def usable_nodes() -> int:
    """Return the number of memory nodes whose cores this process may use."""
    return len({node_of(core) for core in arm_cores()})


def _cores_in(text: str) -> list[int]:
    """Parse a list of cores as the kernel writes it: 0-3,8."""
    bounds = (part.partition("-") for part in text.split(",") if part)
    return [core for first, _, last in bounds for core in range(int(first), int(last or first) + 1)]


def turbo() -> bool | None:
    """Return whether the clock may rise above its base frequency, or None where the kernel does not expose it."""
    no_turbo, boost = _text(CPU / "intel_pstate/no_turbo"), _text(CPU / "cpufreq/boost")
    if no_turbo is not None:
        return no_turbo == "0"
    return None if boost is None else boost == "1"


def container() -> str | None:
    """Return the kind of container that this process runs in, or None."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    markers = {"docker": Path("/.dockerenv"), "podman": Path("/run/.containerenv")}
    by_marker = (kind for kind, marker in markers.items() if marker.exists())
    return _text(Path("/run/systemd/container")) or next(by_marker, None)
