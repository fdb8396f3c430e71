"""Measure the noise floor: how narrow the interval of two equal arms is after ten minutes, by protocol.

`tox -e benchmark-noise -- settings|crowd|processes|protocols|reached [--blocks N] [--threads 1,2] [--loaded]` measures

- crowd: slice lengths and rounds with many arms, where a slice of the baseline is far from that of an arm;
- processes: numbers of processes for each arm in a block, whose ratios are averaged;
- settings: environment variables, each set on a pair of equal arms, with all pairs alternated in one run;
- protocols: slice lengths, rounds and summaries of a slice, all computed from the same long slices;
- reached: the preset `standard`, with as many blocks as fit into ten minutes of wall time.

The half-width is that of the 95 % interval of the ratio of two equal arms. For `settings`, `processes` and
`protocols` it is scaled to the blocks that fit into ten minutes, with the square root of their number.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, Any
from unittest import mock

from bench.analysis.latency import AS_IT_WAS
from bench.analysis.run import Run
from bench.analysis.stats import trimmed_mean, wilcoxon_interval
from bench.clock import now_ns
from bench.console import Steps
from bench.engine.block import InferenceBlock
from bench.engine.describe import Origin
from bench.engine.run import measure_blocks, measure_run
from bench.machine.diagnosis import disturbances
from bench.machine.facts import usable_cores
from bench.suite.arms import DEFAULT_SETTINGS, Arm, Pair
from bench.suite.plan import make_plan
from bench.suite.schedule import PRESETS
from bench.suite.selftest import equal_suite
from bench.suite.variables import SETTINGS
from models import data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.suite.arms import Case
    from bench.suite.schedule import Preset
    from bench.suite.suite import Suite

STANDARD, BUDGET_S = PRESETS["standard"], 600.0
# The same number of rounds in all blocks, for comparisons of protocols.
USUAL = replace(STANDARD, further_rounds=0)
ARM = Arm("pytorch", "eager")
# None of them lets waiting threads spin: those would use the cores during the slices of other arms.
ALTERNATIVES = {
    "usual": {},
    "huge pages": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    "wait passive": {"OMP_WAIT_POLICY": "passive"},
    "threads free": {"OMP_PROC_BIND": "false"},
}
# The measured slices and rounds, from which shorter ones are computed.
LONG_NS, MANY = 400_000_000, 10
SLICES_MS, ROUNDS = (25, 50, 100, 200, 400), (1, 2, 3, 5, 10)
# The number of arms; pairs of slice length in ms and rounds of a block.
CROWD, CROWD_PROTOCOLS = 5, ((50, 6), (10, 16))
# For each of two arms in a block.
PROCESSES = (1, 2, 4)
MOST_PROCESSES = 2 * max(PROCESSES)
SUMMARIES: dict[str, Callable[[Sequence[float]], float]] = {
    "median": median,
    "mean": mean,
    "trimmed mean": trimmed_mean,
}


class Quiet(Steps):
    """Shows no progress, because the script prints results."""

    def __init__(self) -> None:
        pass

    def step(self, weight: float, what: str, kind: str = "") -> None:
        """Print nothing."""


@dataclass
class Watched:
    """A run, the time of all its blocks together, and the time of each turn, in s."""

    folder: Path
    blocks_s: float = 0.0
    turns_s: list[float] = field(default_factory=list)

    def start_s(self, blocks: int, arms: int) -> float:
        """Return the mean time until a process of a block was ready for all cases."""
        return (self.blocks_s - sum(self.turns_s)) / blocks / arms

    def process_s(self, blocks: int, arms: int) -> float:
        """Return the mean time of a process of a block for one case: its start, and its turns in the usual rounds."""
        return self.start_s(blocks, arms) + USUAL.rounds * mean(self.turns_s)

    @contextmanager
    def watching(self) -> Iterator[None]:
        usual = InferenceBlock.take_turn

        def turn(*given: Any) -> None:
            start = now_ns()
            usual(*given)
            self.turns_s.append((now_ns() - start) / 1e9)

        def blocks(*given: Any) -> str:
            start = now_ns()
            status = measure_blocks(*given)
            self.blocks_s = (now_ns() - start) / 1e9
            return status

        with (
            mock.patch.object(InferenceBlock, "take_turn", turn),
            mock.patch("bench.engine.run.measure_blocks", blocks),
        ):
            yield


def measure(suite: Suite, preset: Preset, threads: int, folder: Path) -> Watched:
    """Measure a suite into a new folder."""
    folder.mkdir(parents=True)
    plan, data_set, watched = make_plan(suite, preset, 1, threads), data.load("synthetic"), Watched(folder)
    if plan.missing:
        raise SystemExit("; ".join(plan.missing.values()))
    with watched.watching():
        measure_run(plan, data_set, folder, Quiet(), Origin(("benchmark",), "", None))
    return watched


@contextmanager
def loaded() -> Iterator[None]:
    """Keep one core busy with a process that the scheduler may move."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


