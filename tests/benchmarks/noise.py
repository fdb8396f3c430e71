"""Measure the noise floor: one arm against itself under different protocols, and how narrow each makes the interval.

`tox -e benchmark-noise -- [--minutes M] [--loaded] [NAME...]` prints, for each protocol, the standard deviation of the
log ratio between blocks, and the half-width of the 95 % interval that ten minutes of wall time give at that rate.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING
from unittest import mock

from bench import settings
from bench.analysis import Run
from bench.doctor import advice_line, disturbances
from bench.measure import now_ns
from bench.plan import PRESETS, Preset, make_plan
from bench.progress import Steps
from bench.records import Arm, Case
from bench.run import conduct, describe
from bench.selftest import make_suite
from models import data

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.suite import Suite

PRESET, MINUTES = "noise", 10.0
ARM = Arm("pytorch", "eager")


@dataclass(frozen=True)
class Protocol:
    """How an arm is measured against itself: slices of `slice_ms`, `rounds` of them a block, more variables."""

    name: str
    threads: int
    batch_size: int
    slice_ms: int
    rounds: int
    variables: tuple[tuple[str, str], ...] = ()


HUGE = (("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),)
PASSIVE = (("OMP_WAIT_POLICY", "passive"),)
ACTIVE = (("OMP_WAIT_POLICY", "active"),)
FREE = (("OMP_PROC_BIND", "false"),)


def protocols() -> Iterator[Protocol]:
    """Yield what is compared."""
    for threads, batch_size in ((1, 64), (2, 64), (1, 1), (2, 1)):
        where = f"t{threads}-b{batch_size}"
        for slice_ms, rounds in ((400, 3), (200, 3), (200, 10), (100, 20), (50, 40), (25, 80)):
            yield Protocol(f"{where}-{slice_ms}ms-{rounds}", threads, batch_size, slice_ms, rounds)
        for name, variables in (("huge", HUGE), ("passive", PASSIVE), ("active", ACTIVE), ("free", FREE)):
            yield Protocol(f"{where}-100ms-20-{name}", threads, batch_size, 100, 20, variables)


@contextmanager
def loaded() -> Iterator[None]:
    """Keep one core busy meanwhile, with a process that the scheduler may move."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


class Stopwatch(Steps):
    """Notes when each block is done."""

    def __init__(self) -> None:
        self.moments: list[int] = []

    def step(self, weight: float, what: str) -> None:
        """Note the moment."""
        self.moments.append(now_ns())


def measure(protocol: Protocol, minutes: float, folder: Path, condition: str) -> str:
    """Measure blocks for about so many minutes; return the line that tells what came out."""
    start_s, turn_s = 5.0, 2 * protocol.slice_ms / 1e3 + 0.03
    blocks = max(6, round(minutes * 60 / (start_s + protocol.rounds * turn_s)))
    preset = Preset(PRESET, "a protocol", blocks, protocol.rounds, 0.95, slice_ns=protocol.slice_ms * 1_000_000)
    suite = replace(make_suite(ARM, [protocol.threads]), uses=(ARM,), batch_sizes=(protocol.batch_size,))
    usual = settings.SETTINGS["bound"]
    changed = replace(usual, variables=usual.variables | dict(protocol.variables))
    patches = mock.patch.dict(settings.SETTINGS, {"bound": changed}), mock.patch.dict(PRESETS, {PRESET: preset})
    with patches[0], patches[1]:
        watch = conduct_pair(suite, preset, protocol.threads, folder)
        seconds = (watch.moments[-1] - watch.moments[-blocks]) / 1e9 / (blocks - 1)
        return told(protocol, Run(folder), seconds, condition)


def conduct_pair(suite: Suite, preset: Preset, threads: int, folder: Path) -> Stopwatch:
    """Measure a suite of one stack; return when its parts were done."""
    wanted, data_set, watch = make_plan(suite, preset, 1, threads), data.load("synthetic"), Stopwatch()
    if wanted.missing:
        raise SystemExit("; ".join(wanted.missing.values()))
    conduct(wanted, data_set, folder, watch, describe(wanted, data_set, ["benchmark"], "", None))
    return watch


def told(protocol: Protocol, run: Run, seconds: float, condition: str) -> str:
    """Return the line of a protocol."""
    case = Case("cnn-small", "latency", protocol.batch_size)
    pair = next(pair for pair in run.pairs if pair.arm.replica and pair.case == case)
    estimate = run.estimate(pair)
    ratios = list(run.log_ratios(pair).values())
    if estimate is None or estimate.interval is None:
        return f"{protocol.name}: no interval"
    spent = sum(turn.wall_ns for turn in run.taken) / 1e9
    blocks = MINUTES * 60 / seconds
    half_width = estimate.interval.half_width * math.sqrt(len(ratios) / blocks)
    return (
        f"{protocol.name:<28}{condition:<8}{len(ratios):>4} blocks of {seconds:5.1f} s "
        f"({spent / seconds / len(ratios):.0%} measuring)  sd {stdev(ratios):7.2%}  ratio {estimate.speedup:.4f}  "
        f"half-width {estimate.interval.half_width:.2%}, in {MINUTES:g} minutes {half_width:.2%}"
    )


def main() -> None:
    """Measure the protocols that are named, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--loaded", action="store_true")
    parser.add_argument("names", nargs="*")
    wanted = parser.parse_args()
    for finding in disturbances():
        print(advice_line(finding))
    for protocol in protocols():
        if wanted.names and not any(name in protocol.name for name in wanted.names):
            continue
        with tempfile.TemporaryDirectory() as folder, loaded() if wanted.loaded else nullcontext():
            (target := Path(folder) / "run").mkdir()
            line = measure(protocol, wanted.minutes, target, "loaded" if wanted.loaded else "quiet")
        print(line, flush=True)


if __name__ == "__main__":
    main()
