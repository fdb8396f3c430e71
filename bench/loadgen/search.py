"""The search for the highest rate of queries at which LoadGen calls a server's run valid."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.records import LoadProbe

# The search ends when the lowest rate that is not valid is at most this much above the highest valid one.
PRECISION = 1.1
# How often the winner is run in all. Each of these runs must be valid.
WINNER_RUNS = 3
MOST_RUNS = 16
# An arm is first tried at this share of what it can do without pauses.
FIRST_SHARE = 0.5
# In the blocks all arms get the same rate: this share of what the slowest arm can take.
COMMON_SHARE = 0.5
# A run of a search lasts at most about this long: at lower rates, the fewest queries of a run would take longer.
MOST_RUN_S = 20


def next_rate(probes: Sequence[LoadProbe], first: float, least: float = 0.0) -> float | None:
    """Return the rate of the next run of a search, or None when it has ended; no rate is below the `least`.

    The rate doubles while runs are valid, or halves until one is. Then the gap between both is halved. A rate counts as
    valid while all of its runs are: a winner that fails when it is repeated gives way to a lower rate. A search that is
    about to end repeats the best rate so far.
    """
    if not probes:
        return first
    if len(probes) >= MOST_RUNS:
        return None
    lowest_invalid = _lowest_invalid(probes)
    best = _best(probes)
    if best is None:
        lower = min(probe.rate for probe in probes) / 2
        return lower if lower >= least else None
    repeats = WINNER_RUNS - _runs(probes, best)
    # The last runs are kept for repeating the best rate so far.
    if len(probes) + repeats < MOST_RUNS:
        if lowest_invalid is None:
            return 2 * best
        if lowest_invalid > PRECISION * best:
            return sqrt(lowest_invalid * best)
    return best if repeats > 0 else None


def highest_valid_rate(probes: Sequence[LoadProbe]) -> float:
    """Return the highest rate at which all runs were valid, as many as a winner needs; 0 if there is none."""
    best = _best(probes)
    return best if best is not None and _runs(probes, best) >= WINNER_RUNS else 0.0


def common_rate(rates: Sequence[float]) -> float:
    """Return the rate of the blocks from the highest valid rates of all arms."""
    return COMMON_SHARE * min(rates)


def _best(probes: Sequence[LoadProbe]) -> float | None:
    lowest_invalid = _lowest_invalid(probes)
    valid = [probe.rate for probe in probes if probe.valid]
    return max((rate for rate in valid if lowest_invalid is None or rate < lowest_invalid), default=None)


def _lowest_invalid(probes: Sequence[LoadProbe]) -> float | None:
    return min((probe.rate for probe in probes if not probe.valid), default=None)


def _runs(probes: Sequence[LoadProbe], rate: float) -> int:
    return sum(probe.rate == rate for probe in probes)
