"""Count steal, throttling and busy time during a measurement, and choose the quietest cores. Linux."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.clock import pause
from bench.machine.facts import arm_cores, node_of, siblings
from bench.machine.kernel import parse_number, read_fields, read_lines
from bench.machine.resources import control_group_files

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

STAT = Path("/proc/stat")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
# The columns of /proc/stat, proc_stat(5).
STAT_COLUMNS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
BUSY = ("user", "nice", "system", "irq", "softirq")
CORE_OBSERVATION_NS = 100_000_000


@dataclass(frozen=True)
class Counters:
    """Kernel counters in ns: steal and busy time added over cores, throttled time added over control groups.

    None where the kernel does not tell.
    """

    steal_ns: int | None
    throttled_ns: int | None
    busy_ns: int | None


@dataclass(frozen=True)
class Snapshot:
    """The kernel's counters at one time: ticks by line of /proc/stat, and throttled time."""

    ticks: Mapping[str, Mapping[str, int]]
    throttled_ns: int | None

    def of(self, cores: Sequence[int] = ()) -> Counters:
        """Return the counters of `cores`, of all cores if none are given; busy time includes all processes."""
        # A container may not see its cores' own lines.
        lines = [self.ticks[f"cpu{core}"] for core in cores if f"cpu{core}" in self.ticks] or [
            line for name, line in self.ticks.items() if name == "cpu"
        ]
        return Counters(
            steal_ns=sum(_sum_ns(line, ("steal",)) for line in lines) if lines else None,
            throttled_ns=self.throttled_ns,
            busy_ns=sum(_sum_ns(line, BUSY) for line in lines) if lines else None,
        )


def snapshot() -> Snapshot:
    files = control_group_files("cpu.stat", "cpu.stat")
    stats = [stat for stat in map(read_fields, files) if stat]
    return Snapshot(_ticks(), sum(map(_throttled_ns, stats)) if stats or not files else None)


def counters(cores: Sequence[int] = ()) -> Counters:
    """Read the counters of `cores`, of all cores if none are given."""
    return snapshot().of(cores)


def growth(before: int | None, after: int | None) -> int | None:
    """Return by how much a counter has grown, or None if it is unknown."""
    return None if before is None or after is None else after - before


def _throttled_ns(stat: dict[str, int]) -> int:
    # Version 2 of control groups counts microseconds, version 1 nanoseconds.
    return stat.get("throttled_usec", 0) * 1000 or stat.get("throttled_time", 0)


def quiet_cores(count: int, observation_ns: int = CORE_OBSERVATION_NS) -> list[int]:
    """Return the `count` usable cores with the least activity, as `quiet_core_sets` chooses them."""
    return quiet_core_sets([count], observation_ns)[count]


def quiet_core_sets(counts: Collection[int], observation_ns: int = CORE_OBSERVATION_NS) -> dict[int, list[int]]:
    """Return for each count the usable cores with the least activity, on one memory node if it has enough.

    SMT siblings are chosen only when every physical core is. Observes the cores unless all of them are needed.
    """
    usable = sorted(arm_cores())
    if min(counts) >= len(usable):
        return dict.fromkeys(counts, usable)
    before = _ticks()
    pause(observation_ns)
    after = _ticks()
    active_ns = {core: _active_ns(after, core) - _active_ns(before, core) for core in usable}
    siblings_before = {core: sum(other < core for other in siblings(core) if other in usable) for core in usable}
    ranked = sorted(usable, key=lambda core: (siblings_before[core], active_ns[core], core))
    nodes = defaultdict[int, list[int]](list)
    for core in ranked:
        nodes[node_of(core)].append(core)

    def quietest(count: int) -> list[int]:
        choices = [cores[:count] for cores in nodes.values() if len(cores) >= count] or [ranked[:count]]
        return sorted(min(choices, key=lambda cores: sum(active_ns[core] for core in cores)))

    return {count: quietest(count) for count in counts}


def _active_ns(ticks: dict[str, dict[str, int]], core: int) -> int:
    """Return how long a core was busy or stolen; 0 if a container does not see its line."""
    return _sum_ns(ticks.get(f"cpu{core}", {}), (*BUSY, "steal"))


def _ticks() -> dict[str, dict[str, int]]:
    """Return the columns of each core's line in /proc/stat, and of the line of all cores (`cpu`)."""
    lines = (line.split() for line in read_lines(STAT) if line.startswith("cpu"))
    return {
        name: dict(zip(STAT_COLUMNS, (parse_number(count) or 0 for count in counts), strict=False))
        for name, *counts in lines
        if counts
    }


def _sum_ns(ticks: Mapping[str, int], columns: Iterable[str]) -> int:
    return sum(ticks.get(column, 0) for column in columns) * TICK_NS
