"""Simulated machines that are at rest, or slower, for random times that all arms share."""

import math
from functools import cache
from random import Random
from statistics import median

import numpy as np

from bench.analysis.latency import CaseLatencies, are_enough, lack_of_rest
from bench.analysis.stats import trimmed_mean, wilcoxon_interval
from bench.suite.schedule import balanced_orders

# Between the timed parts of two slices, in seconds: the wait, and the lead-in.
PAUSE_S = 0.012
# How many times longer calls take while the machine is not at rest; on real machines arms differ in it.
FACTORS = {"base": 1.5, "same": 1.5, "fast": 1.15, "other": 1.3}
# Seconds per call at rest, and the standard deviations of the log latency of processes and of calls.
CALLS_S, PROCESS, CALL = {"base": 0.0004, "same": 0.0004, "fast": 0.0003, "other": 0.0005}, 0.007, 0.03


class TwoSpeeds:
    """A machine that is at rest, or not, for random times with these means in seconds."""

    def __init__(self, random, duration_s, rest_s, other_s) -> None:
        count = int(3 * duration_s / (rest_s + other_s)) + 20
        starts_at_rest = random.random() >= other_s / (rest_s + other_s)
        means = (rest_s, other_s) if starts_at_rest else (other_s, rest_s)
        self._lengths = random.exponential(means, (count, 2)).ravel()
        self._times = np.concatenate([[0], np.cumsum(self._lengths)])
        self._at_rest = np.tile([starts_at_rest, not starts_at_rest], count)
        self._work = cache(self._work)

    def _work(self, factor):
        """Return the work that is done when each state begins, in seconds at rest."""
        return np.concatenate([[0], np.cumsum(self._lengths * np.where(self._at_rest, 1, 1 / factor))])

    def ends(self, starts_s, calls_s, factor):
        """Return when calls end that take these times at rest, and `factor` times as long otherwise.

        `calls_s` has a row for each of the starts.
        """
        work = self._work(factor)
        begins = np.interp(starts_s, self._times, work)
        return np.interp(begins[:, np.newaxis] + np.cumsum(calls_s, axis=1), work, self._times)


def simulated_block(random, preset, rest_s, other_s, factors=FACTORS):
    """Return the samples in ns of a block by arm and round; it has further rounds as long as slices scatter."""
    most = preset.rounds + preset.further_rounds
    block = simulated_slices(random, most, preset.slice_ns / 1e9, rest_s, other_s, factors)
    levels = {arm: [] for arm in block}
    for number in range(most):
        if are_enough(number, preset.rounds, levels.values()):
            return {arm: {n: turns[n] for n in range(number)} for arm, turns in block.items()}
        for arm, turns in block.items():
            levels[arm].append(math.log(trimmed_mean(turns[number])))
    return block


def simulated_slices(random, rounds, slice_s, rest_s, other_s, factors=FACTORS):
    """Return the samples in ns of a block by arm and round; the rounds of a second case lie between them."""
    names, turn_s = list(CALLS_S), slice_s + PAUSE_S
    round_s = turn_s * len(names)
    machine = TwoSpeeds(random, 2 * rounds * round_s + 1, rest_s, other_s)
    orders = balanced_orders(names, Random(int(random.integers(2**31))))
    begins = (2 * np.arange(rounds) + random.integers(2, size=rounds)) * round_s
    positions = [dict(zip(next(orders), range(len(names)), strict=True)) for _ in range(rounds)]
    found = {}
    for name, call_s in CALLS_S.items():
        starts = begins + turn_s * np.array([position[name] for position in positions])
        calls = int(slice_s / call_s / min(1, factors[name])) + 9
        process = math.exp(random.normal(0, PROCESS))
        ends = machine.ends(starts, call_s * process * np.exp(random.normal(0, CALL, (rounds, calls))), factors[name])
        samples_ns = (np.diff(ends, prepend=starts[:, np.newaxis]) * 1e9).astype(int)
        counts = (ends < (starts + slice_s)[:, np.newaxis]).sum(axis=1) + 1
        found[name] = {n: row[:count].tolist() for n, (row, count) in enumerate(zip(samples_ns, counts, strict=True))}
    return found


class SimulatedCase:
    """A case of several blocks: each arm's log ratios to `base`, and under which rule they are reported."""

    def __init__(self, blocks, needed, usual_rounds) -> None:
        """`blocks` have samples in ns by arm and round; `needed` is how many blocks a claim needs."""
        case = CaseLatencies(dict(enumerate(blocks)), usual_rounds)
        self.at_rest, self.as_it_was = {}, {}
        levels = [
            {
                arm: {n: math.log(trimmed_mean(samples_ns)) for n, samples_ns in turns.items()}
                for arm, turns in block.items()
            }
            for block in blocks
        ]
        for arm in [name for name in CALLS_S if name != "base"]:
            self.at_rest[arm] = [
                block.log_ratio(arm, "base", block.windows[arm]) for block in case.at_rest(arm, "base").values()
            ]
            self.as_it_was[arm] = [median(block["base"][n] - block[arm][n] for n in block[arm]) for block in levels]
        intervals = (
            (wilcoxon_interval(self.at_rest[arm], 0.95), wilcoxon_interval(self.as_it_was[arm], 0.95))
            for arm in self.at_rest
        )
        self.is_at_rest = lack_of_rest(case.blocks.values(), needed, intervals) is None
