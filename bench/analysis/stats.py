"""Statistics: pure functions on lists of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations_with_replacement
from statistics import fmean, median, variance
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# The minimum number of samples for a percentile (MLPerf inference, early stopping at 99 % confidence).
PERCENTILE_MINIMUM = {50: 1, 90: 64, 95: 130, 99: 662, 99.9: 6636}


@dataclass(frozen=True)
class Interval:
    """A closed interval on the log scale or any other."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def excludes(self, value: float) -> bool:
        return not self.low <= value <= self.high

    def within(self, low: float, high: float) -> bool:
        return low <= self.low and self.high <= high


def trimmed_mean(values: Sequence[float], share: float = 0.1) -> float:
    """Return the mean without a share of the values at each end: at least one value, if there are three or more.

    It is nearly as robust against a few disturbed calls as the median. Unlike the median it does not jump between two
    modes when about half of the calls are disturbed, which happens when threads wait for a busy core.
    """
    cut = min(math.ceil(share * len(values)), (len(values) - 1) // 2)
    return fmean(sorted(values)[cut : len(values) - cut])


def walsh_averages(values: Sequence[float]) -> tuple[float, ...]:
    """Return the sorted means of all pairs, each value paired with itself included: n (n + 1) / 2 of them."""
    return _walsh_averages(tuple(values))


# An estimate needs those of the same values several times.
@lru_cache(maxsize=16)
def _walsh_averages(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted((one + other) / 2 for one, other in combinations_with_replacement(values, 2)))


def hodges_lehmann(values: Sequence[float]) -> float:
    """Return the median of the Walsh averages (Hodges & Lehmann 1963)."""
    return median(walsh_averages(values))


@cache
def signed_rank_counts(n: int) -> tuple[int, ...]:
    """Return by value of Wilcoxon's signed-rank statistic, 0..n(n+1)/2, how many of the 2^n sign patterns give it."""
    counts = [1]
    for rank in range(1, n + 1):
        grown = counts + [0] * rank
        for total, count in enumerate(counts):
            grown[total + rank] += count
        counts = grown
    return tuple(counts)


def wilcoxon_interval(values: Sequence[float], confidence: float) -> Interval | None:
    """Return the exact distribution-free interval of the centre, from order statistics of the Walsh averages.

    With T the signed-rank statistic and k the largest integer with P(T < k) <= (1 - confidence) / 2, it runs from the
    k-th smallest to the k-th largest average (Hollander, Wolfe & Chicken 2014, 3.2). None when n is too small for it.
    """
    averages = walsh_averages(values)
    k = _wilcoxon_order(len(values), confidence)
    return Interval(averages[k - 1], averages[-k]) if k else None


@cache
def _wilcoxon_order(n: int, confidence: float) -> int:
    return _largest_tail(signed_rank_counts(n), (1 - confidence) / 2)


def sign_interval(values: Sequence[float], confidence: float) -> Interval | None:
    """Return the exact sign-test interval of the median, from order statistics; None when n is too small for it."""
    ordered, n = sorted(values), len(values)
    k = _largest_tail([math.comb(n, successes) for successes in range(n + 1)], (1 - confidence) / 2)
    return Interval(ordered[k - 1], ordered[-k]) if k else None


def _largest_tail(counts: Sequence[int], probability: float) -> int:
    """Return the largest k for which the first k counts make up at most `probability` of all."""
    total, running, k = sum(counts), 0, 0
    while k < len(counts) // 2 and running + counts[k] <= probability * total:
        running += counts[k]
        k += 1
    return k


def wilcoxon_p(values: Sequence[float]) -> float:
    """Return the exact two-sided p value of Wilcoxon's signed-rank test against a centre of zero."""
    from scipy.stats import wilcoxon

    if not any(values):
        return 1.0
    return float(wilcoxon(values, method="exact" if _untied(values) else "approx").pvalue)


def shift(before: Sequence[float], after: Sequence[float]) -> float:
    """Return the median of all differences after - before (Hodges & Lehmann 1963)."""
    return median(_differences(before, after))


def _differences(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return sorted(later - earlier for later in after for earlier in before)


@cache
def rank_sum_counts(m: int, n: int) -> tuple[int, ...]:
    """Return by value of Mann and Whitney's U, 0..mn, how many of the (m + n choose m) orders of values give it.

    They are the coefficients of the product over i = 1..m of (1 - q^(n + i)) / (1 - q^i).
    """
    counts = [1] + [0] * (m * n)
    for i in range(1, m + 1):
        for power in range(m * n, n + i - 1, -1):
            counts[power] -= counts[power - n - i]
        for power in range(i, m * n + 1):
            counts[power] += counts[power - i]
    return tuple(counts)


def rank_sum_interval(before: Sequence[float], after: Sequence[float], confidence: float) -> Interval | None:
    """Return the exact distribution-free interval of the shift between two independent samples.

    With U the statistic of Mann and Whitney and k the largest integer with P(U < k) <= (1 - confidence) / 2, it runs
    from the k-th smallest to the k-th largest difference (Hollander, Wolfe & Chicken 2014, 4.3). None when there are
    too few values for it.
    """
    k = _largest_tail(rank_sum_counts(len(before), len(after)), (1 - confidence) / 2)
    differences = _differences(before, after)
    return Interval(differences[k - 1], differences[-k]) if k else None


def rank_sum_p(before: Sequence[float], after: Sequence[float], margin: float = 0.0) -> float:
    """Return the exact one-sided p value of Mann and Whitney's test of `after` against being above before - margin.

    A difference of nought counts as being above: the test errs on the side of no decrease.
    """
    statistic = sum(later >= earlier - margin for later in after for earlier in before)
    counts = rank_sum_counts(len(before), len(after))
    return sum(counts[: statistic + 1]) / sum(counts)


@dataclass(frozen=True)
class ErrorOfShift:
    """The standard error of the shift between two samples, with the degrees of freedom of Student's distribution."""

    error: float
    freedom: float

    def half_width(self, confidence: float) -> float:
        from scipy import stats

        return float(stats.t.ppf((1 + confidence) / 2, self.freedom)) * self.error

    def p_below(self, value: float) -> float:
        """Return the chance of such a low value, or a lower one, around zero."""
        from scipy import stats

        return float(stats.t.cdf(value / self.error, self.freedom)) if self.error else float(value >= 0)


def error_of_shift(
    before: Sequence[float], after: Sequence[float], common_variance: float = 0.0, common_freedom: float = math.inf
) -> ErrorOfShift:
    """Return Welch's error of the shift between two samples of at least two values, of unequal variances.

    `common_variance` is that of an effect which all values of a sample share, for both samples together; it is an
    estimate with `common_freedom` degrees of freedom. Those of the sum follow Satterthwaite (1946).
    """
    parts = [(variance(sample) / len(sample), len(sample) - 1.0) for sample in (before, after)]
    parts.append((common_variance, common_freedom))
    total = sum(square for square, _ in parts)
    doubt = sum(square**2 / freedom for square, freedom in parts)
    return ErrorOfShift(math.sqrt(total), total**2 / doubt if doubt else math.inf)


def student_interval(values: Sequence[float], confidence: float) -> Interval:
    """Return Student's interval of the mean of at least two values."""
    from scipy import stats

    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half_width = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * deviation / math.sqrt(len(values))
    return Interval(mean - half_width, mean + half_width)


def mcnemar_p(only_one: int, only_other: int) -> float:
    """Return McNemar's exact two-sided p value from the counts of discordant cases (binomial test at one half)."""
    from scipy.stats import binomtest

    discordant = only_one + only_other
    return float(binomtest(only_one, discordant).pvalue) if discordant else 1.0


def _untied(values: Sequence[float]) -> bool:
    magnitudes = [abs(value) for value in values]
    return 0 not in magnitudes and len(set(magnitudes)) == len(magnitudes)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values adjusted for multiple comparisons (Holm 1979)."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def quantile(sorted_values: Sequence[float], share: float) -> float:
    """Return the quantile of sorted values, interpolated between neighbours."""
    index = share * (len(sorted_values) - 1)
    below, above = sorted_values[math.floor(index)], sorted_values[math.ceil(index)]
    return below + (above - below) * (index % 1)


def percentile(sorted_values: Sequence[float], percent: float) -> float | None:
    """Return the nearest-rank percentile of sorted values, or None if there are too few for it."""
    if len(sorted_values) < PERCENTILE_MINIMUM[percent]:
        return None
    return sorted_values[max(0, math.ceil(percent / 100 * len(sorted_values)) - 1)]


def further_blocks(n: int, half_width: float, target: float) -> int | None:
    """Return how many more blocks shrink `half_width` to `target`, as it falls with 1 / sqrt(n); None if none would."""
    if target <= 0:
        return None
    return max(1, math.ceil(n * (half_width / target) ** 2) - n)
