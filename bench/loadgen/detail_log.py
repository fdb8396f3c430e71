"""Read what LoadGen has written: its verdict, its figures, and the settings that were in force."""

from __future__ import annotations

import json
import re
from math import isclose
from typing import TYPE_CHECKING, Any

from bench.loadgen.settings import LOADGEN_NAMES, percentile_name
from bench.records import LoadResult
from bench.suite.arms import OFFLINE, SERVER

if TYPE_CHECKING:
    from pathlib import Path

    from bench.suite.arms import Case

DETAIL_LOG, ACCURACY_LOG = "loadgen_detail.txt", "loadgen_accuracy.json"
MARK = ":::MLLOG "
EFFECTIVE = "effective_"
# What LoadGen checks, by the key of its log.
CHECKS = {
    "result_min_duration_met": "minimum duration",
    "result_min_queries_met": "minimum number of queries",
    "result_perf_constraints_met": "latency bound",
    "early_stopping_met": "early stopping",
}


class DetailLogError(ValueError):
    """A log of LoadGen that is missing, incomplete, or of a run with other settings."""


def read_details(folder: Path) -> dict[str, Any]:
    """Return the values of the detail log by key; raises DetailLogError."""
    try:
        lines = (folder / DETAIL_LOG).read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK)]
        return {entry["key"]: entry["value"] for entry in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DetailLogError(f"LoadGen's log {folder / DETAIL_LOG} can't be read ({error})") from error


def load_result(case: Case, asked: dict[str, float], details: dict[str, Any]) -> LoadResult:
    """Return the result of a performance run with the settings that were `asked` for; raises DetailLogError."""
    try:
        effective = {key.removeprefix(EFFECTIVE): value for key, value in details.items() if key.startswith(EFFECTIVE)}
        require_settings(case, asked, effective)
        percentiles = {
            key.removeprefix("result_").removesuffix("_percentile_latency_ns"): float(value)
            for key, value in details.items()
            if key.endswith("_percentile_latency_ns")
        }
        reasons = [name for key, name in CHECKS.items() if details.get(key) is False]
        if details["num_errors"]:
            reasons.append(f"{details['num_errors']} errors in LoadGen's log")
        mean_ns, queries = float(details["result_mean_latency_ns"]), int(details["result_query_count"])
        if case.scenario == OFFLINE:
            rate = float(details["result_samples_per_second"])
            time_ns = case.batch_size * 1e9 / rate
        else:
            key = "result_completed_samples_per_sec" if case.scenario == SERVER else ""
            rate = float(details[key]) if key else case.batch_size * 1e9 / mean_ns
            time_ns = percentiles[percentile_name(case.scenario)]
        return LoadResult(
            valid=details["result_validity"] == "VALID" and not details["num_errors"],
            reasons=tuple(reasons),
            time_ns=time_ns,
            queries=queries,
            samples_per_s=rate,
            mean_ns=mean_ns,
            percentiles_ns=percentiles,
            effective={key: str(value) for key, value in effective.items()},
            generated=int(details["generated_query_count"]),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, DetailLogError):
            raise
        raise DetailLogError(f"LoadGen's log has no result ({error!r})") from error


def require_settings(case: Case, asked: dict[str, Any], effective: dict[str, Any]) -> None:
    """Raise DetailLogError unless LoadGen ran with the settings that it was given."""
    asked = {"scenario": LOADGEN_NAMES[case.scenario], **asked}
    if case.scenario == OFFLINE:
        # Its only query has all samples.
        asked["min_sample_count"] = asked.pop("min_query_count")
    for key, value in asked.items():
        name = re.sub("^(single_stream|multi_stream|server)_", "", key)
        # LoadGen does not log an expected latency, and rounds a rate.
        if name in effective and not _is_same(effective[name], value):
            raise DetailLogError(f"LoadGen ran with {name} {effective[name]}, asked for {value}")


def _is_same(logged: Any, asked: Any) -> bool:
    return logged == asked if isinstance(asked, str) else isclose(logged, asked, rel_tol=1e-5)


def read_labels(folder: Path) -> dict[int, int]:
    """Return the label of each image from the log of an accuracy run; raises DetailLogError."""
    try:
        entries = json.loads((folder / ACCURACY_LOG).read_text(encoding="utf-8"))
        return {int(entry["qsl_idx"]): int(entry["data"], 16) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DetailLogError(f"LoadGen's log {folder / ACCURACY_LOG} can't be read ({error})") from error
