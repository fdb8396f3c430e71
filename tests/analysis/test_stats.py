import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from bench.analysis.stats import (
    Interval,
    error_of_shift,
    further_blocks,
    hodges_lehmann,
    holm,
    mcnemar_p,
    percentile,
    rank_sum_counts,
    rank_sum_interval,
    rank_sum_p,
    shift,
    sign_interval,
    signed_rank_counts,
    trimmed_mean,
    walsh_averages,
    wilcoxon_interval,
    wilcoxon_p,
)

ratios = st.lists(st.floats(-1, 1, allow_nan=False).map(lambda x: round(x, 6)), min_size=1, max_size=25)


@pytest.mark.parametrize("n", range(1, 11))
def test_signed_rank_counts_equal_brute_force(n: int) -> None:
    totals = [sum(rank for rank, sign in enumerate(signs, 1) if sign) for signs in product((0, 1), repeat=n)]
    assert signed_rank_counts(n) == tuple(np.bincount(totals))


def test_hodges_lehmann_by_hand() -> None:
    assert walsh_averages([1, 2, 6]) == (1, 1.5, 2, 3.5, 4, 6)
    assert hodges_lehmann([1, 2, 6]) == 2.75


@pytest.mark.parametrize(("n", "k"), [(6, 1), (8, 4), (10, 9), (16, 30), (20, 53)], ids=str)
def test_the_interval_takes_the_tabulated_order_statistics(n: int, k: int) -> None:
    """The 95 % values of k are Wilcoxon's table (n = 20: critical value 52)."""
    values = [float(2**index) for index in range(n)]
    averages = walsh_averages(values)
    assert wilcoxon_interval(values, 0.95) == Interval(averages[k - 1], averages[-k])


@pytest.mark.parametrize("n", [1, 5])
def test_too_few_blocks_have_no_95_percent_interval(n: int) -> None:
    assert wilcoxon_interval([0.1] * n, 0.95) is None
    assert sign_interval([0.1] * n, 0.95) is None


@pytest.mark.parametrize("seed", range(20))
def test_the_interval_holds_exactly_the_centres_that_the_test_does_not_reject(seed: int) -> None:
    values = np.random.default_rng(seed).normal(0.02, 0.05, 12)
    interval = wilcoxon_interval(list(values), 0.95)
    assert interval is not None
    for centre, inside in ((interval.low - 1e-9, False), (interval.low + 1e-9, True),
                           (interval.high - 1e-9, True), (interval.high + 1e-9, False)):  # fmt: skip
        assert bool(scipy_stats.wilcoxon(values - centre, method="exact").pvalue > 0.05) is inside


@pytest.mark.parametrize("n", [6, 9, 16, 33])
def test_the_sign_interval_is_the_binomial_one(n: int) -> None:
    values = [float(index) for index in range(n)]
    interval = sign_interval(values, 0.95)
    expected = scipy_stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    assert interval == Interval(expected.low, expected.high)


def test_the_p_value_is_exact_and_survives_zeros_and_ties() -> None:
    assert wilcoxon_p([0.1, 0.2, 0.3, 0.4, 0.5]) == 2 / 2**5
    assert wilcoxon_p([0.0, 0.0]) == 1.0
    assert 0 < wilcoxon_p([0.1, 0.1, -0.1, 0.2, 0.0, 0.3]) <= 1


@given(ratios, st.floats(-1, 1).map(lambda x: round(x, 6)))
def test_estimates_move_with_their_data(values, shift) -> None:
    moved = [value + shift for value in values]
    assert hodges_lehmann(moved) == pytest.approx(hodges_lehmann(values) + shift, abs=1e-9)
    assert hodges_lehmann([-value for value in values]) == pytest.approx(-hodges_lehmann(values), abs=1e-9)


@given(ratios)
def test_the_estimate_lies_in_its_interval(values) -> None:
    interval = wilcoxon_interval(values, 0.95)
    assert interval is None or interval.low - 1e-12 <= hodges_lehmann(values) <= interval.high + 1e-12


def test_coverage_of_the_interval_in_simulation() -> None:
    """Of 2,000 simulated runs of 20 blocks with spikes, at least 94 % must hold the true ratio."""
    random = np.random.default_rng(0)
    noise = random.normal(0.01, 0.03, (2000, 20)) + np.where(random.random((2000, 20)) < 0.1, 0.3, 0) * random.choice(
        (-1, 1), (2000, 20)
    )
    held = [interval is not None and not interval.excludes(0.01)
            for interval in (wilcoxon_interval(list(row), 0.95) for row in noise)]  # fmt: skip
    assert np.mean(held) >= 0.94


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values) -> None:
    adjusted = holm(p_values)
    assert all(new >= old for new, old in zip(adjusted, p_values, strict=True))
    for (one, two), (new_one, new_two) in zip(combinations(p_values, 2), combinations(adjusted, 2), strict=True):
        assert (one - two) * (new_one - new_two) >= 0


