"""The settings that LoadGen is given."""

import pytest

from bench.loadgen.settings import MOST_GENERATED, expected_run_ns, performance_settings
from bench.suite.arms import Case

SINGLE, MULTI, OFFLINE, SERVER = (
    Case("cnn-small", "single-stream", 1), Case("cnn-small", "multi-stream", 8), Case("cnn-small", "offline", 64),
    Case("cnn-small", "server", 1),
)  # fmt: skip


def test_the_expected_latency_is_half_of_that_in_the_warm_up() -> None:
    assert performance_settings(SINGLE, 2000, 50_000, 10_000, seed=1) == {
        "min_duration_ms": 2000,
        "min_query_count": 64,
        "qsl_rng_seed": 2,
        "sample_index_rng_seed": 2,
        "schedule_rng_seed": 2,
        "single_stream_expected_latency_ns": 25_000,
        "single_stream_target_latency_percentile": 0.9,
    }


@pytest.mark.parametrize("load_ms", [500, 10_000])
def test_the_queries_that_are_made_in_advance_are_bounded(load_ms) -> None:
    settings = performance_settings(SINGLE, load_ms, 10, 10_000, seed=1)
    assert 2 * load_ms * 1e6 / settings["single_stream_expected_latency_ns"] == MOST_GENERATED


def test_a_multi_stream_query_has_the_samples_of_the_case_and_its_p99_counts() -> None:
    settings = performance_settings(MULTI, 2000, 50_000, 10_000, seed=1)
    assert settings["multi_stream_samples_per_query"] == 8
    assert (settings["min_query_count"], settings["multi_stream_target_latency_percentile"]) == (662, 0.99)


def test_offline_repeats_the_whole_data_set_until_the_duration_is_filled() -> None:
    # 10,000 images take 0.5 s; 3 s are planned.
    settings = performance_settings(OFFLINE, 2000, 64 * 50_000, 10_000, seed=1)
    assert (settings["min_query_count"], settings["min_duration_ms"]) == (60_000, 2000)


def test_a_slow_arm_has_the_whole_data_set_once() -> None:
    assert performance_settings(OFFLINE, 100, 64 * 50_000, 10_000, seed=1)["min_query_count"] == 10_000


def test_an_offline_query_is_bounded_and_its_duration_with_it() -> None:
    # 1,000,000 images take 1 s.
    settings = performance_settings(OFFLINE, 10_000, 64 * 1000, 10_000, seed=1)
    assert (settings["min_query_count"], settings["min_duration_ms"]) == (MOST_GENERATED, 666)


@pytest.mark.parametrize(
    ("case", "expected_ns", "rate", "run_s"),
    [
        (SINGLE, 50_000, 0, 2),
        (SINGLE, 1_000_000_000, 0, 64),
        (MULTI, 500_000_000, 0, 331),
        # 10,000 images, of which 64 take 3.2 s.
        (OFFLINE, 3_200_000_000, 0, 500),
        (SERVER, 1_000_000, 100, 6.62),
        (SERVER, 1_000_000_000, 100, 662),
    ],
)
def test_a_run_is_expected_to_last_for_its_duration_or_for_its_fewest_queries(case, expected_ns, rate, run_s) -> None:
    settings = performance_settings(case, 2000, expected_ns, 10_000, seed=1, rate=rate)
    assert expected_run_ns(case, settings, expected_ns) == pytest.approx(run_s * 1e9)
