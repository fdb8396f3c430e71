"""Compare rules for the speedup of a run, on simulated machines with two speeds and on recorded runs.

    python tests/experiments/rules.py                  # simulated: half-width, and how often the truth is inside
    python tests/experiments/rules.py RUN [RUN ...]    # recorded: half-width of each primary and A/A comparison

All half-widths are those of exact 95 % intervals over blocks, in percent.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.analysis.latency import FAST_QUANTILE, CaseLatencies, blocks_of_case, lack_of_rest, too_few_at_rest
from bench.analysis.run import Run
from bench.analysis.stats import hodges_lehmann, quantile, trimmed_mean, wilcoxon_interval
from bench.suite.arms import LATENCY
from bench.suite.schedule import PRESETS
from tests.analysis.two_speeds import CALLS_S, FACTORS, simulated_block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bench.analysis.latency import BlockLatencies

    # Samples in ns by arm and round.
    Slices = Mapping[str, Mapping[int, Sequence[int]]]
    # From arm and baseline to the log ratios of the blocks.
    Ratios = Callable[[str, str], list[float]]

# Three that fit into ten minutes, and the preset's, whose further rounds take longer where the machine is noisy.
STANDARD = PRESETS["standard"]
PROTOCOLS = (
    replace(STANDARD, blocks=8, rounds=3, further_rounds=0, slice_ns=200_000_000),
    replace(STANDARD, rounds=8, further_rounds=0, slice_ns=50_000_000),
    replace(STANDARD, further_rounds=0),
    STANDARD,
)
SHARES, STATES_S, RUNS = (0.05, 0.2, 0.4, 0.7), (0.001, 0.01, 0.1, 1, 60), 40
# For a claim after Holm's correction over ten candidates.
NEEDED = 9
# In its other state the machine is slower or faster, by another factor for each arm.
MACHINES = {"slower": FACTORS, "faster": {"base": 0.7, "same": 0.7, "fast": 0.85, "other": 0.75}}


def rules(blocks: Sequence[Slices], case: CaseLatencies) -> dict[str, Ratios]:
    """Return the rules; a run with too few blocks at rest has no ratios at rest. `case` has the same blocks."""

    def as_it_was(arm: str, baseline: str) -> list[float]:
        return [
            median(
                math.log(trimmed_mean(block[baseline][n]) / trimmed_mean(block[arm][n]))
                for n in block[arm].keys() & block[baseline].keys()
            )
            for block in blocks
            if {arm, baseline} <= block.keys()
        ]

    def both(present: Iterable[BlockLatencies], arm: str, baseline: str) -> list[BlockLatencies]:
        return [block for block in present if {arm, baseline} <= block.windows.keys()]

    def fastest(block: Mapping[str, Mapping[int, Sequence[float]]], arm: str) -> float:
        return quantile(sorted(value for values in block[arm].values() for value in values), FAST_QUANTILE)

    def fastest_tenth(arm: str, baseline: str) -> list[float]:
        return [
            math.log(fastest(block.windows, baseline) / fastest(block.windows, arm))
            for block in both(case.compared(arm, baseline).values(), arm, baseline)
        ]

    def at_rest(arm: str, baseline: str) -> list[float]:
        present = both(case.at_rest(arm, baseline).values(), arm, baseline)
        return [block.log_ratio(arm, baseline, block.windows[arm].keys()) for block in present]

    def at_rest_by_block(arm: str, baseline: str) -> list[float]:
        alone = [blocks_of_case({0: block.windows})[0] for block in case.compared(arm, baseline).values()]
        present = both(alone, arm, baseline)
        return [block.log_ratio(arm, baseline, block.windows[arm].keys()) for block in present]

    return {
        "as it was": as_it_was,
        "fastest tenth": fastest_tenth,
        "at rest, by block": at_rest_by_block,
        "at rest": (lambda *_: []) if too_few_at_rest(case.blocks.values(), NEEDED) else at_rest,
    }


def simulate() -> None:
    """Print a row for each machine and rule; the truth is the ratio at the machine's faster speed.

    The rule "as reported" chooses between the first and the last one, as a report does. Its coverage is that of the
    runs which are reported at rest.
    """
    random = np.random.default_rng(1)
    print(
        "half-width, % (coverage, runs that have an interval, or are reported at rest, %); columns: "
        + ", ".join(f"{preset.blocks} x {preset.rounds} x {preset.slice_ns / 1e6:g} ms" for preset in PROTOCOLS)
        + f" with up to {STANDARD.further_rounds} further rounds; mean rounds of the last one"
    )
    for (kind, factors), share, state_s in product(MACHINES.items(), SHARES, STATES_S):
        times = 2 * state_s * (1 - share), 2 * state_s * share
        truths = {
            arm: math.log(CALLS_S["base"] * min(1, factors["base"]) / (CALLS_S[arm] * min(1, factors[arm])))
            for arm in CALLS_S
            if arm != "base"
        }
        texts = defaultdict[str, list[str]](list)
        for preset in PROTOCOLS:
            widths, held = defaultdict[str, list[float]](list), defaultdict[str, list[bool]](list)
            counts: list[int] = []
            for _ in range(RUNS):
                blocks = [simulated_block(random, preset, *times, factors) for _ in range(preset.blocks)]
                counts += (len(block["base"]) for block in blocks)
                case = CaseLatencies(dict(enumerate(blocks)), preset.rounds)
                intervals = {
                    rule: {
                        arm: wilcoxon_interval(found, 0.95) if (found := ratios(arm, "base")) else None
                        for arm in truths
                    }
                    for rule, ratios in rules(blocks, case).items()
                }
                both = ((intervals["at rest"][arm], intervals["as it was"][arm]) for arm in truths)
                is_at_rest = lack_of_rest(case.blocks.values(), NEEDED, both) is None
                intervals["as reported"] = intervals["at rest" if is_at_rest else "as it was"]
                for (rule, by_arm), (arm, truth) in product(intervals.items(), truths.items()):
                    if interval := by_arm[arm]:
                        widths[rule].append(interval.half_width)
                        if rule != "as reported" or is_at_rest:
                            held[rule].append(not interval.excludes(truth))
            for rule, values in widths.items():
                share_of_runs = len(held[rule]) / (RUNS * len(truths))
                covered = f"{100 * fmean(held[rule]):3.0f}" if held[rule] else "  -"
                texts[rule].append(f"{100 * fmean(values):5.2f} ({covered}, {100 * share_of_runs:3.0f})")
        for rule, columns in texts.items():
            print(
                f"{share:3.0%} {kind}, for {state_s:5g} s  {rule:18s} {'  '.join(columns)}  {fmean(counts):.0f}",
                flush=True,
            )


def compare_recorded(folder: Path) -> None:
    run = Run(folder)
    for case in (case for case in run.cases if case.scenario == LATENCY):
        blocks = defaultdict[int, dict[str, dict[int, tuple[int, ...]]]](lambda: defaultdict(dict))
        for arm in run.participants(case):
            for turn in run.slices(arm, case):
                blocks[turn.block][arm.id][turn.round] = turn.samples_ns
        measured = list(blocks.values())
        latencies = CaseLatencies(blocks, run.info.protocol.rounds)
        pairs = [pair for pair in run.pairs if pair.case == case and (pair.candidate or pair.arm.replica)]
        for pair in pairs or [pair for pair in run.pairs if pair.case == case]:
            print(f"{folder}: {case.label}: {pair.arm.label} compared with {pair.baseline.label}")
            for rule, ratios in rules(measured, latencies).items():
                found = ratios(pair.arm.id, pair.baseline.id)
                interval = wilcoxon_interval(found, 0.95) if found else None
                width = f"{100 * interval.half_width:5.2f}" if interval else "    -"
                ratio = f"{math.exp(hodges_lehmann(found)):.4f}" if found else "-"
                print(f"  {rule:18s} {width}  {ratio}  {len(found)} blocks")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        compare_recorded(Path(name))
    if not sys.argv[1:]:
        simulate()