@pytest.mark.parametrize(("percent", "least"), [(90, 64), (95, 130), (99, 662), (99.9, 6636)])
def test_percentiles_need_enough_samples(percent, least) -> None:
    assert percentile(range(least - 1), percent) is None
    assert percentile(range(least), percent) == math.ceil(percent / 100 * least) - 1


def test_further_blocks_shrink_the_interval_to_its_target() -> None:
    assert further_blocks(20, half_width=0.02, target=0.01) == 60
    assert further_blocks(20, half_width=0.01, target=0.02) == 1
    assert further_blocks(20, half_width=0.01, target=0.0) is None


@pytest.mark.parametrize(("lost", "won", "p"), [(0, 0, 1.0), (5, 5, 1.0), (10, 0, 2 / 2**10), (1, 3, 0.625)])
def test_mcnemar_is_the_binomial_test_of_the_discordant(lost, won, p) -> None:
    assert mcnemar_p(lost, won) == pytest.approx(p)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 3.0], 2.0),
        ([1.0, 3.0, 100.0], 3.0),
        ([1.0, 2.0, 4.0, 100.0], 3.0),
        ([*range(10), 1000.0], 5.0),
        ([5.0] * 8 + [0.0, 1000.0], 5.0),
    ],
)
def test_a_trimmed_mean_leaves_out_a_tenth_at_each_end_and_at_least_one(values, expected) -> None:
    assert trimmed_mean(values) == expected


@given(st.lists(st.floats(1, 1e9), min_size=10, max_size=200).filter(lambda values: len(values) % 10 == 0))
def test_a_trimmed_mean_is_that_of_scipy(values) -> None:
    assert trimmed_mean(values) == pytest.approx(float(scipy_stats.trim_mean(values, 0.1)))


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 3), (4, 4), (5, 2)])
def test_rank_sum_counts_equal_brute_force(m: int, n: int) -> None:
    statistics = [
        sum(one > other for one in ranks for other in set(range(m + n)) - set(ranks))
        for ranks in combinations(range(m + n), n)
    ]
    assert rank_sum_counts(m, n) == tuple(np.bincount(statistics, minlength=m * n + 1))


def test_the_shift_by_hand() -> None:
    assert shift([1, 2], [4, 8, 9]) == 6.5


@pytest.mark.parametrize("seed", range(20))
def test_the_rank_sum_interval_holds_exactly_the_shifts_that_the_test_does_not_reject(seed: int) -> None:
    random = np.random.default_rng(seed)
    before, after = list(random.normal(0, 0.05, 12)), list(random.normal(0.02, 0.08, 9))
    interval = rank_sum_interval(before, after, 0.95)
    for value, inside in ((interval.low - 1e-9, False), (interval.low + 1e-9, True),
                          (interval.high - 1e-9, True), (interval.high + 1e-9, False)):  # fmt: skip
        moved = [later - value for later in after]
        assert bool(scipy_stats.mannwhitneyu(moved, before, method="exact").pvalue > 0.05) is inside


@pytest.mark.parametrize("seed", range(5))
def test_rank_sum_and_welch_equal_scipy(seed: int) -> None:
    random = np.random.default_rng(seed)
    before, after = list(random.normal(0, 1, 11)), list(random.normal(-0.5, 2, 7))
    moved = [value + 0.25 for value in after]
    exact = scipy_stats.mannwhitneyu(moved, before, alternative="less", method="exact").pvalue
    assert rank_sum_p(before, after, 0.25) == pytest.approx(exact)
    error = error_of_shift(before, after)
    low, high = scipy_stats.ttest_ind(after, before, equal_var=False).confidence_interval(0.95)
    assert error.half_width(0.95) == pytest.approx((high - low) / 2)
    below = scipy_stats.ttest_ind(after, before, equal_var=False, alternative="less").pvalue
    assert error.p_below(np.mean(after) - np.mean(before)) == pytest.approx(below)


def test_an_effect_that_a_sample_shares_adds_its_variance() -> None:
    before, after = [0.0, 1.0, 2.0], [5.0, 6.0, 7.0]
    alone, shared = error_of_shift(before, after), error_of_shift(before, after, 3.0, 5)
    assert shared.error**2 == pytest.approx(alone.error**2 + 3)
    # The variance of the effect is 9 times each of the others'.
    assert shared.freedom == pytest.approx((1 / 3 + 1 / 3 + 3) ** 2 / (1 / 18 + 1 / 18 + 9 / 5))
    assert error_of_shift([1.0, 1.0], [1.0, 1.0]).p_below(0.0) == 1


def test_equal_values_are_no_decrease_and_too_few_have_no_interval() -> None:
    assert rank_sum_p([0.0] * 9, [0.0] * 9) == 1
    assert rank_sum_interval([0.1] * 3, [0.2] * 3, 0.95) is None
