"""Simulated machines that are at rest, or slower, for random times that all arms share."""

import math
from random import Random

import numpy as np

from bench.analysis.latency import windows
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

    def ends(self, start_s, calls_s, factor):
        """Return when calls end that take these times at rest, and `factor` times as long otherwise."""
        work = np.concatenate([[0], np.cumsum(self._lengths * np.where(self._at_rest, 1, 1 / factor))])
        begin = np.interp(start_s, self._times, work)
        return np.interp(begin + np.cumsum(calls_s), work, self._times)


def simulated_slices(random, rounds, slice_s, rest_s, other_s, factors=FACTORS):
    """Return the samples in ns of a block by arm and round; the rounds of a second case lie between them."""
    names, turn_s = list(CALLS_S), slice_s + PAUSE_S
    round_s = turn_s * len(names)
    machine = TwoSpeeds(random, 2 * rounds * round_s + 1, rest_s, other_s)
    processes = {name: call_s * math.exp(random.normal(0, PROCESS)) for name, call_s in CALLS_S.items()}
    orders = balanced_orders(names, Random(int(random.integers(2**31))))
    found = {name: {} for name in names}
    for number in range(rounds):
        begin = (2 * number + random.integers(2)) * round_s
        for position, name in enumerate(next(orders)):
            start = begin + position * turn_s
            calls = processes[name] * np.exp(
                random.normal(0, CALL, int(slice_s / CALLS_S[name] / min(1, factors[name])) + 9)
            )
            ends = machine.ends(start, calls, factors[name])
            samples = np.diff(ends, prepend=start)[: int(np.searchsorted(ends, start + slice_s)) + 1]
            found[name][number] = [int(sample) for sample in samples * 1e9]
    return found


def simulated_windows(random, rounds, slice_s, rest_s, other_s, factors=FACTORS):
    slices = simulated_slices(random, rounds, slice_s, rest_s, other_s, factors)
    return {name: {number: windows(samples) for number, samples in turns.items()} for name, turns in slices.items()}
