"""Simulated runs: how often intervals include the true ratio, and how often a false difference is claimed."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bench.analysis import gates
from bench.analysis.gates import estimate_of
from bench.analysis.stats import holm, wilcoxon_interval
from bench.engine.run import PRECISE
from bench.suite.schedule import PRESETS

STANDARD, PUBLISH = PRESETS["standard"], PRESETS["publish"]
# Standard deviations of the log latency: between processes, and between turns of one process.
PROCESS, TURN = 0.02, 0.03
CLAIMS = (gates.FASTER, gates.SLOWER)


def machine(kind, shape, random):
    """Return the log slowness of the machine at the successive turns of each block."""
    if kind == "drifting":
        # A random walk that gets slower with time.
        return np.cumsum(random.normal(0.002, 0.02, shape), axis=1)
    if kind == "spiky":
        # A tenth of the turns takes up to twice the time.
        return random.uniform(0, 0.7, shape) * (random.random(shape) < 0.1)
    return np.zeros(shape)


def simulate(kind, blocks, rounds, random, log_speedups=(0.0,)):
    """Return the log ratios of each arm to the baseline; all alternate in balanced orders."""
    slowdowns = np.array([0.0, *log_speedups])
    shape = blocks, rounds, len(slowdowns)
    # The place of each arm in its round; each order is followed by its reverse.
    places = np.repeat(np.argsort(random.random((blocks, -(-rounds // 2), len(slowdowns)))), 2, axis=1)[:, :rounds]
    places[:, 1::2] = len(slowdowns) - 1 - places[:, 1::2]
    turns = machine(kind, (blocks, rounds * len(slowdowns)), random).reshape(shape)
    processes = random.normal(0, PROCESS, (blocks, 1, len(slowdowns)))
    latencies = processes - slowdowns + random.normal(0, TURN, shape) + np.take_along_axis(turns, places, axis=2)
    return np.median(latencies[..., :1] - latencies[..., 1:], axis=1).T.tolist()


@pytest.mark.parametrize("kind", ["clean", "drifting", "spiky"])
def test_the_interval_includes_the_true_ratio_in_at_least_94_of_100_runs(kind) -> None:
    random, truth = np.random.default_rng(7), math.log(1.03)
    runs = [simulate(kind, STANDARD.blocks, STANDARD.rounds, random, (truth,)) for _ in range(1200)]
    covered = [not wilcoxon_interval(ratios, 0.95).excludes(truth) for (ratios,) in runs]
    assert np.mean(covered) >= 0.94


def is_settled(estimate):
    return estimate.interval.excludes(0) or estimate.interval.half_width <= PRECISE


def verdicts_of_a_run(kind, random):
    """Return the verdicts on three arms that equal their baseline, after the planned looks.

    The A/A arm and the others share the baseline's slices. Holm corrects for the three. The run stops at a look if all
    three are settled.
    """
    replica, *arms = simulate(kind, PUBLISH.blocks, PUBLISH.rounds, random, (0.0,) * 4)
    for look in (*PUBLISH.looks, PUBLISH.blocks):
        estimates = [estimate_of(ratios[:look], PUBLISH.confidence) for ratios in arms]
        if look == PUBLISH.blocks or all(map(is_settled, estimates)):
            band = wilcoxon_interval(replica[:look], PUBLISH.confidence)
            largest = max(abs(band.low), abs(band.high))
            adjusted = holm([estimate.p_value for estimate in estimates])
            return [
                gates.judge(replace(estimate, p_value=p_value), largest, PUBLISH).word
                for estimate, p_value in zip(estimates, adjusted, strict=True)
            ]
    raise AssertionError


@pytest.mark.parametrize("kind", ["clean", "drifting", "spiky"])
def test_runs_with_planned_looks_make_a_false_claim_in_at_most_5_of_100(kind) -> None:
    random = np.random.default_rng(11)
    runs = [verdicts_of_a_run(kind, random) for _ in range(250)]
    assert sum(any(word in CLAIMS for word in verdicts) for verdicts in runs) <= 0.05 * len(runs)


def test_stopping_at_the_first_difference_after_any_block_makes_many_false_claims() -> None:
    """The simulation can fail: without planned looks it makes many false claims."""
    random, claims = np.random.default_rng(13), 0
    for _ in range(150):
        (ratios,) = simulate("clean", 40, STANDARD.rounds, random)
        claims += any(wilcoxon_interval(ratios[:look], 0.95).excludes(0) for look in range(6, 41))
    assert claims > 0.15 * 150
