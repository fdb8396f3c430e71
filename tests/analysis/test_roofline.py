"""The limit of a case follows from the measured limits of the machine."""

from dataclasses import replace

import pytest

from bench.analysis.roofline import limit_of, peak_operations_per_s, roofline_points, traffic_rates
from bench.records import PRODUCT, TRAFFIC, Roof
from bench.run_info import ModelInfo, Work
from bench.suite.arms import Case
from tests.analysis.recorded_run import CASE as BATCH_OF_1
from tests.analysis.recorded_run import COMPILE, EAGER, JIT, inference_run, training_run

CASE = Case("cnn-small", "latency", 2, threads=1)
MODEL = ModelInfo("", "", trained=True, work=Work(1000, 100, 20, 10))
MS = 10**6


@pytest.fixture
def measured(tmp_path):
    """Return a function that makes a run from measured limits of the machine; every arm takes 8 us for a batch."""

    def make(*roofs, model=MODEL):
        builder = inference_run(tmp_path / "run", noise=0, eager=8000, aa=8000, compiled=8000, jit=8000)
        builder.records += roofs
        builder.records = [
            replace(record, case=CASE.id) if hasattr(record, "case") else record for record in builder.records
        ]
        lineups = {CASE.id: builder.info.lineups[BATCH_OF_1.id]}
        return builder.describe(cases=(CASE,), lineups=lineups, pairs=(), models={"cnn-small": model}).read()

    return make


def product(rate_per_s, precision="fp32", threads=1):
    return Roof(PRODUCT, "s", precision, threads, 2048, int(rate_per_s), (1,), (1000 * MS,))


def traffic(size, *rates_per_s, threads=1):
    counts, walls = (1,) * len(rates_per_s), (1000 * MS,) * len(rates_per_s)
    assert len(set(rates_per_s)) == 1
    return Roof(TRAFFIC, "o", "", threads, size, int(rates_per_s[0]), counts, walls)


def test_the_peak_is_the_fastest_product_at_the_precision_and_threads(measured) -> None:
    run = measured(product(1e9), product(3e9), product(9e9, "bf16"), product(8e9, threads=2))
    assert peak_operations_per_s(run, "fp32", 1) == 3e9
    assert peak_operations_per_s(run, "bf16", 1) == 9e9
    assert peak_operations_per_s(run, "int8", 1) is None


def test_the_rates_of_workers_that_run_at_the_same_time_add_up(measured) -> None:
    assert traffic_rates(measured(traffic(64, 1e9, 1e9)), 1) == {64: 2e9}


def test_the_longer_of_two_times_is_the_limit(measured) -> None:
    """4,000 operations; 100 parameters of 4 bytes and twice 30 elements of 4 bytes: 640 bytes."""
    compute = limit_of(measured(product(1e9), traffic(1024, 1e12)), CASE, "fp32")
    assert (compute.operations, compute.traffic_bytes) == (4000, 640)
    assert (compute.bound, compute.time_ns) == ("compute", pytest.approx(4000))
    memory = limit_of(measured(product(1e12), traffic(1024, 1e8)), CASE, "fp32")
    assert (memory.bound, memory.time_ns) == ("traffic", pytest.approx(6400))


def test_the_parameters_of_a_lower_precision_have_fewer_bytes(measured) -> None:
    run = measured(product(1e9, "int8"), traffic(1024, 1e9))
    assert limit_of(run, CASE, "int8").traffic_bytes == 100 + 240


def test_the_traffic_is_that_of_the_smallest_working_set_that_is_large_enough(measured) -> None:
    run = measured(product(1e9), traffic(512, 9e9), traffic(1024, 5e9), traffic(4096, 1e9))
    assert limit_of(run, CASE, "fp32").bytes_per_s == 5e9
    assert limit_of(run, replace(CASE, batch_size=1000), "fp32").bytes_per_s == 1e9


def test_each_arm_has_its_share_of_the_limit_and_the_replica_no_row(measured) -> None:
    points = roofline_points(measured(product(1e9), traffic(1024, 1e12)), CASE)
    assert [point.arm for point in points] == [EAGER, COMPILE, JIT]
    assert points[0].share == pytest.approx(0.5)
    assert points[0].operations_per_s == pytest.approx(0.5e9)


@pytest.mark.parametrize(
    ("roofs", "model"),
    [((), MODEL), ((product(1e9),), MODEL), ((product(1e9), traffic(1024, 1e9)), replace(MODEL, work=None)),
     ((product(0), traffic(1024, 1e9)), MODEL), ((product(1e9), traffic(1024, 0)), MODEL)],
)  # fmt: skip
def test_without_measured_limits_or_the_work_of_the_model_there_is_no_row(measured, roofs, model) -> None:
    assert roofline_points(measured(*roofs, model=model), CASE) == []


def test_arms_that_train_have_no_limit(tmp_path) -> None:
    builder = training_run(tmp_path / "run").describe(models={"cnn-small": MODEL})
    builder.records += product(1e9, threads=2), traffic(1024, 1e9, threads=2)
    run = builder.read()
    assert roofline_points(run, run.cases[0]) == []
