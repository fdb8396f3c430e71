import os
from dataclasses import replace

import pytest

from bench.engine import build as module
from bench.engine.build import build_sessions, can_move, core_sets, move_group, start_group, workers_and_threads
from bench.engine.workers import Unsupported, WorkerError
from bench.suite.arms import Arm, Case, Split
from bench.suite.user_variables import UserVariables
from bench.suite.variables import SETTINGS, restart_variables
from bench.worker.messages import Build, BuildReply, Move, MoveReply
from tests.engine.conftest import ONE, ORACLE, FakeGroup

THROUGHPUT = Case("cnn-small", "throughput", 1, threads=4)


QUEUE = Arm("openvino", "throughput")


@pytest.mark.parametrize(
    ("arm", "split", "expected"),
    [
        (ORACLE, Split(1, 4), (1, 4)),
        (ORACLE, Split(4, 1), (4, 1)),
        (ORACLE, Split(4, 2), (4, 2)),
        (QUEUE, Split(4, 2), (1, 8)),
    ],
    ids=["one stream", "one thread each", "several threads each", "asynchronous"],
)
def test_each_stream_has_a_worker_unless_one_process_has_them_all(arm, split, expected) -> None:
    assert workers_and_threads(arm, split) == expected


def test_the_workers_of_a_group_get_a_core_each_and_the_slowest_counts(context, tally) -> None:
    replies = iter([BuildReply(1, 9, 3), BuildReply(4, 2, 8)])
    group = FakeGroup({Build: lambda _: next(replies)}, workers=2)
    slowest = build_sessions(context, tally, group, ORACLE, THROUGHPUT, Split(2, 1), [3, 5], reported=False)
    assert slowest == BuildReply(4, 9, 8)
    assert [request.cores for request in group.requests] == [(3,), (5,)]
    assert {(request.threads, request.streams) for request in group.requests} == {(1, 1)}


def test_workers_with_several_threads_get_disjoint_sets_of_neighbouring_cores(context, tally, monkeypatch) -> None:
    """Eight logical cores: n and n + 4 are on one physical core; the even ones are on another memory node."""
    monkeypatch.setattr(module.facts, "siblings", lambda core: [core % 4, core % 4 + 4])
    monkeypatch.setattr(module.facts, "node_of", lambda core: core % 2)
    group = FakeGroup({Build: lambda _: BuildReply(1, 2, 3)}, workers=4)
    build_sessions(context, tally, group, ORACLE, THROUGHPUT, Split(4, 2), range(8), reported=False)
    assert [request.cores for request in group.requests] == [(0, 4), (2, 6), (1, 5), (3, 7)]
    assert {request.threads for request in group.requests} == {2}


def test_the_streams_of_an_asynchronous_process_share_its_threads(context, tally, monkeypatch) -> None:
    monkeypatch.setattr(module, "converted_files", lambda *_: None)
    group = FakeGroup({Build: lambda _: BuildReply(1, 2, 3)})
    build_sessions(context, tally, group, QUEUE, THROUGHPUT, Split(4, 2), range(8), reported=False)
    (request,) = group.requests
    assert (request.cores, request.threads, request.streams) == (tuple(range(8)), 8, 4)


def test_a_single_worker_gets_all_cores(context, tally) -> None:
    group = FakeGroup({Build: lambda _: BuildReply(1, 2, 3)})
    built = build_sessions(context, tally, group, ORACLE, ONE, Split(1, 1), [3, 5], reported=True)
    assert built == BuildReply(1, 2, 3)
    (request,) = group.requests
    assert request == Build(
        case=ONE.id, stack="oracle", variant="numpy", model="cnn-small", precision="fp32", batch_size=1, threads=1,
        cores=(3, 5), weights=str(context.models["cnn-small"].file), images=str(context.scratch / "test-images.npy"),
        calibration=str(context.scratch / "calibration.npy"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("scenario", "threads", "usable", "quota", "sets"),
    [
        ("latency", 1, 4, 4, [(0,), (1,), (2,), (3,)]),
        ("latency", 2, 5, 5, [(0, 1), (2, 3)]),
        ("latency", 1, 8, 2, [(0,), (1,)]),
        ("latency", 2, 2, 2, [(0, 1)]),
        ("latency", 3, 8, 8, [(0, 1, 2)]),
        ("throughput", 3, 8, 8, [(0, 1, 2), (3, 4, 5)]),
        ("training", 1, 4, 4, [(0,)]),
    ],
)
def test_arms_start_on_disjoint_sets_of_cores_if_they_can_move(
    scenario, threads, usable, quota, sets, monkeypatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)))
    monkeypatch.setattr(module.facts, "usable_cores", lambda: quota)
    assert core_sets(Case("cnn-small", scenario, 1), range(threads)) == sets


