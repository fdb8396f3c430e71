"""Diagnose the machine: what it is, what disturbs measurements on it, and what to do about that."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.clock import MAX_RESOLUTION_NS, now_ns, pause, timer_resolution_ns
from bench.machine import compiler, counters, facts, resources
from bench.machine.kernel import exists
from bench.machine.microarchitecture import cpu_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psutil

    from bench.machine.facts import Machine

OBSERVATION_NS, SHORT_OBSERVATION_NS = 1_000_000_000, 250_000_000
UNKNOWN = "not exposed by the kernel"
# Of all cores, while the harness does nothing.
MAX_BUSY_SHARE, MAX_STEAL_SHARE = 0.05, 0.01
# A process that uses less is not named.
MIN_NAMED_CORES = 0.2
# A typical process of a large framework.
MEMORY_PER_ARM_BYTES = 1_500_000_000
TYPICAL_ARMS = 6
# A run with many compiled arms fills some hundred megabytes.
MIN_FREE_BYTES = 1_000_000_000
# Cores of one kind differ by less in their highest frequency, even if some may be clocked higher than others.
MAX_FREQUENCY_RATIO = 1.2
SLOW_PROFILES, SLOW_PREFERENCES = ("low-power", "cool", "quiet"), ("power", "balance_power")
GOOD_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")


@dataclass(frozen=True)
class Finding:
    """A fact about the machine, with advice if it disturbs measurements."""

    what: str
    value: str
    advice: str = ""

    @property
    def line(self) -> str:
        return f"{self.what}: {self.value}; {self.advice}"


def disturbances(threads: int) -> list[Finding]:
    """Return what disturbs measurements with this number of threads, after a short observation."""
    findings = (*static_findings(threads), *current_findings(SHORT_OBSERVATION_NS))
    return [finding for finding in findings if finding.advice]


def static_findings(threads: int | None = None) -> Iterator[Finding]:
    """Yield what stays the same, for this number of threads, or one per usable core."""
    machine = facts.describe()
    yield Finding("CPU", f"{cpu_label(machine)}, family {machine.family}, model {machine.model}")
    yield _instruction_sets(facts.instruction_sets())
    yield from _cores(threads or facts.usable_cores())
    yield _numa(facts.usable_nodes())
    yield _governor(machine.governor)
    yield from _power(machine)
    yield _turbo(on=machine.turbo)
    yield _clock(machine.clock_source)
    yield _priority(machine.nice)
    yield Finding("Transparent huge pages", machine.transparent_huge_pages or UNKNOWN)
    kinds = ["virtual machine"] if machine.virtual else []
    kinds += [f"container ({machine.container})"] if machine.container else []
    yield Finding("Virtualisation", " and ".join(kinds) or "bare metal, no container")
    yield _temporary_folder()


def _instruction_sets(present: Sequence[str] | None) -> Finding:
    if present is None:
        return Finding("Instruction sets", UNKNOWN)
    absent = [name for name in facts.INSTRUCTION_SETS if name not in present]
    without = f"; without {', '.join(absent)}" if absent else ""
    advice = "" if "avx2" in present else "the optimised kernels need AVX2: expect no speedup here"
    return Finding("Instruction sets", (", ".join(present) or "none that the kernels use") + without, advice)


def _cores(threads: int) -> Iterator[Finding]:
    usable, quota, physical = facts.usable_cores(), resources.quota_cores(), facts.physical_cores()
    advice = f"SMT siblings share a core: measure with --threads {physical}" if threads > physical else ""
    yield Finding("Usable cores", f"{usable}, on {physical} physical cores", advice)
    yield from _kinds_of_cores()
    if quota is not None:
        yield _quota(quota, len(facts.arm_cores()))


def _kinds_of_cores() -> Iterator[Finding]:
    what, (fast, efficient), used = "Kinds of cores", facts.cores_by_kind(), facts.arm_cores()
    if fast and efficient:
        value = f"{len(fast)} fast and {len(efficient)} efficient ones"
        if used <= efficient:
            advice = "this process may use efficient cores only: let it use fast ones (taskset, --cpuset-cpus)"
            yield Finding(what, value, advice)
        else:
            yield Finding(what, f"{value}; arms run on fast ones")
        return
    highest = facts.highest_frequencies_hz(used)
    if highest and max(highest) > MAX_FREQUENCY_RATIO * min(highest):
        value = f"their highest frequencies differ: {min(highest) / 1e9:.1f} to {max(highest) / 1e9:.1f} GHz"
        advice = "an arm waits for its slowest core: choose cores of one kind, taskset --cpu-list CORES python ..."
        yield Finding(what, value, advice)


def _quota(quota: float, cores: int) -> Finding:
    advice = ""
    if quota != int(quota):
        advice = "a fraction of a core gets throttled: set the quota to whole cores"
    elif quota < cores:
        advice = f"threads are limited to it, but can be throttled: give {quota:g} cores of its own (--cpuset-cpus)"
    return Finding("CPU quota of the control group", f"{quota:g} of {cores} cores", advice)


def _power(machine: Machine) -> Iterator[Finding]:
    """Yield what saves power, as far as the kernel tells."""
    if source := machine.power_source:
        advice = "the CPU may be slowed down to save power: connect the mains" if source == "battery" else ""
        yield Finding("Power", source, advice)
    if profile := machine.power_profile:
        advice = "it slows the CPU down: powerprofilesctl set performance" if profile in SLOW_PROFILES else ""
        yield Finding("Power profile", profile, advice)
    if preference := machine.energy_preference:
        advice = "it slows the CPU down: sudo cpupower set --epp performance" if preference in SLOW_PREFERENCES else ""
        yield Finding("Energy preference", preference, advice)


def _temporary_folder() -> Finding:
    folder, named = compiler.temporary_folder(), os.environ.get("TMPDIR")
    free, advice = shutil.disk_usage(folder).free, ""
    if named and Path(named).resolve() != folder.resolve():
        advice = f"TMPDIR={named} is no folder that can be written: create it, or set TMPDIR to another one"
    elif free < MIN_FREE_BYTES:
        advice = f"free {MIN_FREE_BYTES / 1e9:g} GB there, or set TMPDIR to another folder"
    return Finding("Temporary folder", f"{folder}, {free / 1e9:.1f} GB free", advice)


def compiling(environment: Path | None = None) -> Finding:
    """Return whether torch.compile works here, in an environment if one is given."""
    if obstacle := compiler.compile_obstacle(environment):
        return Finding("torch.compile", "can't work here", obstacle)
    return Finding("torch.compile", f"{compiler.compiler()} works, with OpenMP and Python's headers")


def _numa(nodes: int) -> Finding:
    advice = "use one node: numactl --cpunodebind=0 --membind=0 python -m bench ..." if nodes > 1 else ""
    return Finding("NUMA nodes of the usable cores", str(nodes), advice)


def _governor(name: str | None) -> Finding:
    remedy = "the frequency follows the load; keep it high: sudo cpupower frequency-set -g performance"
    advice = "" if name in (None, "performance") else remedy
    return Finding("Frequency governor", name or UNKNOWN, advice)


def _turbo(*, on: bool | None) -> Finding:
    value = {True: "on", False: "off", None: UNKNOWN}[on]
    intel, others = facts.CPU / "intel_pstate/no_turbo", facts.CPU / "cpufreq/boost"
    command = f"echo 1 | sudo tee {intel}" if exists(intel) else f"echo 0 | sudo tee {others}"
    advice = f"the frequency depends on the temperature; for steadier times switch it off: {command}"
    return Finding("Turbo", value, advice if on else "")


def _clock(source: str | None) -> Finding:
    resolution = timer_resolution_ns()
    slow = resolution > MAX_RESOLUTION_NS or (source is not None and source not in GOOD_CLOCKS)
    advice = (
        f"it is slow or coarse; use tsc if it is available: echo tsc | sudo tee {facts.CLOCK_SOURCE}" if slow else ""
    )
    return Finding("Clock", f"{source or 'unknown'}, resolution {resolution} ns", advice)


def _priority(nice: int | None) -> Finding:
    highest = nice == resources.MOST_URGENT
    value = f"{'the highest' if highest else 'not the highest'} (nice {nice})"
    advice = "allow the highest (CAP_SYS_NICE, or ulimit -e 40), so that other work does not interrupt an arm"
    return Finding("Priority of measured processes", value, "" if highest else advice)


def current_findings(observation_ns: int = OBSERVATION_NS) -> Iterator[Finding]:
    """Yield what changes over time, after observing the machine for `observation_ns`."""
    processes = _other_processes()
    for process in processes:
        # The first call of a process starts its interval.
        _cpu_percent(process)
    cores = sorted(facts.arm_cores())
    before, start = counters.counters(cores), now_ns()
    pause(observation_ns)
    after, observed_ns = counters.counters(cores), now_ns() - start
    busy_ns, steal_ns = (
        counters.growth(before.busy_ns, after.busy_ns),
        counters.growth(before.steal_ns, after.steal_ns),
    )
    used = None if busy_ns is None else busy_ns / observed_ns
    yield _busy(used, len(cores), [(_cpu_percent(process), process) for process in processes])
    yield _steal(None if steal_ns is None else steal_ns / observed_ns / len(cores))
    yield _throttled(counters.growth(before.throttled_ns, after.throttled_ns), observation_ns)
    yield _memory(resources.memory_available_bytes())


def _other_processes() -> list[psutil.Process]:
    import psutil

    try:
        return [process for process in psutil.process_iter(["name"]) if process.pid != os.getpid()]
    except (OSError, ValueError, psutil.Error):
        # Some sandboxes hide what psutil needs.
        return []


def _busy(used: float | None, cores: int, processes: list[tuple[float, psutil.Process]]) -> Finding:
    """Report the share of the usable cores that other work used, and the process that used most, if it used much."""
    what = "Cores busy with other work"
    if used is None:
        return Finding(what, UNKNOWN)
    share = used / cores
    if share <= MAX_BUSY_SHARE or not processes:
        return Finding(what, f"{share:.1%}", "stop it, or expect wider intervals" if share > MAX_BUSY_SHARE else "")
    percent, process = max(processes, key=lambda pair: pair[0])
    name = "".join(filter(str.isprintable, process.info["name"] or "?"))
    part = "most of it" if percent / 100 > used / 2 else "the largest part"
    culprit = f", {part} by {name}" if percent / 100 > MIN_NAMED_CORES else ""
    return Finding(what, f"{share:.1%}{culprit}", "stop it, or expect wider intervals")


def _cpu_percent(process: psutil.Process) -> float:
    """Return the CPU time since the last call, in percent of a core; 0 if the process has ended."""
    import psutil

    try:
        return float(process.cpu_percent())
    except (OSError, ValueError, psutil.Error):
        return 0.0


def _steal(share: float | None) -> Finding:
    if share is None:
        return Finding("Stolen by the host", UNKNOWN)
    advice = "the host gives the cores to others: measure at another time, or with more blocks (--preset publish)"
    return Finding("Stolen by the host", f"{share:.1%}", advice if share > MAX_STEAL_SHARE else "")


def _throttled(throttled_ns: int | None, observation_ns: int) -> Finding:
    what = "Throttled by the control group"
    if throttled_ns is None:
        return Finding(what, UNKNOWN)
    advice = "the quota is already used up: stop other work in this container" if throttled_ns else ""
    return Finding(what, f"{throttled_ns / 1e6:.0f} ms in the last {observation_ns / 1e9:g} s", advice)


def _memory(available: int | None) -> Finding:
    if available is None:
        return Finding("Memory available", UNKNOWN)
    arms = int(available // MEMORY_PER_ARM_BYTES)
    advice = "measure fewer arms at a time: --stack, --precision" if arms < TYPICAL_ARMS else ""
    return Finding("Memory available", f"{available / 1e9:.1f} GB, enough for about {arms} arms at a time", advice)