def half_width(ratios: Sequence[float], block_s: float) -> float:
    """Return the half-width of the interval, scaled to the number of blocks that fit into BUDGET_S."""
    interval = wilcoxon_interval(ratios, 0.95)
    return interval.half_width * math.sqrt(len(ratios) * block_s / BUDGET_S) if interval else math.nan


def alternate(sets: dict[str, dict[str, str]], preset: Preset, threads: int, folder: Path) -> tuple[Watched, list[Arm]]:
    """Measure arms that differ only by these sets of variables, alternated in one run; return the arms as well."""
    usual = SETTINGS[DEFAULT_SETTINGS]
    added = {name: replace(usual, variables=usual.variables | variables) for name, variables in sets.items()}
    arms = [replace(ARM, settings=name) for name in sets]
    suite = replace(equal_suite(ARM, [threads]), arm_patterns=tuple(arms), baselines=())
    with mock.patch.dict(SETTINGS, added):
        return measure(suite, preset, threads, folder), arms


def compare_settings(threads: int, blocks: int, folder: Path) -> None:
    """Print noise and speed with each set of variables."""
    sets = {f"{name} {number}": variables for name, variables in ALTERNATIVES.items() for number in (1, 2)}
    watched, arms = alternate(sets, replace(USUAL, blocks=blocks), threads, folder)
    run = Run(folder)
    block_s = 2 * watched.process_s(blocks, len(arms))
    for case, (one, other) in product(run.cases, list(pairwise(arms))[::2]):
        equal, speed = (log_ratios(run, case, pair) for pair in ((one, other), (arms[0], other)))
        print(
            f"{threads} threads, batch {case.batch_size:<3} {one.settings:<16} {len(equal)} blocks  "
            f"sd {stdev(equal):6.2%}  half-width in 10 minutes {half_width(equal, block_s):6.2%}  "
            f"speed over the first {math.exp(median(speed)):.3f}",
            flush=True,
        )


def log_ratios(run: Run, case: Case, pair: Sequence[Arm]) -> list[float]:
    return list(run.log_ratios(Pair(pair[1], pair[0], case), AS_IT_WAS).values())


def equals(count: int) -> dict[str, dict[str, str]]:
    """Return so many sets of variables that change nothing, by name."""
    return {f"usual {number}": {} for number in range(count)}


def compare_crowd(threads: int, blocks: int, folder: Path) -> None:
    """Print the half-width of each protocol when many arms are alternated; the protocols take turns by block."""
    usual = InferenceBlock.take_turn

    def turn(block: InferenceBlock, *given: Any) -> None:
        slice_ms, _ = CROWD_PROTOCOLS[block.block.number % len(CROWD_PROTOCOLS)]
        plan = replace(block.context.plan, preset=replace(USUAL, slice_ns=slice_ms * 1_000_000))
        block.context = replace(block.context, plan=plan)
        usual(block, *given)

    def rounds(number: int, *_: Any) -> int:
        return CROWD_PROTOCOLS[number % len(CROWD_PROTOCOLS)][1]

    with mock.patch.object(InferenceBlock, "take_turn", turn), mock.patch("bench.suite.schedule.rounds_of", rounds):
        _, arms = alternate(equals(CROWD), replace(USUAL, blocks=blocks), threads, folder)
    run = Run(folder)
    for case, (place, (slice_ms, count)) in product(run.cases, enumerate(CROWD_PROTOCOLS)):
        of_arms = []
        for arm in arms[1:]:
            by_block = run.log_ratios(Pair(arm, arms[0], case), AS_IT_WAS)
            of_arms.append([ratio for block, ratio in by_block.items() if block % len(CROWD_PROTOCOLS) == place])
        widths = [half_width(ratios, BUDGET_S / 20) for ratios in of_arms]
        print(
            f"{threads} threads, batch {case.batch_size:<3} {slice_ms} ms x {count}, {CROWD} arms: "
            f"{len(of_arms[0])} blocks  sd {mean(map(stdev, of_arms)):6.2%}"
            f"  half-width in 20 blocks {mean(widths):6.2%}",
            flush=True,
        )


def compare_processes(threads: int, blocks: int, folder: Path) -> None:
    """Print the half-width when a block's ratio is the mean over several pairs of processes.

    All of them are computed from the same run, so that they were measured at the same times.
    """
    watched, arms = alternate(equals(MOST_PROCESSES), replace(USUAL, blocks=blocks), threads, folder)
    run = Run(folder)
    process_s = watched.process_s(blocks, MOST_PROCESSES)
    for case, count in product(run.cases, PROCESSES):
        rotations = [(arms[at:] + arms[:at])[: 2 * count] for at in range(MOST_PROCESSES)]
        rotated = [_mean_ratios(run, case, order[:count], order[count:]) for order in rotations]
        widths = [half_width(ratios, 2 * count * process_s) for ratios in rotated]
        print(
            f"{threads} threads, batch {case.batch_size:<3} {count} processes per arm: {len(rotated[0])} blocks"
            f"  sd {mean(map(stdev, rotated)):6.2%}  half-width in 10 minutes {mean(widths):6.2%}",
            flush=True,
        )


