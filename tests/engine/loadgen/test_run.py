"""LoadGen drives the oracle and the null backend: real runs of a fraction of a second."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from bench.engine.run import measure_run, total_weights
from bench.journal import read_journal
from bench.loadgen.detail_log import read_details
from bench.records import BlockEnd, Failure, Glue, LoadAccuracy, LoadRun, LoadSearch
from bench.report.run_report import exit_status, write_report
from bench.suite.arms import LOADGEN, Batching
from bench.suite.plan import make_plan
from tests.engine.conftest import ORACLE, PRESET, REPLICA, SUITE
from tests.engine.test_run import ORIGIN, CountedSteps

BATCHED = replace(ORACLE, batching=Batching(largest=4, wait_us=5000))
WORKERS = replace(ORACLE, workers=True)
# The bound is so long that runs are valid whatever else the machine does.
LOAD_SUITE = replace(
    SUITE, scenarios=LOADGEN, batch_sizes=(4,), arm_patterns=(ORACLE, BATCHED, WORKERS), server_bound_us=10_000_000
)
LOAD_PRESET = replace(PRESET, blocks=1, ladder_blocks=1, load_ms=100)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, few_images):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield measure(tmp_path_factory.mktemp("loadgen"), few_images, monkeypatch)


def measure(tmp_path, few_images, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("bench.engine.loadgen.passes.GLUE_MS", 100)
    monkeypatch.setattr("bench.loadgen.search.WINNER_RUNS", 1)
    monkeypatch.setattr("bench.loadgen.search.MOST_RUNS", 4)
    folder, steps = tmp_path / "run", CountedSteps()
    folder.mkdir()
    plan = make_plan(LOAD_SUITE, LOAD_PRESET, seed=1, threads=1)
    status = measure_run(plan, few_images, folder, steps, ORIGIN)
    assert status == "complete"
    assert steps.weights == pytest.approx({kind: weight for kind, weight in total_weights(plan).items() if weight})
    return folder, read_journal(folder)


def test_every_arm_has_a_valid_run_of_its_own_in_every_scenario(measured) -> None:
    folder, records = measured
    assert not [record for record in records if isinstance(record, Failure)]
    runs = [record for record in records if isinstance(record, LoadRun)]
    cases = [case.id for case in LOAD_SUITE.cases]
    assert cases == [f"cnn-small/{name}" for name in ("single-stream/b1", "multi-stream/b8", "offline/b4", "server/b1")]
    expected = {(case, arm.id) for case in cases for arm in (ORACLE, REPLICA)} | {(cases[-1], BATCHED.id)}
    expected |= {(case, WORKERS.id) for case in cases[2:]}
    assert {(run.case, run.arm) for run in runs} == expected
    assert {record.cases for record in records if isinstance(record, BlockEnd)} == {(case,) for case in cases}
    for run in runs:
        names = {path.name for path in (folder / run.folder).iterdir()}
        assert names == {f"loadgen_{name}" for name in ("detail.txt", "summary.txt", "accuracy.json", "trace.json")}
        assert not (folder / run.folder / "loadgen_trace.json").read_text()
        assert (
            run.result.queries
            >= {"SingleStream": 64, "MultiStream": 662, "Offline": 1, "Server": 662}[run.result.effective["scenario"]]
        )


def test_a_server_gets_the_same_queries_for_all_arms_at_a_rate_that_the_slowest_can_take(measured) -> None:
    _, records = measured
    searches = [record for record in records if isinstance(record, LoadSearch)]
    assert {search.arm for search in searches} == {ORACLE.id, BATCHED.id, WORKERS.id}
    for search in searches:
        assert {probe.valid for probe in search.probes if probe.rate == search.rate} == {True}
        assert search.bound_ns == 10_000_000_000
    runs = [record for record in records if isinstance(record, LoadRun) and "server" in record.case]
    (rate,) = {run.result.effective["target_qps"] for run in runs}
    assert float(rate) == pytest.approx(min(search.rate for search in searches) / 2, rel=1e-4)
    assert len({run.result.effective["schedule_rng_seed"] for run in runs}) == 1
    # Latencies begin when a query is due, which is before LoadGen issues it.
    assert all(run.issue_delay_ns > 0 for run in runs)


def test_loadgens_accuracy_mode_asks_for_every_image(measured, few_images) -> None:
    folder, records = measured
    accuracies = [record for record in records if isinstance(record, LoadAccuracy)]
    assert len(accuracies) == len(LOAD_SUITE.cases) + 3
    for record in accuracies:
        assert (record.images, record.agreement) == (len(few_images.test_labels), 1.0)
        entries = json.loads((folder / record.folder / "loadgen_accuracy.json").read_text())
        # The last query of multi-stream is filled up with images that were asked for already.
        assert {entry["qsl_idx"] for entry in entries} == set(range(record.images))


def test_the_cost_of_loadgen_is_measured_with_a_backend_that_does_nothing(measured) -> None:
    folder, records = measured
    (glue,) = [record for record in records if isinstance(record, Glue)]
    (logs,) = folder.glob("logs/loadgen/*/*/glue")
    assert 0 < glue.median_ns <= glue.p90_ns
    assert 0 < read_details(logs)["result_mean_latency_ns"] < glue.interval_ns
    assert glue.queries >= 64


def test_the_report_shows_verdicts_rates_settings_and_the_cost(measured) -> None:
    """The machine may change its speed between a run's estimate and the run: then it is too short, and INVALID."""
    folder, records = measured
    loads = [load for load in records if isinstance(load, LoadRun)]
    valid = [load.result.valid for load in loads]
    invalid = {(load.arm, load.case) for load in loads if not load.result.valid}
    console = Console(file=StringIO(), width=200)
    run = write_report(folder, console)
    compared = {(arm.id, pair.case.id) for pair in run.pairs for arm in (pair.arm, pair.baseline)}
    assert exit_status(run) == (1 if invalid & compared else 0)
    page = (folder / "report.md").read_text()
    section = page[page.index("## LoadGen") :]
    for text in (
        *(f"{count:d} of 1" for count in set(valid)),
        "Highest valid rate",
        "test\\_mode PerformanceOnly",
        "LoadGen's cost with a backend",
    ):
        assert text in section
    assert "LoadGen's cost with a backend that does nothing" in console.file.getvalue()
    rows = list(csv.DictReader((folder / "loadgen.csv").read_text().splitlines()))
    assert Counter(row["verdict"] == "VALID" for row in rows) == Counter(valid)
    assert "mlperf" not in page.lower()
