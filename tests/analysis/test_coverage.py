"""Simulated runs: how often intervals hold the truth, and how often a difference is claimed that is not there."""

import math
from dataclasses import replace
from statistics import median

import numpy as np
import pytest

from bench.analysis import gates
from bench.analysis.gates import estimate_of
from bench.analysis.stats import holm, wilcoxon_interval
from bench.engine.run import PRECISE
from bench.suite.schedule import PRESETS

STANDARD, PUBLISH = PRESETS["standard"], PRESETS["publish"]
PROCESS, TURN = 0.02, 0.03  # standard deviations of the log latency: between processes, between turns of one
CLAIMS = (gates.FASTER, gates.SLOWER)


def machine(kind, turns, random):
    """Return the log slowness of the machine at successive turns."""
    if kind == "drifting":  # a random walk on a slope: what is measured later is slower
        return np.cumsum(random.normal(0.002, 0.02, turns))
    if kind == "spiky":  # now and then taken away, for up to twice the time
        return random.uniform(0, 0.7, turns) * (random.random(turns) < 0.1)
    return np.zeros(turns)


def simulate(kind, blocks, rounds, random, log_speedups=(0.0,)):
    """Return for each of the arms its log ratios to the baseline; all alternate in orders that are balanced."""
    slowdowns = np.array([0.0, *log_speedups])
    found = []
    for _ in range(blocks):
        processes = random.normal(0, PROCESS, len(slowdowns))
        orders = [random.permutation(len(slowdowns)) for _ in range(-(-rounds // 2))]
        turns = machine(kind, rounds * len(slowdowns), random).reshape(rounds, -1)
        ratios = []
        for number in range(rounds):
            order = orders[number // 2][:: -1 if number % 2 else 1]
            latencies = processes - slowdowns + random.normal(0, TURN, len(slowdowns))
            latencies[order] += turns[number]
            ratios.append(latencies[0] - latencies[1:])
        found.append([median(column) for column in zip(*ratios, strict=True)])
    return [list(column) for column in zip(*found, strict=True)]


@pytest.mark.parametrize("kind", ["clean", "drifting", "spiky"])
def test_the_interval_holds_the_truth_at_least_94_times_in_100(kind) -> None:
    random, truth = np.random.default_rng(7), math.log(1.03)
    runs = [simulate(kind, STANDARD.blocks, STANDARD.rounds, random, (truth,)) for _ in range(1200)]
    held = [not wilcoxon_interval(ratios, 0.95).excludes(truth) for (ratios,) in runs]
    assert np.mean(held) >= 0.94


def is_settled(estimate):
    """Tell whether a planned look would stop."""
    return estimate.interval.excludes(0) or estimate.interval.half_width <= PRECISE


def whole_run(kind, random):
    """Return the verdicts on three arms that equal their baseline, of a run that looks as planned.

    The twin and the arms share the baseline's slices; Holm corrects for the three; all must be settled to stop.
    """
    twin, *arms = simulate(kind, PUBLISH.blocks, PUBLISH.rounds, random, (0.0,) * 4)
    for look in (*PUBLISH.looks, PUBLISH.blocks):
        estimates = [estimate_of(ratios[:look], PUBLISH.confidence) for ratios in arms]
        if look == PUBLISH.blocks or all(map(is_settled, estimates)):
            band = wilcoxon_interval(twin[:look], PUBLISH.confidence)
            reach = max(abs(band.low), abs(band.high))
            adjusted = holm([each.p_value for each in estimates])
            return [
                gates.judge(replace(each, p_value=p_value), reach, PUBLISH).word
                for each, p_value in zip(estimates, adjusted, strict=True)
            ]
    raise AssertionError


@pytest.mark.parametrize("kind", ["clean", "drifting", "spiky"])
def test_whole_runs_with_their_looks_claim_what_is_not_there_at_most_5_times_in_100(kind) -> None:
    random = np.random.default_rng(11)
    runs = [whole_run(kind, random) for _ in range(250)]
    assert sum(any(word in CLAIMS for word in verdicts) for verdicts in runs) <= 0.05 * len(runs)


def test_looking_after_every_block_and_stopping_at_the_first_difference_would_not_do() -> None:
    """The simulation is one that can fail: without planned looks the claims are many."""
    random, found = np.random.default_rng(13), 0
    for _ in range(150):
        (ratios,) = simulate("clean", 40, STANDARD.rounds, random)
        found += any(wilcoxon_interval(ratios[:look], 0.95).excludes(0) for look in range(6, 41))
    assert found > 0.15 * 150
