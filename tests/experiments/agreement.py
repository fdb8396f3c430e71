"""Compare pytest-benchmark with the harness's own timing of the same session, in turns in one process.

Which of them begins is drawn for each round. If both time alike, the logarithm of a round's ratio is as often above
zero as below, whatever else the machine does. So a machine on which they agree fails at most once in ten thousand runs
of `python -m pytest -n 0 tests/experiments/agreement.py --benchmark-enable`. The last test prints the ratio.
"""

import math
import random
from itertools import repeat
from statistics import median

import pytest

from backends.registry import open_backend
from bench.analysis.stats import hodges_lehmann, wilcoxon_interval
from bench.worker.timing import time_slice
from conftest import OWN_STACK, OpenStack

ROUNDS, TURN_S, CONFIDENCE = 30, 0.1, 0.9999
# The loops around the timed call differ: one counts iterations, the other reads a clock.
TOLERANCE = math.log(1.02)


@pytest.fixture(scope="module")
def stack(caches, tmp_path_factory) -> OpenStack:
    """Open the stack with one thread: several that wait for each other multiply the noise of a busy machine."""
    return OpenStack(OWN_STACK, open_backend(OWN_STACK, 1), tmp_path_factory.mktemp("converted"))


@pytest.fixture(scope="module")
def ratios() -> list[float]:
    """Return the list that the rounds fill with logarithms of ratios."""
    return []


@pytest.fixture(scope="module")
def ours_first() -> list[bool]:
    return [random.SystemRandom().random() < 0.5 for _ in range(ROUNDS)]


@pytest.mark.benchmark(max_time=TURN_S, min_rounds=2)
@pytest.mark.parametrize("batch", [1], indirect=True)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_round(benchmark, stack, model, batch, number, ratios, ours_first) -> None:
    session = stack.session(model, batch)
    prepared = session.prepare(batch)

    def ours() -> float:
        return median(time_slice(session.step, repeat(prepared), int(TURN_S * 1e9), 2).samples_ns) / 1e9

    session.step(prepared)
    own = ours() if ours_first[number] else 0.0
    benchmark(session.step, prepared)
    own = own or ours()
    ratios.append(math.log(benchmark.stats.stats.median / own))


def test_the_ratio(ratios, capsys) -> None:
    interval = wilcoxon_interval(ratios, CONFIDENCE)
    low, centre, high = (math.exp(value) for value in (interval.low, hodges_lehmann(ratios), interval.high))
    with capsys.disabled():
        print(f"\npytest-benchmark / harness: {centre:.4f} ({low:.4f} to {high:.4f}), {len(ratios)} rounds")
    assert interval.low < TOLERANCE
    assert interval.high > -TOLERANCE