def _mean_ratios(run: Run, case: Case, baselines: list[Arm], arms: list[Arm]) -> list[float]:
    """Return for each block in which no process failed the mean log ratio over pairs of processes."""
    of_pairs = [
        run.log_ratios(Pair(arm, baseline, case), AS_IT_WAS) for baseline, arm in zip(baselines, arms, strict=True)
    ]
    blocks = set.intersection(*map(set, of_pairs))
    return [mean(ratios[block] for ratios in of_pairs) for block in sorted(blocks)]


def compare_protocols(threads: int, blocks: int, folder: Path) -> None:
    """Print the half-width for parts of the measured slices and rounds."""
    watched = measure(
        equal_suite(ARM, [threads]), replace(USUAL, blocks=blocks, rounds=MANY, slice_ns=LONG_NS), threads, folder
    )
    run = Run(folder)
    start_s = watched.start_s(blocks, 2)
    gap_s = mean(watched.turns_s) - LONG_NS / 1e9
    print(f"{threads} threads: a process starts in {start_s:.2f} s, a turn adds {gap_s * 1e3:.0f} ms to its slice")
    for case, (name, summary) in product(run.cases, SUMMARIES.items()):
        print(f"batch {case.batch_size}, {name}: half-width in 10 minutes, by slice and rounds {ROUNDS}")
        for slice_ms in SLICES_MS:
            widths = []
            for rounds in ROUNDS:
                ratios = _ratios(run, case, slice_ms * 1_000_000, rounds, summary)
                widths.append(half_width(ratios, 2 * (start_s + rounds * (slice_ms / 1e3 + gap_s))))
            print(f"{slice_ms:>4} ms  " + "  ".join(f"{width:6.2%}" for width in widths), flush=True)


def _ratios(
    run: Run, case: Case, slice_ns: int, rounds: int, summary: Callable[[Sequence[float]], float]
) -> list[float]:
    """Return the log ratio of each block, computed from the beginning of its slices and its first rounds."""
    times: dict[bool, dict[tuple[int, int], float]] = {
        arm.replica: {
            (turn.block, turn.round): summary(_first(turn.samples_ns, slice_ns))
            for turn in run.slices(arm, case)
            if turn.round < rounds
        }
        for arm in run.arms
    }
    ratios = defaultdict[int, list[float]](list)
    for key, time_ns in times[False].items():
        ratios[key[0]].append(math.log(time_ns / times[True][key]))
    return [median(of_block) for of_block in ratios.values()]


def _first(samples_ns: Sequence[int], budget_ns: int) -> list[int]:
    """Return the samples that began within a budget."""
    first, spent = [], 0
    for sample in samples_ns:
        if spent < budget_ns:
            first.append(sample)
        spent += sample
    return first


def measure_standard(threads: int, folder: Path, condition: str) -> None:
    """Print the half-width of the preset `standard` with the blocks that fit into BUDGET_S, for both batch sizes."""
    suite, start = equal_suite(ARM, [threads]), now_ns()
    trial = measure(suite, replace(STANDARD, blocks=3), threads, folder / "trial")
    fixed_s, block_s = (now_ns() - start) / 1e9 - trial.blocks_s, trial.blocks_s / 3
    start = now_ns()
    measure(suite, replace(STANDARD, blocks=int((BUDGET_S - fixed_s) / block_s)), threads, folder / "run")
    wall_s, run = (now_ns() - start) / 1e9, Run(folder / "run")
    for pair in run.pairs:
        estimate, ratios = run.estimate(pair), run.log_ratios(pair)
        if estimate and estimate.interval:
            print(
                f"{threads} threads, batch {pair.case.batch_size:<3} {condition}: {estimate.blocks} blocks"
                f" in {wall_s:.0f} s  sd {stdev(ratios.values()):.2%}  ratio {estimate.speedup:.4f}"
                f"  half-width {estimate.interval.half_width:.2%}",
                flush=True,
            )


COMPARISONS = {
    "settings": compare_settings,
    "crowd": compare_crowd,
    "processes": compare_processes,
    "protocols": compare_protocols,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=(*COMPARISONS, "reached"))
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--loaded", action="store_true")
    parser.add_argument("--keep", type=Path, help="a folder for the runs, which are removed otherwise")
    arguments = parser.parse_args()
    for finding in disturbances(usable_cores()):
        print(finding.line)
    with tempfile.TemporaryDirectory() as name, loaded() if arguments.loaded else nullcontext():
        for threads in map(int, arguments.threads.split(",")):
            folder = (arguments.keep or Path(name)) / str(threads)
            if arguments.what == "reached":
                measure_standard(threads, folder, "loaded" if arguments.loaded else "quiet")
            else:
                COMPARISONS[arguments.what](threads, arguments.blocks, folder)


if __name__ == "__main__":
    main()
