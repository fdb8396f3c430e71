"""How fast an arm was in a block, under two rules: while the machine was at rest, and as it was.

A shared machine has several speeds. All arms share them, they last from milliseconds to minutes, and no counter of a
virtual machine shows them. docs/measurement.md states both rules, docs/trust.md compares them with others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import fmean, median
from typing import TYPE_CHECKING, Literal, TypeAlias

from bench.analysis.stats import quantile
from models.errors import unknown

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

Rule: TypeAlias = Literal["at-rest", "as-it-was"]
AT_REST: Rule = "at-rest"
AS_IT_WAS: Rule = "as-it-was"
# Long enough to average over the shortest states of the machine, and shorter than most others.
WINDOW_NS = 10_000_000
# A window is at rest up to this factor above the arm's fast windows. Two speeds of a machine differ by more.
FAST_QUANTILE, REST_FACTOR = 0.1, 1.12
# From this share on, every arm meets the machine at rest in each block. A higher one would compare slow moments more
# often, and arms lose different shares of their speed then.
MIN_REST_SHARE = 0.25


def find_rule(name: str) -> Rule:
    for rule in (AT_REST, AS_IT_WAS):
        if rule == name:
            return rule
    raise unknown("rule", name, (AT_REST, AS_IT_WAS))


def windows(samples_ns: Sequence[int]) -> list[float]:
    """Return the mean time of a call in equal parts of a slice, which last about WINDOW_NS or one call each.

    A mean over short states of the machine is fair to calls of any length; a median is not.
    """
    count = min(len(samples_ns), max(1, round(sum(samples_ns) / WINDOW_NS)))
    edges = [index * len(samples_ns) // count for index in range(count + 1)]
    return [fmean(samples_ns[start:end]) for start, end in pairwise(edges)]


@dataclass(frozen=True)
class BlockLatencies:
    """The latencies of all arms in a block, in ns: the windows of each slice by arm and round."""

    windows: Mapping[str, Mapping[int, Sequence[float]]]

    @cached_property
    def rest_share(self) -> float:
        """Return the share of windows at rest: the median over arms, as an arm may scatter by itself."""
        shares = []
        for rounds in self.windows.values():
            values = _merged(rounds)
            limit = REST_FACTOR * quantile(values, FAST_QUANTILE)
            shares.append(sum(value <= limit for value in values) / len(values))
        return median(shares)

    @property
    def is_at_rest(self) -> bool:
        return self.rest_share >= MIN_REST_SHARE

    def latency_ns(self, arm: str, rounds: Container[int]) -> float:
        """Return an arm's median latency while the machine was at rest; if it rarely was, the median over rounds."""
        chosen = {number: values for number, values in self.windows[arm].items() if number in rounds}
        if self.is_at_rest:
            return quantile(_merged(chosen), self.rest_share / 2)
        return median(map(median, chosen.values()))

    def log_ratio(self, arm: str, baseline: str, rounds: Container[int]) -> float:
        """Return log(latency of the baseline / latency of the arm) from rounds in which both were measured.

        If the machine was rarely at rest, slices that are close in time are compared, as they share its speed.
        """
        if self.is_at_rest:
            return math.log(self.latency_ns(baseline, rounds) / self.latency_ns(arm, rounds))
        ours, theirs = self.windows[arm], self.windows[baseline]
        return median(math.log(median(theirs[number]) / median(ours[number])) for number in ours if number in rounds)


def _merged(rounds: Mapping[int, Sequence[float]]) -> list[float]:
    return sorted(value for values in rounds.values() for value in values)
