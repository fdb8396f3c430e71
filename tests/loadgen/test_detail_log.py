"""Logs of LoadGen: verdict, figures, settings, labels."""

import json

import pytest

from bench.loadgen.detail_log import DetailLogError, load_result, read_details, read_labels
from bench.suite.arms import Case

SINGLE, OFFLINE = Case("cnn-small", "single-stream", 1), Case("cnn-small", "offline", 64)
ASKED = {"min_duration_ms": 500, "min_query_count": 64, "single_stream_expected_latency_ns": 5000.0}
DETAILS = {
    "effective_scenario": "SingleStream",
    "effective_min_duration_ms": 500,
    "effective_min_query_count": 64,
    "effective_target_qps": 200000,
    "generated_query_count": 200001,
    "result_validity": "VALID",
    "result_min_duration_met": True,
    "result_min_queries_met": True,
    "early_stopping_met": True,
    "result_query_count": 4000,
    "result_mean_latency_ns": 125_000,
    "result_50.00_percentile_latency_ns": 120_000,
    "result_90.00_percentile_latency_ns": 130_000,
    "num_errors": 0,
}


def test_the_details_are_the_values_of_the_marked_lines(tmp_path) -> None:
    lines = [":::MLLOG " + json.dumps({"key": key, "value": value, "time_ms": 1}) for key, value in DETAILS.items()]
    (tmp_path / "loadgen_detail.txt").write_text("\n".join(["some other line", *lines]))
    assert read_details(tmp_path) == DETAILS


@pytest.mark.parametrize("text", [":::MLLOG {", ":::MLLOG []", ':::MLLOG {"key": "a"}'])
def test_a_damaged_log_is_an_error_that_names_the_file(tmp_path, text) -> None:
    (tmp_path / "loadgen_detail.txt").write_text(text)
    with pytest.raises(DetailLogError, match=r"loadgen_detail\.txt can't be read"):
        read_details(tmp_path)


def test_a_missing_log_is_an_error(tmp_path) -> None:
    with pytest.raises(DetailLogError, match="No such file"):
        read_details(tmp_path)


def test_the_percentile_of_the_scenario_counts() -> None:
    result = load_result(SINGLE, ASKED, DETAILS)
    assert (result.valid, result.reasons, result.time_ns, result.queries) == (True, (), 130_000, 4000)
    assert (result.samples_per_s, result.generated) == (8000, 200001)
    assert result.percentiles_ns == {"50.00": 120_000, "90.00": 130_000}
    assert result.effective["target_qps"] == "200000"


def test_offline_has_the_time_per_batch() -> None:
    details = DETAILS | {
        "effective_scenario": "Offline",
        "effective_min_query_count": 1,
        "effective_min_sample_count": 10000,
        "result_samples_per_second": 64_000,
    }
    assert load_result(OFFLINE, {"min_query_count": 10000}, details).time_ns == 1_000_000


def test_a_run_that_is_not_valid_has_reasons() -> None:
    details = DETAILS | {"result_validity": "INVALID", "result_min_duration_met": False, "early_stopping_met": False}
    result = load_result(SINGLE, ASKED, details)
    assert (result.valid, result.reasons) == (False, ("minimum duration", "early stopping"))


def test_errors_in_the_log_make_a_run_invalid() -> None:
    result = load_result(SINGLE, ASKED, DETAILS | {"num_errors": 2})
    assert (result.valid, result.reasons) == (False, ("2 errors in LoadGen's log",))


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [("min_duration_ms", 10000, "min_duration_ms 10000, asked for 500"), ("scenario", "Server", "scenario Server")],
)
def test_other_settings_than_those_asked_for_are_an_error(key, value, shown) -> None:
    with pytest.raises(DetailLogError, match=shown):
        load_result(SINGLE, ASKED, DETAILS | {f"effective_{key}": value})


def test_a_log_without_a_result_is_an_error() -> None:
    details = {key: value for key, value in DETAILS.items() if key != "result_validity"}
    with pytest.raises(DetailLogError, match="no result"):
        load_result(SINGLE, ASKED, details)


def test_labels_are_read_by_image(tmp_path) -> None:
    entries = [{"seq_id": 0, "qsl_idx": 7, "data": "09"}, {"seq_id": 1, "qsl_idx": 2, "data": "00"}]
    (tmp_path / "loadgen_accuracy.json").write_text(json.dumps(entries))
    assert read_labels(tmp_path) == {7: 9, 2: 0}


def test_damaged_labels_are_an_error(tmp_path) -> None:
    (tmp_path / "loadgen_accuracy.json").write_text("[{}]")
    with pytest.raises(DetailLogError, match=r"loadgen_accuracy\.json can't be read"):
        read_labels(tmp_path)
