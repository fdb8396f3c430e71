"""Sweeps over batch sizes and threads, measured in one run."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from bench.analysis.latency import AS_IT_WAS
from bench.analysis.run import Run
from bench.analysis.scaling import sweeps
from bench.console import Steps
from bench.engine.describe import Origin
from bench.engine.run import measure_run, total_weights
from bench.machine.facts import usable_cores
from bench.records import Choice, Start
from bench.suite.arms import BEST_THREADS, Arm, possible_splits
from bench.suite.plan import make_plan
from bench.suite.schedule import PRESETS
from bench.suite.selftest import equal_suite
from models import data
from tests.analysis.recorded_run import CASE, JIT, inference_run
from tests.shortened import IMAGES, shorten_preparations

ARM = Arm("oracle", "numpy")
ARMS = (ARM, replace(ARM, settings="plain"))
COUNTS = range(1, min(2, usable_cores()) + 1)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Measure three batch sizes, on one thread, on two if the machine has two cores, and on best threads."""
    folder = tmp_path_factory.mktemp("sweep")
    suite = equal_suite(ARM, ())
    suite = replace(suite, arm_patterns=ARMS, batch_sizes=(4, 1, 2), threads=(*COUNTS, BEST_THREADS))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(folder / ".cache"))
        shorten_preparations(IMAGES, patched.setattr)
        preset = replace(PRESETS["smoke"], slice_ns=1_000_000, warm_up_limit_ns=0, cold_starts=True)
        plan = make_plan(suite, preset, 1, usable_cores())
        steps = Steps(Console(file=StringIO()), total_weights(plan), None)
        assert measure_run(plan, data.load("synthetic"), folder, steps, Origin((), "", None)) == "complete"
    # At rest, a block in which the machine was busy is left out.
    return Run(folder, AS_IT_WAS)


def test_each_sweep_holds_every_arm_and_its_points_in_order(swept) -> None:
    measured = sweeps(swept)
    labels = [(sweep.over, sweep.label) for sweep in measured]
    if usable_cores() > 1:
        assert labels == [
            ("batch_size", "cnn-small, latency, 1 thread"),
            ("batch_size", "cnn-small, latency, 2 threads"),
            ("batch_size", "cnn-small, latency, best threads"),
            *(("threads", f"cnn-small, latency, batch {size}") for size in (4, 1, 2)),
        ]
    for sweep in measured[:3] if usable_cores() > 1 else measured[:2]:
        assert [case.batch_size for case in sweep.cases] == [1, 2, 4]
        assert [curve.arm.id for curve in sweep.curves] == ["oracle/numpy", "oracle/numpy+plain"]


def test_a_gain_is_paired_by_block_over_the_first_case(swept) -> None:
    curve = sweeps(swept)[0].curves[0]
    assert curve.points[0].gain is None
    assert [point.gain.blocks for point in curve.points[1:]] == [2, 2]


def test_the_threads_of_a_case_are_those_of_its_processes(swept) -> None:
    for proof in swept.proofs.values():
        (case,) = [case for case in swept.cases if case.id == proof.case]
        (arm,) = [arm for arm in swept.arms if arm.id == proof.arm]
        assert proof.threads == swept.split(arm, case).cores
        if case.threads != BEST_THREADS:
            assert proof.threads == case.threads


def test_best_threads_were_chosen_from_all_counts_before_the_proofs(swept) -> None:
    choices = swept.of(Choice)
    assert {(choice.arm, choice.case) for choice in choices} == {
        (arm.id, case.id) for arm in ARMS for case in swept.cases if case.threads == BEST_THREADS
    }
    for choice in choices:
        times = {trial.threads: trial.time_ns for trial in choice.trials}
        assert list(times) == [split.threads for split in possible_splits("latency", usable_cores())]
        assert len(times) == 1 or times[choice.threads] == min(times.values())
    kinds = [type(record) for record in swept.records]
    assert max(place for place, kind in enumerate(kinds) if kind is Choice) < kinds.index(Start)


def test_best_threads_are_the_last_column_of_a_sweep_and_have_no_place_on_its_axis(swept) -> None:
    by_threads = [sweep for sweep in sweeps(swept) if sweep.over == "threads"]
    assert len(by_threads) == 3
    for sweep in by_threads:
        assert [case.threads for case in sweep.cases] == [*COUNTS, BEST_THREADS]
        assert sweep.heading(sweep.cases[-1]) == "best threads"
        assert sweep.places == [*COUNTS]
        assert [[point.case for point in curve.points] for curve in sweep.curves] == [[*sweep.cases]] * len(ARMS)


def test_cases_with_equal_batch_sizes_and_threads_are_not_a_sweep(tmp_path) -> None:
    assert sweeps(inference_run(tmp_path / "run").read()) == []


def test_an_arm_that_was_not_measured_on_the_first_case_has_no_gain(tmp_path) -> None:
    """Latencies of 100 us for each of the batch sizes 1, 2 and 4: one arm was measured on the last two only."""
    builder, cases = inference_run(tmp_path / "run", noise=0), [replace(CASE, batch_size=size) for size in (1, 2, 4)]
    records = [record for record in builder.records if hasattr(record, "case")]
    builder.records += [replace(record, case=case.id) for case in cases[1:] for record in records]
    builder.remove(lambda record: (getattr(record, "arm", ""), getattr(record, "case", "")) == (JIT.id, CASE.id))
    builder.describe(cases=tuple(cases), lineups={case.id: builder.info.lineups[CASE.id] for case in cases})
    (sweep,) = sweeps(builder.read())
    curves = {curve.arm.id: curve.points for curve in sweep.curves}
    assert list(curves) == ["pytorch/eager", "pytorch/compile", "ipex/jit"]
    assert [point.images_per_s for point in curves["ipex/jit"]] == pytest.approx([20_000, 40_000])
    assert [point.gain for point in curves["ipex/jit"]] == [None, None]
    first, *others = curves["pytorch/eager"]
    assert first.gain is None
    assert [point.gain.speedup for point in others] == pytest.approx([2, 4])
    assert [sweep.heading(case) for case in sweep.cases] == ["1", "2", "4"]
