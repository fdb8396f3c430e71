"""How fast an arm was in a block, under two rules: while the machine was at rest, and as it was.

A shared machine has several speeds. All arms share them, they last from milliseconds to minutes, and no counter of a
virtual machine shows them. docs/measurement.md states both rules, docs/trust.md compares them with others.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from statistics import fmean, geometric_mean, median, median_high, median_low
from typing import TYPE_CHECKING, Literal, TypeAlias

from bench.analysis.stats import quantile
from bench.suite.arms import REPLICA
from models.errors import unknown

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable, Mapping, Sequence

    from bench.analysis.stats import Interval

    # By arm and round: the samples in ns, and their means in windows.
    Slices: TypeAlias = Mapping[str, Mapping[int, Sequence[int]]]
    Windows: TypeAlias = Mapping[str, Mapping[int, Sequence[float]]]

Rule: TypeAlias = Literal["at-rest", "as-it-was"]
AT_REST: Rule = "at-rest"
AS_IT_WAS: Rule = "as-it-was"
# Windows are shorter than most states of the machine, as far as an arm has enough calls in each.
WINDOW_NS, MIN_WINDOW_CALLS = 5_000_000, 4
# A window is at rest up to this factor above the arm's fast windows. Two speeds of a machine differ by more.
FAST_QUANTILE, REST_FACTOR = 0.1, 1.12
# From this share of windows on, every arm meets the machine at rest in a block.
MIN_REST_SHARE = 0.25
# From this share of blocks on, a run tells how fast the arms are at rest.
MIN_REST_BLOCKS = 0.5
# How much wider the intervals at rest may be than those of the machine as it was. Where the machine has many speeds,
# few windows are at rest, and the ratio of arms that alternate is known better as the machine was. On a quiet machine
# both are equally wide, but for chance.
MAX_WIDENING = 1.1
# By how much the log ratio of two equal processes differs from block to block (sd) on a quiet machine. Where slices
# contribute no more than that, another block helps more than further slices of the same processes.
PROCESS_SCATTER = 0.01
# The standard deviation of a normal distribution, by its median absolute deviation.
NORMAL_PER_MAD = 1.4826


def find_rule(name: str) -> Rule:
    for rule in (AT_REST, AS_IT_WAS):
        if rule == name:
            return rule
    raise unknown("rule", name, (AT_REST, AS_IT_WAS))


def windows_of(samples_ns: Sequence[int], most: int) -> list[float]:
    """Return the mean time of a call in equal parts of a slice."""
    count = min(len(samples_ns), most)
    edges = [index * len(samples_ns) // count for index in range(count + 1)]
    return [sum(samples_ns[start:end]) / (end - start) for start, end in pairwise(edges)]


@dataclass(frozen=True)
class BlockLatencies:
    """The windows of all arms in a block, and by arm the time up to which a window is at rest, in ns."""

    windows: Windows
    limits_ns: Mapping[str, float]

    @cached_property
    def rest_share(self) -> float:
        """Return the share of windows at rest: the upper median over arms, as an arm may be slow by itself.

        An arm and its replica are one arm.
        """
        at_rest = defaultdict[str, list[bool]](list)
        for arm in self.windows.keys() & self.limits_ns.keys():
            values = chain.from_iterable(self.windows[arm].values())
            at_rest[arm.removesuffix(REPLICA)] += (value <= self.limits_ns[arm] for value in values)
        return median_high(map(fmean, at_rest.values())) if at_rest else 0.0

    @property
    def is_at_rest(self) -> bool:
        return self.rest_share >= MIN_REST_SHARE

    def latency_ns(self, arm: str, rounds: Container[int]) -> float:
        """Return the median of the share of an arm's windows in which the machine was at rest."""
        chosen = {number: values for number, values in self.windows[arm].items() if number in rounds}
        return quantile(_sorted(chosen), self.rest_share / 2)

    def log_ratio(self, arm: str, baseline: str, rounds: Container[int]) -> float:
        """Return log(latency of the baseline / latency of the arm)."""
        return math.log(self.latency_ns(baseline, rounds) / self.latency_ns(arm, rounds))


def blocks_of_case(
    by_block: Mapping[int, Windows], usual_rounds: int | None = None, judges: Container[str] | None = None
) -> dict[int, BlockLatencies]:
    """Return the blocks of a case. The machine at rest is the fastest that it was in all of them.

    Arms that take part in some blocks only do not tell how fast it was in the others, unless all arms are such. Nor do
    further rounds after the usual ones, which only noisy blocks have, nor arms that are not among the `judges`, unless
    no others are left.
    """
    arms = dict.fromkeys(chain.from_iterable(by_block.values()))
    everywhere = [arm for arm in arms if all(arm in block for block in by_block.values())] or list(arms)
    limits = {}
    for arm in [arm for arm in everywhere if judges is None or arm in judges] or everywhere:
        values = [
            value
            for block in by_block.values()
            for number, windows_ns in block.get(arm, {}).items()
            if usual_rounds is None or number < usual_rounds
            for value in windows_ns
        ]
        limits[arm] = REST_FACTOR * quantile(sorted(values), FAST_QUANTILE)
    return {number: BlockLatencies(block, limits) for number, block in by_block.items()}


