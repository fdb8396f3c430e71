"""Read what the machine does while something is measured, and choose where least is going on. Linux."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.clock import pause
from bench.machine.facts import control_group_files, node_of, siblings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

STAT = Path("/proc/stat")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
NAMES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")  # of its columns, proc_stat(5)
BUSY = ("user", "nice", "system", "irq", "softirq")
LOOK_NS = 100_000_000


@dataclass(frozen=True)
class Counters:
    """What the machine has counted until now, in ns: of some cores, and throttled time of the control groups."""

    steal_ns: int
    throttled_ns: int
    busy_ns: int


def counters(cores: Sequence[int] = ()) -> Counters:
    """Read throttling, and for how long `cores` (all, where none are named) were stolen or busy, whoever with."""
    ticks = _ticks()
    read = [ticks[f"cpu{core}"] for core in cores if f"cpu{core}" in ticks] or [ticks["cpu"]]
    stolen, busy = (sum(_sum(each, names) for each in read) for names in (("steal",), BUSY))
    return Counters(stolen, _throttled_ns(), busy)


def quiet_cores(count: int, look_ns: int = LOOK_NS) -> list[int]:
    """Return `count` usable cores of one memory node, if it has as many, on which least is going on.

    Siblings of a physical core are taken only when all physical ones are. It looks for a while where there is a choice.
    """
    usable = sorted(os.sched_getaffinity(0))
    if count >= len(usable):
        return usable
    before = _ticks()
    pause(look_ns)
    after = _ticks()
    taken = {core: _taken(after, core) - _taken(before, core) for core in usable}
    ranked = sorted(usable, key=lambda core: (_rank(core, usable), taken[core], core))
    return sorted(min(_within_nodes(ranked, count), key=lambda cores: sum(taken[core] for core in cores)))


def _within_nodes(ranked: Sequence[int], count: int) -> list[list[int]]:
    """Return the first `count` cores of each node that has as many, or of all cores when none has."""
    nodes = defaultdict[int, list[int]](list)
    for core in ranked:
        nodes[node_of(core)].append(core)
    return [cores[:count] for cores in nodes.values() if len(cores) >= count] or [list(ranked[:count])]


def _rank(core: int, usable: Sequence[int]) -> int:
    """Return how many usable siblings of the same physical core come before a core."""
    return sum(other < core for other in siblings(core) if other in usable)


def _taken(ticks: dict[str, dict[str, int]], core: int) -> int:
    """Return how long a core was busy or stolen; a container may show no such line."""
    return _sum(ticks[f"cpu{core}"], (*BUSY, "steal")) if f"cpu{core}" in ticks else 0


def _ticks() -> dict[str, dict[str, int]]:
    """Return what each line of /proc/stat that is of a core, or of all of them, has counted."""
    lines = (line.split() for line in STAT.read_text().splitlines() if line.startswith("cpu"))
    return {name: dict(zip(NAMES, map(int, counts), strict=False)) for name, *counts in lines}


def _sum(ticks: dict[str, int], names: Iterable[str]) -> int:
    return sum(ticks[name] for name in names) * TICK_NS


def _throttled_ns() -> int:
    """Return how long the control groups around this process were throttled, all added up."""
    return sum(map(_throttled, control_group_files("cpu.stat", "cpu.stat")))


def _throttled(file: Path) -> int:
    stat = dict(line.split() for line in file.read_text().splitlines())
    return int(stat.get("throttled_usec", 0)) * 1000 or int(stat.get("throttled_time", 0))