def test_a_stack_that_binds_its_threads_can_not_move() -> None:
    assert can_move(ORACLE, Split(1, 2))
    assert not can_move(Arm("openvino", "latency"), Split(1, 2))


def test_a_process_with_more_than_two_threads_can_not_move() -> None:
    assert can_move(ORACLE, Split(8, 1))
    assert not can_move(ORACLE, Split(1, 3))


def test_each_worker_of_a_group_moves_from_its_core_to_another() -> None:
    group = FakeGroup({}, workers=2)
    move_group(group, [3, 5], [0, 1])
    assert group.requests == [Move((3,), (0,)), Move((5,), (1,))]


def test_a_thread_that_may_use_yet_other_cores_after_the_move_is_an_error() -> None:
    group = FakeGroup({Move: lambda _: MoveReply((1, 2))})
    with pytest.raises(WorkerError, match=r"its threads may use the cores \(1, 2\), moved to \(0, 1\)"):
        move_group(group, [4, 5], [0, 1])


def test_a_group_starts_with_its_variables_log_and_priority(context, tmp_path, monkeypatch) -> None:
    started = []

    def start(python, variables, log, cwd, *, urgent, place):
        started.append((variables, log, cwd, urgent, place))

    monkeypatch.setattr(module, "Worker", start)
    through = (("enter", "here"), ("enter", "there"))
    start_group(context, ORACLE, Split(3, 4), tmp_path, restart_variables(), through)
    assert [place for *_, place in started] == [*through, through[0]]
    variables, log, cwd, urgent, _ = started[0]
    assert variables["OMP_NUM_THREADS"] == "4"
    assert restart_variables().items() <= variables.items()
    assert (log, cwd, urgent) == (context.folder / "logs" / "oracle-numpy.log", context.scratch, True)


def test_a_group_gets_the_users_variables_and_all_preloaded_libraries(context, monkeypatch, tmp_path) -> None:
    started = []
    monkeypatch.setattr(module, "Worker", lambda _, variables, *__, **___: started.append(variables))
    monkeypatch.setattr("bench.suite.variables.SETTINGS", {"bound": replace(SETTINGS["bound"], preload="bin/python")})
    given = {"A": "b", "LD_PRELOAD": "/lib/own.so"}
    plan = replace(context.plan, variables=UserVariables(given))
    start_group(replace(context, plan=plan), ORACLE, Split(1, 1), tmp_path, restart_variables())
    python = plan.environments["oracle"].folder / "bin/python"
    assert (started[0]["A"], started[0]["LD_PRELOAD"]) == ("b", f"{python}:/lib/own.so")


def test_an_arm_that_compiles_is_not_started_where_that_can_not_work(context, monkeypatch, tmp_path) -> None:
    environment = context.plan.environments["oracle"]
    monkeypatch.setitem(context.plan.environments, "pytorch", environment)
    monkeypatch.setattr(module, "compile_obstacle", lambda folder: f"no compiler for {folder.name}")
    monkeypatch.setattr(module, "WorkerGroup", lambda starts, _: starts)
    with pytest.raises(WorkerError, match=f"no compiler for {environment.folder.name}"):
        start_group(context, Arm("pytorch", "compile"), Split(1, 1), tmp_path)
    assert start_group(context, Arm("pytorch", "eager"), Split(1, 1), tmp_path)


def test_settings_whose_library_can_not_be_preloaded_are_a_failure(context, monkeypatch, tmp_path) -> None:
    def refuse(*_):
        raise ValueError("LD_PRELOAD can't hold it")

    monkeypatch.setattr(module, "preload_variables", refuse)
    with pytest.raises(WorkerError, match="LD_PRELOAD can't hold it") as raised:
        start_group(context, Arm("oracle", "numpy", settings="iomp"), Split(1, 1), tmp_path)
    assert not isinstance(raised.value, Unsupported)


def test_settings_whose_library_is_not_installed_are_unsupported(context, tmp_path) -> None:
    with pytest.raises(Unsupported, match="settings iomp need"):
        start_group(context, Arm("oracle", "numpy", settings="iomp"), Split(1, 1), tmp_path)
