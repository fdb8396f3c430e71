"""What this machine is: CPU, instruction sets, cores, memory nodes, turbo, container. Linux."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.machine.kernel import (
    entries,
    exists,
    parse_number,
    read_cores,
    read_fields,
    read_lines,
    read_number,
    read_word,
)
from bench.machine.resources import MEMORY_INFO, allowed_nice, quota_cores

if TYPE_CHECKING:
    from collections.abc import Iterable

CPU, NODES = Path("/sys/devices/system/cpu"), Path("/sys/devices/system/node")
CPU_INFO = Path("/proc/cpuinfo")
CLOCK_SOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
# The cores of a hybrid CPU, by kind.
FAST_CORES, EFFICIENT_CORES = Path("/sys/devices/cpu_core/cpus"), Path("/sys/devices/cpu_atom/cpus")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
POWER_SUPPLIES, POWER_PROFILE = Path("/sys/class/power_supply"), Path("/sys/firmware/acpi/platform_profile")
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
    power_source: str | None = None
    power_profile: str | None = None
    energy_preference: str | None = None
    transparent_huge_pages: str | None = None
    kernel: str | None = None
    system: str | None = None
    python: str | None = None
    load: float | None = None


def describe() -> Machine:
    cpu = cpu_info()
    flags = cpu.get("flags", "").split()
    memory = read_fields(MEMORY_INFO).get("MemTotal")
    return Machine(
        cpu=cpu.get("model name") or platform.processor() or "unknown",
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        vendor=cpu.get("vendor_id", "unknown"),
        family=parse_number(cpu.get("cpu family", "")),
        model=parse_number(cpu.get("model", "")),
        instruction_sets=tuple(instruction_sets() or ()),
        virtual="hypervisor" in flags if flags else None,
        quota_cores=quota_cores(),
        memory_bytes=None if memory is None else memory * 1024,
        threads_per_core=threads_per_core(),
        numa_nodes=max(1, len(nodes())),
        turbo=turbo(),
        container=container(),
        nice=allowed_nice(),
        clock_source=read_word(CLOCK_SOURCE),
        governor=read_word(CPU / "cpu0/cpufreq/scaling_governor"),
        power_source=power_source(),
        power_profile=read_word(POWER_PROFILE),
        energy_preference=read_word(CPU / "cpu0/cpufreq/energy_performance_preference"),
        transparent_huge_pages=read_word(HUGE_PAGES),
        kernel=platform.release(),
        system=platform.platform(),
        python=platform.python_version(),
        load=load(),
    )


def cpu_info() -> dict[str, str]:
    """Return what /proc/cpuinfo says of the first core, by the kernel's names."""
    info: dict[str, str] = {}
    for line in read_lines(CPU_INFO):
        name, colon, content = (part.strip() for part in line.partition(":"))
        if name in info:
            break
        if colon and content.isprintable():
            info[name] = content
    return info


def load() -> float | None:
    """Return the load average of the last minute."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def frequency_hz() -> int | None:
    """Return the first core's current frequency, or None where the kernel does not expose it."""
    khz = read_number(CPU / "cpu0/cpufreq/scaling_cur_freq")
    return None if khz is None else khz * 1000


def highest_frequencies_hz(cores: Iterable[int]) -> list[int]:
    """Return the highest frequency of each of some cores, without those that the kernel does not expose."""
    frequencies = (read_number(CPU / f"cpu{core}/cpufreq/cpuinfo_max_freq") for core in cores)
    return [khz * 1000 for khz in frequencies if khz]


def instruction_sets() -> list[str] | None:
    """Return which of INSTRUCTION_SETS the first core has, or None if the kernel does not tell."""
    flags = cpu_info().get("flags", "").split()
    return [name for name in INSTRUCTION_SETS if name in flags] if flags else None


def cores_by_kind() -> tuple[set[int], set[int]]:
    """Return the fast and the efficient cores of a hybrid CPU; both are empty on other CPUs."""
    return set(read_cores(FAST_CORES)), set(read_cores(EFFICIENT_CORES))


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


def threads_per_core() -> int | None:
    return len(_listed_siblings(0)) or None


def siblings(core: int) -> list[int]:
    """Return the logical cores of a core's physical core, itself included."""
    return _listed_siblings(core) or [core]


def _listed_siblings(core: int) -> list[int]:
    return read_cores(CPU / f"cpu{core}/topology/thread_siblings_list")


def nodes() -> dict[int, list[int]]:
    """Return the cores of each memory node; a node may have memory only, and none may be known."""
    folders = [(parse_number(path.name.removeprefix("node")), path) for path in entries(NODES)]
    return {number: read_cores(path / "cpulist") for number, path in folders if number is not None}


def node_of(core: int) -> int:
    return next((node for node, cores in nodes().items() if core in cores), 0)


def usable_nodes() -> int:
    """Return the number of memory nodes whose cores this process may use."""
    return len({node_of(core) for core in arm_cores()})


def turbo() -> bool | None:
    """Return whether the clock may rise above its base frequency, or None where the kernel does not expose it."""
    no_turbo, boost = read_word(CPU / "intel_pstate/no_turbo"), read_word(CPU / "cpufreq/boost")
    return {"0": True, "1": False}.get(no_turbo or "", {"1": True, "0": False}.get(boost or ""))


def power_source() -> str | None:
    """Return `battery` while one is discharged, `mains` while a supply is connected, or None if neither is known.

    Mice and keyboards have batteries too, which supply only themselves.
    """
    supplies = [path for path in entries(POWER_SUPPLIES) if read_word(path / "scope") != "Device"]
    kinds = {path: read_word(path / "type") for path in supplies}
    if any(kind == "Battery" and read_word(path / "status") == "Discharging" for path, kind in kinds.items()):
        return "battery"
    connected = any(kind != "Battery" and read_word(path / "online") == "1" for path, kind in kinds.items())
    return "mains" if connected else None


def container() -> str | None:
    """Return the kind of container that this process runs in, or None."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    markers = {"docker": Path("/.dockerenv"), "podman": Path("/run/.containerenv")}
    by_marker = (kind for kind, marker in markers.items() if exists(marker))
    return read_word(Path("/run/systemd/container")) or next(by_marker, None)
