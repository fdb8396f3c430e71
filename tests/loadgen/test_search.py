"""The search for the highest valid rate, on machines that are functions."""

import pytest

from bench.loadgen.search import MOST_RUNS, PRECISION, WINNER_RUNS, common_rate, highest_valid_rate, next_rate
from bench.records import LoadProbe


def search(is_valid, first=100.0):
    probes = []
    while (rate := next_rate(probes, first)) is not None:
        probes.append(LoadProbe(rate, is_valid(rate, probes), 1.0, (), ""))
    return probes


@pytest.mark.parametrize("limit", [1.0, 30.0, 99.0, 100.0, 101.0, 3000.0])
def test_it_finds_the_limit_of_a_machine_to_its_precision(limit) -> None:
    probes = search(lambda rate, _: rate <= limit)
    assert limit / PRECISION <= highest_valid_rate(probes) <= limit
    assert len(probes) <= MOST_RUNS


def test_the_winner_is_repeated() -> None:
    probes = search(lambda rate, _: rate <= 150)
    assert [probe.rate for probe in probes[-WINNER_RUNS + 1 :]] == [highest_valid_rate(probes)] * (WINNER_RUNS - 1)
    assert sum(probe.rate == highest_valid_rate(probes) for probe in probes) == WINNER_RUNS


def test_a_winner_that_fails_once_gives_way_to_a_lower_rate() -> None:
    def is_valid(rate, probes):
        # What is above 100 is valid the first time only.
        return rate <= 150 and (rate <= 100 or not any(probe.rate == rate for probe in probes))

    assert 100 / PRECISION <= highest_valid_rate(search(is_valid)) <= 100


def test_a_search_without_a_valid_run_is_bounded_and_finds_nothing() -> None:
    probes = search(lambda *_: False)
    assert (len(probes), highest_valid_rate(probes)) == (MOST_RUNS, 0.0)


def test_a_search_without_an_invalid_run_ends_with_the_repeats_of_its_last_rate() -> None:
    probes = search(lambda *_: True)
    assert len(probes) == MOST_RUNS
    assert [probe.rate for probe in probes[-WINNER_RUNS:]] == [highest_valid_rate(probes)] * WINNER_RUNS


def test_a_search_ends_at_the_least_rate() -> None:
    probe = LoadProbe(100, False, 1.0, (), "")
    assert (next_rate([probe], 100, 50), next_rate([probe], 100, 51)) == (50, None)


def test_a_rate_above_one_that_was_not_valid_never_wins() -> None:
    probes = [LoadProbe(rate, valid, 1.0, (), "") for rate, valid in ((100, True), (50, False), (25, True))]
    assert next_rate(probes, 1) == pytest.approx((25 * 50) ** 0.5)


def test_all_arms_get_half_of_what_the_slowest_can_take() -> None:
    assert common_rate([300.0, 100.0, 200.0]) == 50.0
