"""The two rules for latencies: exact cases, and machines with two speeds."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.latency import AS_IT_WAS, AT_REST, WINDOW_NS, BlockLatencies, find_rule, windows
from bench.analysis.stats import quantile, wilcoxon_interval
from bench.suite.schedule import PRESETS
from models.errors import UserError
from tests.analysis.two_speeds import CALLS_S, simulated_slices

STANDARD = PRESETS["standard"]
ALL_ROUNDS = range(100)


def test_windows_are_means_of_equal_parts_that_last_10_ms() -> None:
    assert windows([1_500_000, 3_500_000] * 16) == [2.5e6] * 8
    assert windows([1_000_000] * 10 + [3_000_000] * 10) == [1e6, 1e6, 3e6, 3e6]


def test_calls_longer_than_a_window_are_windows() -> None:
    assert windows([2 * WINDOW_NS, 3 * WINDOW_NS]) == [2 * WINDOW_NS, 3 * WINDOW_NS]


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=50))
def test_windows_lie_within_the_samples_and_are_no_more(samples) -> None:
    found = windows(samples)
    assert 1 <= len(found) <= len(samples)
    assert min(samples) <= min(found) <= max(found) <= max(samples)


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=30).map(sorted), st.floats(0, 1))
def test_a_quantile_is_that_of_numpy(values, share) -> None:
    assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)))


def test_at_rest_an_arm_has_the_median_of_its_windows_at_rest() -> None:
    # Each arm is at rest in three of four windows, and half as fast again in the fourth.
    block = BlockLatencies({
        "slow": {0: [200.0, 300.0, 200.0, 200.0], 1: [200.0, 200.0, 300.0, 200.0]},
        "fast": {0: [150.0, 100.0, 100.0, 100.0], 1: [100.0, 100.0, 100.0, 150.0]},
    })  # fmt: skip
    assert block.rest_share == 0.75
    assert block.latency_ns("slow", ALL_ROUNDS) == 200
    assert block.log_ratio("fast", "slow", ALL_ROUNDS) == math.log(2)


def test_without_rest_slices_of_the_same_round_are_compared() -> None:
    # The machine gets slower from round to round, and no speed lasts.
    rounds = {number: 1.2**number for number in range(9)}
    block = BlockLatencies({
        "slow": {number: [200.0 * speed] for number, speed in rounds.items()},
        "fast": {number: [100.0 * speed] for number, speed in rounds.items()},
    })  # fmt: skip
    assert block.rest_share < 0.25
    assert block.log_ratio("fast", "slow", ALL_ROUNDS) == pytest.approx(math.log(2))
    assert block.latency_ns("slow", ALL_ROUNDS) == pytest.approx(200 * 1.2**4)


def test_rounds_that_are_left_out_do_not_count() -> None:
    block = BlockLatencies({"one": {0: [100.0], 1: [100.0], 2: [110.0]}, "other": {0: [100.0], 1: [100.0], 2: [100.0]}})
    assert block.latency_ns("one", {2}) == 110
    assert block.log_ratio("one", "other", {2}) == math.log(100 / 110)


def test_an_arm_that_scatters_by_itself_does_not_change_the_share_of_rest() -> None:
    steady = {0: [100.0] * 10}
    scattered = {0: [100.0 * 1.1**step for step in range(10)]}
    assert BlockLatencies({"a": steady, "b": steady, "c": scattered}).rest_share == 1


def test_rules_have_names() -> None:
    assert [find_rule(name) for name in ("at-rest", "as-it-was")] == [AT_REST, AS_IT_WAS]
    with pytest.raises(UserError, match="unknown rule 'x'; allowed: at-rest, as-it-was"):
        find_rule("x")


RESTS, STATES_S, RUNS = (0.9, 0.6, 0.3), (0.001, 0.01, 0.3, 60), 30


def simulated_block(random, rest_s, slow_s):
    slices = simulated_slices(random, STANDARD.rounds, STANDARD.slice_ns / 1e9, rest_s, slow_s)
    return BlockLatencies({
        name: {number: windows(samples) for number, samples in rounds.items()} for name, rounds in slices.items()
    })  # fmt: skip


def test_intervals_hold_the_truth_on_machines_with_two_speeds() -> None:
    random = np.random.default_rng(17)
    held = {}
    for rest, state_s in product(RESTS, STATES_S):
        covered = []
        for _ in range(RUNS):
            times = 2 * state_s * rest, 2 * state_s * (1 - rest)
            blocks = [simulated_block(random, *times) for _ in range(STANDARD.blocks)]
            for name in ("same", "fast", "other"):
                interval = wilcoxon_interval([block.log_ratio(name, "base", ALL_ROUNDS) for block in blocks], 0.95)
                covered.append(not interval.excludes(math.log(CALLS_S["base"] / CALLS_S[name])))
        held[rest, state_s] = np.mean(covered)
    assert np.mean(list(held.values())) >= 0.94, held
    assert min(held.values()) >= 0.9, held
