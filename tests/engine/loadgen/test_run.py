"""LoadGen drives the oracle and the null backend: real runs of a fraction of a second."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.engine.run import measure_run, total_weights
from bench.journal import read_journal
from bench.records import BlockEnd, Failure, LoadRun
from bench.suite.arms import LOADGEN
from bench.suite.plan import make_plan
from tests.engine.conftest import ORACLE, PRESET, REPLICA, SUITE
from tests.engine.test_run import ORIGIN, CountedSteps

LOAD_SUITE = replace(SUITE, scenarios=LOADGEN[:3], batch_sizes=(4,))
LOAD_PRESET = replace(PRESET, blocks=1, ladder_blocks=1, load_ms=100)


@pytest.fixture
def measured(tmp_path, few_images, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("bench.engine.loadgen.passes.GLUE_MS", 100)
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
    assert cases == ["cnn-small/single-stream/b1", "cnn-small/multi-stream/b8", "cnn-small/offline/b4"]
    assert {(run.case, run.arm) for run in runs} == {(case, arm.id) for case in cases for arm in (ORACLE, REPLICA)}
    assert {record.cases for record in records if isinstance(record, BlockEnd)} == {(case,) for case in cases}
    for run in runs:
        names = {path.name for path in (folder / run.folder).iterdir()}
        assert names == {f"loadgen_{name}" for name in ("detail.txt", "summary.txt", "accuracy.json", "trace.json")}
        assert not (folder / run.folder / "loadgen_trace.json").read_text()
        assert (
            run.result.queries
            >= {"SingleStream": 64, "MultiStream": 662, "Offline": 1}[run.result.effective["scenario"]]
        )
