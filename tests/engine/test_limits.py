from dataclasses import replace

import pytest

from bench.engine import limits as module
from bench.engine.limits import measure_limits, measure_overhead
from bench.engine.workers import WorkerError
from bench.records import PRODUCT, TRAFFIC, Failure, Overhead, Roof
from bench.worker.messages import Build, BuildReply, LimitReply, MeasureLimit, RunSlice, SliceReply
from tests.engine.conftest import ONE, FakeGroup


class CountedSteps(list):
    def step(self, weight: float, what: str, kind: str) -> None:
        self.append((weight, what))


@pytest.fixture
def groups(monkeypatch):
    """Return the groups that were started, whose workers make 4 calls in 100 ns."""
    groups = []

    def start_group(context, environment, threads, workers):
        groups.append(FakeGroup({MeasureLimit: lambda _: LimitReply(4, 100)}, workers))
        return groups[-1]

    monkeypatch.setattr(module, "_start_group", start_group)
    monkeypatch.setattr(module, "quiet_cores", lambda count: list(range(count)))
    return groups


def test_limits_are_measured_for_each_number_of_threads(context, tally, groups) -> None:
    suite = replace(context.plan.suite, threads=(1, 2))
    steps = CountedSteps()
    measure_limits(replace(context, plan=replace(context.plan, suite=suite)), tally, steps)
    assert steps == [(module.LIMIT_WEIGHT, f"limits of the machine, {label}") for label in ("1 thread", "2 threads")]
    products = [record for record in tally.journal.of(Roof) if record.what == PRODUCT]
    assert [(record.stack, record.precision, record.threads) for record in products] == [
        ("oracle", "fp32", threads) for threads in (1, 2) for _ in range(module.REPEATS)
    ]
    assert {(record.size, record.work, record.counts, record.walls_ns) for record in products} == {
        (2048, 2 * 2048**3, (4,), (100,))
    }


def test_memory_traffic_is_shared_by_single_threaded_workers_with_a_core_each(context, tally, groups) -> None:
    suite = replace(context.plan.suite, threads=(2,))
    measure_limits(replace(context, plan=replace(context.plan, suite=suite)), tally, CountedSteps())
    traffic = [record for record in tally.journal.of(Roof) if record.what == TRAFFIC]
    assert [record.size for record in traffic] == [
        size for size in module.WORKING_SETS_BYTES for _ in range(module.REPEATS)
    ]
    assert all(record.work == record.size // 2 // 12 * 12 for record in traffic)
    assert {(record.threads, record.counts, record.precision) for record in traffic} == {(2, (4, 4), "")}
    requests = groups[-1].requests
    assert {request.cores for request in requests} == {(0,), (1,)}
    assert {request.precision for request in requests} == {None}
    assert [request.size for request in requests[::2]] == [record.work for record in traffic]
    starts = [request.begin_ns for request in requests]
    assert starts[::2] == starts[1::2]


def test_a_limit_that_can_not_be_measured_is_left_out(context, tally, groups, monkeypatch) -> None:
    def fail(*_):
        raise WorkerError("no")

    monkeypatch.setattr(module, "_measure_products", fail)
    measure_limits(context, tally, CountedSteps())
    assert {record.what for record in tally.journal.of(Roof)} == {TRAFFIC}
    assert not tally.journal.of(Failure)


@pytest.fixture
def null_worker(monkeypatch):
    """Return the replies of the worker of the null backend, and the requests that it gets."""
    replies = {Build: lambda _: BuildReply(1, 2, 3), RunSlice: lambda _: SliceReply((5, 6), 11, 11, 0)}
    requests = []

    class FakeWorker(FakeGroup):
        def __init__(self, python, variables, log, cwd, *, urgent) -> None:
            super().__init__(replies)
            assert urgent

        def request(self, request, timeout_s):
            requests.append(request)
            return super().request(request, timeout_s)[0]

    monkeypatch.setattr(module, "Worker", FakeWorker)
    return replies, requests


def test_the_overhead_is_that_of_the_null_backend(context, tally, null_worker) -> None:
    measure_overhead(context, tally)
    assert tally.journal == [Overhead((5, 6))]
    build, work = null_worker[1]
    assert (build.stack, build.variant, build.case, build.threads, build.cores, build.wait) == (
        "null", "constant", ONE.id, 1, None, 0.0,
    )  # fmt: skip
    assert (work.lead_in, work.budget_ns, work.asynchronous) == (1000, 10_000_000, False)


def test_an_overhead_that_can_not_be_measured_is_a_failure(context, tally, null_worker) -> None:
    def fail(_):
        raise WorkerError("exited")

    null_worker[0][Build] = fail
    measure_overhead(context, tally)
    assert tally.journal == [Failure("null/constant", ONE.id, None, "exited")]
