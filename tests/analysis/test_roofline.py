"""The limit of a case follows from what was measured of the machine, and is exact where that is."""

import pytest

from bench.analysis.roofline import limit_of, peak_operations_per_s, reaches, traffic_rates
from bench.records import PRODUCT, TRAFFIC, Roof
from bench.suite.arms import Arm, Case

WORK = {"multiply_adds": 1000, "parameters": 100, "input_elements": 20, "output_elements": 10}
CASE, ARM = Case("net", "latency", 2), Arm("s", "v")
MS = 10**6


class Told:
    """Stands for a run: what its roofs are, and how long its arms take."""

    def __init__(self, *roofs, work=WORK, latency_ns=8000.0):
        self.roofs, self.info, self._latency = list(roofs), {"models": {"net": {"work": work}}}, latency_ns

    def threads(self, case):
        return case.threads or 1

    def lineup(self, case):
        return [ARM, Arm("s", "v", replica=True)]

    def typical_latency_ns(self, arm, case):
        return self._latency


def product(rate_per_s, precision="fp32", threads=1):
    return Roof(PRODUCT, "s", precision, threads, 2048, int(rate_per_s), (1,), (1000 * MS,))


def traffic(size, *rates_per_s, threads=1):
    counts, walls = (1,) * len(rates_per_s), (1000 * MS,) * len(rates_per_s)
    assert len(set(rates_per_s)) == 1
    return Roof(TRAFFIC, "o", "", threads, size, int(rates_per_s[0]), counts, walls)


def test_the_peak_is_the_fastest_product_at_the_precision_and_threads() -> None:
    run = Told(product(1e9), product(3e9), product(9e9, "bf16"), product(8e9, threads=2))
    assert peak_operations_per_s(run, "fp32", 1) == 3e9
    assert peak_operations_per_s(run, "bf16", 1) == 9e9
    assert peak_operations_per_s(run, "int8", 1) is None


def test_members_that_work_at_the_same_time_add_up() -> None:
    assert traffic_rates(Told(traffic(64, 1e9, 1e9)), 1) == {64: 2e9}


def test_the_longer_of_two_times_is_the_limit() -> None:
    """4,000 operations; 100 parameters of 4 bytes and twice 30 elements of 4 bytes: 640 bytes."""
    compute = limit_of(Told(product(1e9), traffic(1024, 1e12)), CASE, "fp32")
    assert (compute.operations, compute.traffic_bytes) == (4000, 640)
    assert (compute.bound, compute.time_ns) == ("compute", pytest.approx(4000))
    memory = limit_of(Told(product(1e12), traffic(1024, 1e8)), CASE, "fp32")
    assert (memory.bound, memory.time_ns) == ("traffic", pytest.approx(6400))


def test_lower_precisions_move_fewer_bytes_of_parameters() -> None:
    run = Told(product(1e9, "int8"), traffic(1024, 1e9))
    assert limit_of(run, CASE, "int8").traffic_bytes == 100 + 240


def test_the_traffic_is_that_of_the_smallest_working_set_that_is_large_enough() -> None:
    roofs = product(1e9), traffic(512, 9e9), traffic(1024, 5e9), traffic(4096, 1e9)
    assert limit_of(Told(*roofs), CASE, "fp32").bytes_per_s == 5e9
    assert limit_of(Told(*roofs), Case("net", "latency", 1000), "fp32").bytes_per_s == 1e9


def test_each_arm_has_its_share_of_the_limit_and_the_replica_no_row() -> None:
    (reach,) = reaches(Told(product(1e9), traffic(1024, 1e12), latency_ns=8000.0), CASE)
    assert reach.share == pytest.approx(0.5)
    assert reach.operations_per_s == pytest.approx(0.5e9)


@pytest.mark.parametrize("run", [Told(), Told(product(1e9)), Told(product(1e9), traffic(1024, 1e9), work=None)])
def test_without_roofs_or_the_work_of_the_model_there_is_no_row(run) -> None:
    assert reaches(run, CASE) == []


def test_arms_that_train_have_no_limit() -> None:
    assert reaches(Told(product(1e9), traffic(1024, 1e9)), Case("net", "training", 2)) == []
