"""Examine the machine: what it is, what disturbs measuring on it, and what to do about that."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from backends.registry import stacks
from bench.clock import MAX_RESOLUTION_NS, now_ns, pause, timer_resolution_ns
from bench.machine import counters, facts
from bench.suite.environments import MissingEnvironmentError, environment_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psutil
    from rich.console import Console

LOOK_NS, GLANCE_NS = 1_000_000_000, 250_000_000
MAX_BUSY_SHARE, MAX_STEAL_SHARE = 0.05, 0.01  # of all cores, while nothing of ours runs
MIN_NAMED_CORES = 0.2  # a process that uses less is not named
MEMORY_PER_ARM_BYTES = 1_500_000_000  # what the process of a large framework takes, as a rule
USUAL_ARMS = 6
GOOD_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")


@dataclass(frozen=True)
class Finding:
    """A fact of the machine; with an advice where it disturbs measuring."""

    what: str
    found: str
    advice: str = ""


def show(console: Console) -> None:
    """Print every finding, and behind them what to do."""
    findings = [*standing(), *passing(), *environments()]
    table = Table("", "What", "Found", box=None, title="This machine", title_justify="left", title_style="bold")
    for each in findings:
        mark = Text("!", "bold yellow") if each.advice else Text("ok", "green")
        table.add_row(mark, Text(each.what), Text(each.found))
    console.print(table, "")
    for each in findings:
        if each.advice:
            console.print(advice_line(each), style="yellow", markup=False, highlight=False, soft_wrap=True)


def disturbances(threads: int = 0) -> list[Finding]:
    """Return what disturbs measuring with so many threads (0: as many as there are cores), after a short look."""
    return [each for each in (*standing(threads), *passing(GLANCE_NS)) if each.advice]


def advice_line(finding: Finding) -> str:
    """Return a finding that disturbs, with what to do about it, in one line."""
    return f"{finding.what}: {finding.found}; {finding.advice}"


def standing(threads: int = 0) -> Iterator[Finding]:
    """Yield what does not change from one moment to the next, for so many threads (0: as many as there are cores)."""
    described = facts.describe()
    yield Finding("CPU", f"{described.cpu} (family {described.family}, model {described.model})")
    yield _instruction_sets(described.instruction_sets)
    yield from _cores(threads or facts.usable_cores())
    yield _numa(facts.usable_nodes())
    yield _governor(described.governor)
    yield _turbo(on=described.turbo)
    yield _clock(described.clock_source)
    yield _priority(described.nice)
    yield Finding("Transparent huge pages", described.transparent_huge_pages or "the kernel does not tell")
    yield _surroundings(virtual=described.virtual, container=described.container)


def _instruction_sets(found: Sequence[str]) -> Finding:
    lacking = [name for name in facts.INSTRUCTION_SETS if name not in found]
    without = f"; without {', '.join(lacking)}" if lacking else ""
    advice = "" if "avx2" in found else "the optimised kernels need AVX2: no gain is to be expected here"
    return Finding("Instruction sets", (", ".join(found) or "none of those that matter") + without, advice)


def _cores(threads: int) -> Iterator[Finding]:
    usable, quota, physical = facts.usable_cores(), facts.quota_cores(), facts.physical_cores()
    advice = f"siblings share a core: measure with --threads {physical}" if threads > physical else ""
    yield Finding("Usable cores", f"{usable}, of {physical} physical ones", advice)
    if quota is not None:
        advice = "a fraction of a core is throttled: set the quota to whole cores" if quota != int(quota) else ""
        yield Finding("CPU quota of the control group", f"{quota:g} cores", advice)


def _numa(nodes: int) -> Finding:
    advice = "bind everything to one: numactl --cpunodebind=0 --membind=0 python -m bench ..." if nodes > 1 else ""
    return Finding("NUMA nodes of the usable cores", str(nodes), advice)


def _governor(name: str | None) -> Finding:
    advice = "" if name in (None, "performance") else "set it: sudo cpupower frequency-set -g performance"
    return Finding("Frequency governor", name or "out of sight", advice)


def _turbo(*, on: bool | None) -> Finding:
    advice = "the clock follows the temperature; switch it off in the firmware, or with the driver, for steadier times"
    return Finding("Turbo", {True: "on", False: "off", None: "out of sight"}[on], advice if on else "")


def _priority(nice: int | None) -> Finding:
    urgent = nice == facts.MOST_URGENT
    found = f"{'the highest' if urgent else 'not the highest'} (nice {nice})"
    advice = "allow it (CAP_SYS_NICE, or a limit: ulimit -e 40), so that other work takes no core from an arm"
    return Finding("Priority of measured processes", found, "" if urgent else advice)


def _clock(source: str | None) -> Finding:
    resolution = timer_resolution_ns()
    slow = resolution > MAX_RESOLUTION_NS or (source is not None and source not in GOOD_CLOCKS)
    advice = "reading it is slow or coarse: boot with clocksource=tsc where the hardware has it" if slow else ""
    return Finding("Clock", f"{source or 'unknown'}, steps of {resolution} ns", advice)


def _surroundings(*, virtual: bool | None, container: str | None) -> Finding:
    kinds = (["virtual machine"] if virtual else []) + ([f"container ({container})"] if container else [])
    return Finding("Surroundings", " and ".join(kinds) or "bare metal, no container")


def passing(look_ns: int = LOOK_NS) -> Iterator[Finding]:
    """Yield what goes on just now: looks for `look_ns`."""
    import psutil

    processes = [each for each in psutil.process_iter(["name"]) if each.pid != os.getpid()]
    for each in processes:
        _cpu_share(each)
    cores = sorted(os.sched_getaffinity(0))
    before, start = counters.counters(cores), now_ns()
    pause(look_ns)
    after, looked_ns = counters.counters(cores), now_ns() - start
    used = (after.busy_ns - before.busy_ns) / looked_ns
    yield _busy(used, len(cores), [(_cpu_share(each), each) for each in processes])
    yield _steal((after.steal_ns - before.steal_ns) / looked_ns / len(cores))
    throttled = after.throttled_ns - before.throttled_ns
    advice = "the quota is used up already: stop what else runs in this container" if throttled else ""
    yield Finding("Throttled by the control group", f"{throttled / 1e6:.0f} ms of the last {look_ns / 1e9:g} s", advice)
    yield _memory(facts.memory_available_bytes())


def _busy(used: float, cores: int, processes: list[tuple[float, psutil.Process]]) -> Finding:
    """Judge how many of the usable cores others used; name the process that used most, where one used much."""
    share = used / cores
    if share <= MAX_BUSY_SHARE:
        return Finding("Cores busy with other work", f"{share:.1%}")
    busiest, process = max(processes, key=lambda each: each[0])
    name = "".join(filter(str.isprintable, process.info["name"] or "?"))
    word = "most of it" if busiest / 100 > used / 2 else "most by"
    who = f", {word} {name}" if busiest / 100 > MIN_NAMED_CORES else ""
    return Finding("Cores busy with other work", f"{share:.1%}{who}", "stop it, or expect wider intervals")


def _steal(share: float) -> Finding:
    advice = "the host gives the cores to others: measure at another time, or with more blocks (--preset publish)"
    return Finding("Stolen by the host", f"{share:.1%}", advice if share > MAX_STEAL_SHARE else "")


def _memory(available: int) -> Finding:
    arms = int(available // MEMORY_PER_ARM_BYTES)
    advice = "measure fewer arms at a time: --stack, --precision" if arms < USUAL_ARMS else ""
    return Finding("Memory available", f"{available / 1e9:.1f} GB, for about {arms} arms at a time", advice)


def _cpu_share(process: psutil.Process) -> float:
    """Return the percentage of a core that a process has used since the last call, zero when it is gone."""
    import psutil

    try:
        return float(process.cpu_percent())
    except psutil.Error:
        return 0.0


def environments() -> Iterator[Finding]:
    """Yield for each environment whether it is there, or the command that makes it."""
    for stack in stacks().values():
        if stack.internal:
            continue
        try:
            found = environment_of(stack)
        except MissingEnvironmentError as error:
            yield Finding(f"Stack {stack.name}", "not there", str(error))
        else:
            versions = ", ".join(f"{name} {found.packages[name]}" for name in stack.packages if name in found.packages)
            yield Finding(f"Stack {stack.name}", f"environment {found.name}, {versions}")
