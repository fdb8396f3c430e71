"""How LoadGen is set for each scenario: explicit values only, never its configuration files."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from bench.suite.arms import MULTI_STREAM, OFFLINE, SERVER, SINGLE_STREAM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.suite.arms import Case

LOADGEN_NAMES = {
    SINGLE_STREAM: "SingleStream",
    MULTI_STREAM: "MultiStream",
    OFFLINE: "Offline",
    SERVER: "Server",
}
PERFORMANCE_ONLY = "PerformanceOnly"
# The percentile of the latencies that counts, and the fewest queries from which LoadGen can tell it.
PERCENTILES = {SINGLE_STREAM: (0.90, 64), MULTI_STREAM: (0.99, 662), SERVER: (0.99, 662)}
# How many images LoadGen draws its queries from at a time, except for offline, where it takes all of them.
LOADED_SAMPLES = 1024
# LoadGen makes all of its queries in advance: twice as many as would be needed at the expected latency. That is a
# fraction of the latency in the warm-up, so that it never runs out of queries.
EXPECTED_SHARE = 0.5
# The most queries, or samples of the offline query, that are made in advance. Each takes 360 bytes for single-stream,
# 430 for offline and 690 for multi-stream.
MOST_GENERATED, GENERATED_BYTES = 1_000_000, 700
# How much longer than the minimum duration an offline query is expected to take: shorter ones are not valid.
OFFLINE_MARGIN = 1.5
MAX_LOAD_SEED = 2**31


def percentile_name(scenario: str) -> str:
    """Return the name of the scenario's percentile in LoadGen's log."""
    return f"{PERCENTILES[scenario][0] * 100:.2f}"


def time_title(case: Case) -> str:
    """Return the name of the time that counts in a case of LoadGen."""
    if case.scenario == OFFLINE:
        return f"Time per {case.batch_size} images"
    return f"p{PERCENTILES[case.scenario][0] * 100:g}"


def performance_settings(
    case: Case, load_ms: int, expected_ns: float, images: int, seed: int, rate: float = 0.0, bound_ns: int = 0
) -> dict[str, float]:
    """Return the settings of a performance run, whose queries are expected to take `expected_ns`.

    For offline that is the time per batch, and the query has all images, as often as they fill the duration. For
    server, `rate` queries a second are due, and the `bound_ns` is that of the latency.
    """
    settings: dict[str, float] = {"min_duration_ms": load_ms, **_seeds(seed)}
    if case.scenario == OFFLINE:
        sample_ns = expected_ns / case.batch_size
        wanted = max(1, ceil(OFFLINE_MARGIN * load_ms * 1e6 / (sample_ns * images)))
        repeats = min(wanted, max(1, MOST_GENERATED // images))
        if repeats < wanted:
            # So many samples take less than the duration that was wanted.
            settings["min_duration_ms"] = int(repeats * images * sample_ns / 1e6 / OFFLINE_MARGIN)
        # The query must not become longer by LoadGen's own expectation.
        return settings | {"min_query_count": repeats * images, "offline_expected_qps": 1.0}
    percentile, fewest = PERCENTILES[case.scenario]
    settings["min_query_count"] = fewest
    if case.scenario == SERVER:
        return settings | {
            "server_target_qps": rate,
            "server_target_latency_ns": bound_ns,
            "server_target_latency_percentile": percentile,
        }
    name = "single_stream" if case.scenario == SINGLE_STREAM else "multi_stream"
    # LoadGen makes twice as many as this allows for.
    least_ns = 2 * load_ms * 1e6 / MOST_GENERATED
    settings[f"{name}_expected_latency_ns"] = max(EXPECTED_SHARE * expected_ns, least_ns)
    settings[f"{name}_target_latency_percentile"] = percentile
    if case.scenario == MULTI_STREAM:
        settings["multi_stream_samples_per_query"] = case.batch_size
    return settings


def expected_run_ns(case: Case, settings: Mapping[str, float], expected_ns: float) -> float:
    """Return how long a performance run with these settings is expected to take, from the same `expected_ns`."""
    query_ns = expected_ns
    if case.scenario == OFFLINE:
        # Its settings count samples.
        query_ns /= case.batch_size
    elif case.scenario == SERVER:
        query_ns = max(query_ns, 1e9 / settings["server_target_qps"])
    return max(settings["min_duration_ms"] * 1e6, settings["min_query_count"] * query_ns)


def accuracy_settings(case: Case) -> dict[str, float]:
    """Return the settings of an accuracy run, in which LoadGen asks for each image once."""
    settings: dict[str, float] = {"min_duration_ms": 0, "min_query_count": 1, **_seeds(0)}
    if case.scenario == MULTI_STREAM:
        settings["multi_stream_samples_per_query"] = case.batch_size
    if case.scenario == SERVER:
        # All queries are due at once.
        settings["server_target_qps"] = 1e6
    return settings


def _seeds(seed: int) -> dict[str, float]:
    """Return the seeds of LoadGen's generators: its queries are the same for all arms of a block."""
    return dict.fromkeys(("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed"), (seed + 1) % MAX_LOAD_SEED)
