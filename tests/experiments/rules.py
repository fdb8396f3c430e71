"""Compare rules for the ratio of a block, on simulated machines with two speeds and on recorded runs.

    python tests/experiments/rules.py                  # simulated: half-width, and how often the truth is inside
    python tests/experiments/rules.py RUN [RUN ...]    # recorded: half-width of each primary and A/A comparison

All half-widths are those of exact 95 % intervals over blocks, in percent.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.analysis.latency import BlockLatencies, windows
from bench.analysis.run import Run
from bench.analysis.stats import hodges_lehmann, quantile, trimmed_mean, wilcoxon_interval
from bench.suite.arms import LATENCY
from tests.analysis.two_speeds import CALLS_S, simulated_slices

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    # Samples in ns by arm and round.
    Slices = Mapping[str, Mapping[int, Sequence[int]]]
    Ratio = Callable[[str, str], float]

PROTOCOLS = ((3, 0.2), (24, 0.05))
RESTS, STATES_S = (0.9, 0.6, 0.3, 0.1), (0.001, 0.01, 0.1, 1, 60)
BLOCKS, RUNS = 10, 40


def rules(slices: Slices) -> dict[str, Ratio]:
    """Return functions of arm and baseline that give the log ratio of a block."""
    by_arm = {arm: {n: windows(samples) for n, samples in rounds.items()} for arm, rounds in slices.items()}
    block = BlockLatencies(by_arm)
    merged = {arm: sorted(value for values in rounds.values() for value in values) for arm, rounds in by_arm.items()}

    def paired(summary: Callable[[str, int], float]) -> Ratio:
        def ratio(arm: str, baseline: str) -> float:
            rounds = slices[arm].keys() & slices[baseline].keys()
            return median(math.log(summary(baseline, n) / summary(arm, n)) for n in rounds)

        return ratio

    def low(share: float) -> Ratio:
        return lambda arm, baseline: math.log(quantile(merged[baseline], share) / quantile(merged[arm], share))

    return {
        "as it was": paired(lambda arm, n: trimmed_mean(slices[arm][n])),
        "rounds, median window": paired(lambda arm, n: median(by_arm[arm][n])),
        "10 % of windows": low(0.10),
        "25 % of windows": low(0.25),
        "median at rest": low(block.rest_share / 2),
        "at rest": lambda arm, baseline: block.log_ratio(arm, baseline, slices[arm].keys() & slices[baseline].keys()),
    }


def simulate() -> None:
    random = np.random.default_rng(1)
    print("half-width, % (coverage, %) by rule; columns: " + ", ".join(f"{n} x {1e3 * s:g} ms" for n, s in PROTOCOLS))
    for rest, state_s in product(RESTS, STATES_S):
        found = defaultdict[str, list[str]](list)
        for rounds, slice_s in PROTOCOLS:
            times = 2 * state_s * rest, 2 * state_s * (1 - rest)
            ratios = defaultdict[tuple[str, str, int], list[float]](list)
            for run, _ in product(range(RUNS), range(BLOCKS)):
                for rule, ratio in rules(simulated_slices(random, rounds, slice_s, *times)).items():
                    for arm in list(CALLS_S)[1:]:
                        ratios[rule, arm, run].append(ratio(arm, "base"))
            intervals = {place: wilcoxon_interval(values, 0.95) for place, values in ratios.items()}
            for rule in dict.fromkeys(rule for rule, _, _ in ratios):
                own = {place: interval for place, interval in intervals.items() if place[0] == rule and interval}
                width = fmean(interval.half_width for interval in own.values())
                held = fmean(not own[p].excludes(math.log(CALLS_S["base"] / CALLS_S[p[1]])) for p in own)
                found[rule].append(f"{100 * width:5.2f} ({100 * held:3.0f})")
        for rule, texts in found.items():
            print(f"rest {rest:.0%}, states {state_s:5g} s  {rule:22s} {'  '.join(texts)}", flush=True)


def compare_recorded(folder: Path) -> None:
    run = Run(folder)
    for case in (case for case in run.cases if case.scenario == LATENCY):
        blocks = defaultdict[int, dict[str, dict[int, tuple[int, ...]]]](lambda: defaultdict(dict))
        for arm in run.participants(case):
            for turn in run.slices(arm, case):
                blocks[turn.block][arm.id][turn.round] = turn.samples_ns
        by_block = [(slices, rules(slices)) for slices in blocks.values()]
        pairs = [pair for pair in run.pairs if pair.case == case and (pair.candidate or pair.arm.replica)]
        pairs = pairs or [pair for pair in run.pairs if pair.case == case]
        for pair in pairs:
            print(f"{folder}: {case.label}: {pair.arm.label} compared with {pair.baseline.label}")
            for rule in by_block[0][1]:
                present = [r[rule] for slices, r in by_block if {pair.arm.id, pair.baseline.id} <= slices.keys()]
                ratios = [ratio(pair.arm.id, pair.baseline.id) for ratio in present]
                interval = wilcoxon_interval(ratios, 0.95)
                width = f"{100 * interval.half_width:5.2f}" if interval else "    -"
                print(f"  {rule:22s} {width}  {math.exp(hodges_lehmann(ratios)):.4f}")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        compare_recorded(Path(name))
    if not sys.argv[1:]:
        simulate()