class CaseLatencies:
    """The slices of a case by block, to be compared in windows.

    The fewer calls a window has, the more its mean scatters, and the lower are the fastest windows. So arms are
    compared in equally many windows per slice, as many as the slower one has. A mean over short states of the machine
    is fair to calls of any length; a median is not.
    """

    def __init__(self, slices: Mapping[int, Slices], usual_rounds: int | None = None) -> None:
        self._slices, self._usual_rounds = slices, usual_rounds
        fitting = defaultdict[str, list[int]](list)
        for arm, turns in chain.from_iterable(block.items() for block in slices.values()):
            fitting[arm] += (
                min(round(sum(samples_ns) / WINDOW_NS), len(samples_ns) // MIN_WINDOW_CALLS)
                for number, samples_ns in turns.items()
                if usual_rounds is None or number < usual_rounds
            )
        self._counts = {arm: max(1, median_low(counts)) if counts else 1 for arm, counts in fitting.items()}
        self._compared: dict[int, dict[int, BlockLatencies]] = {}

    @cached_property
    def blocks(self) -> dict[int, BlockLatencies]:
        """Return the blocks, with the slices of each arm in as many windows as suit it."""
        return blocks_of_case(self._in_windows(self._counts), self._usual_rounds)

    def compared(self, *arms: str) -> dict[int, BlockLatencies]:
        """Return the blocks, with all slices in as many windows as suit these arms.

        Arms that so many do not suit do not tell how fast the machine was.
        """
        count = min(self._counts.get(arm, 1) for arm in arms)
        if set(self._counts.values()) == {count}:
            return self.blocks
        if count not in self._compared:
            windows = self._in_windows(dict.fromkeys(self._counts, count))
            judges = {arm for arm, most in self._counts.items() if most >= count}
            self._compared[count] = blocks_of_case(windows, self._usual_rounds, judges)
        return self._compared[count]

    def at_rest(self, *arms: str) -> dict[int, BlockLatencies]:
        """Return the blocks to compare these arms in; all arms judge in which blocks the machine was at rest."""
        return {number: block for number, block in self.compared(*arms).items() if self.blocks[number].is_at_rest}

    def _in_windows(self, counts: Mapping[str, int]) -> dict[int, Windows]:
        return {
            number: {
                arm: {turn: windows_of(samples_ns, counts[arm]) for turn, samples_ns in turns.items()}
                for arm, turns in block.items()
            }
            for number, block in self._slices.items()
        }


def too_few_at_rest(blocks: Collection[BlockLatencies], needed: int) -> str | None:
    """Return why the blocks without rest can't be left out, or None.

    `needed` is the number of blocks from which a speedup can be claimed.
    """
    at_rest = sum(block.is_at_rest for block in blocks)
    required = max(1, math.ceil(MIN_REST_BLOCKS * len(blocks)), min(needed, len(blocks)))
    if at_rest >= required:
        return None
    return f"the machine was at rest in {at_rest} of {len(blocks)} blocks; {required} are needed"


def lack_of_rest(
    blocks: Collection[BlockLatencies], needed: int, intervals: Iterable[tuple[Interval | None, Interval | None]]
) -> str | None:
    """Return why a case is reported as the machine was, or None.

    `intervals` has those of each comparison, at rest and as it was. Only widths count, never ratios. Comparisons that
    lack an interval, or have one without width, do not count.
    """
    if reason := too_few_at_rest(blocks, needed):
        return reason
    widths = [(rest.half_width, was.half_width) for rest, was in intervals if rest and was]
    times = [at_rest / as_it_was for at_rest, as_it_was in widths if at_rest and as_it_was]
    if not times or (mean := geometric_mean(times)) <= MAX_WIDENING:
        return None
    return f"intervals at rest are on average {mean:.2f} times as wide as those by the other rule"


def are_enough(rounds: int, usual_rounds: int, log_latencies: Iterable[Sequence[float]]) -> bool:
    """Return whether a case needs no further rounds in a block after this number of them.

    It is even, as each order is followed by its reverse.
    """
    return rounds >= usual_rounds and rounds % 2 == 0 and scatter_of_slices(log_latencies) <= PROCESS_SCATTER


def scatter_of_slices(log_latencies: Iterable[Sequence[float]]) -> float:
    """Return how much slices let the log ratio of two arms in a block scatter, as a standard deviation.

    `log_latencies` has those of each arm by round. The log ratios of arms that follow one another, each less its median
    over rounds, tell the scatter of all, so the ratios themselves do not count. The ratio of a block is a median over
    rounds: that of n normal values has pi / 2 times the variance of their mean. Of a machine with several speeds, the
    central half of the rounds counts.
    """
    variances = []
    for arm, baseline in pairwise(log_latencies):
        ratios = [log_baseline - log_arm for log_arm, log_baseline in zip(arm, baseline, strict=True)]
        level = median(ratios)
        deviation = NORMAL_PER_MAD * median(abs(ratio - level) for ratio in ratios)
        variances.append(deviation**2 * math.pi / 2 / len(ratios))
    return math.sqrt(median(variances)) if variances else 0.0


def _sorted(rounds: Mapping[int, Sequence[float]]) -> list[float]:
    return sorted(chain.from_iterable(rounds.values()))
