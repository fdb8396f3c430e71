import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from bench.clock import cpu_ns_of, now_ns, pause
from bench.engine import workers as module
from bench.engine.workers import Unsupported, Worker, WorkerError, WorkerGroup
from bench.machine import resources
from bench.processes.scratch import processes_in
from bench.worker.messages import Build, Move, Predict, PredictReply, Prove, RunSlice, Save
from models.weights import checkpoint_path
from models.zoo import CNN_SMALL

TOYS = Path(__file__).parents[1] / "toys"


@pytest.fixture
def build(tmp_path):
    """Return a function that makes the request for a toy's session."""

    def build(variant: str, stack: str = "toy") -> Build:
        images = str(tmp_path / "images.npy")
        return Build(
            case="c", stack=stack, variant=variant, model="cnn-small", precision="fp32", batch_size=4, threads=1,
            cores=None, weights=str(checkpoint_path(CNN_SMALL)), images=images, calibration=images,
        )  # fmt: skip

    return build


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Return a function that starts a worker; all of them are stopped at the end."""
    monkeypatch.setenv("BENCH_BACKENDS", str(TOYS))
    np.save(tmp_path / "images.npy", np.zeros((8, 28, 28), np.uint8))
    workers = []

    def start() -> Worker:
        workers.append(Worker(Path(sys.executable), {}, tmp_path / "log", tmp_path))
        return workers[-1].wait_until_ready()

    yield start
    for worker in workers:
        worker.stop()


def left_in(folder: Path, expected: int = 0) -> list[int]:
    """Return the processes that run in a folder, once there are few enough: a killed process ends soon, not at once."""
    deadline = now_ns() + 60_000_000_000
    while len(left := processes_in(str(folder))) > expected and now_ns() < deadline:
        pause(10_000_000)
    return left


def test_the_users_settings_of_keras_are_out_of_a_workers_sight(start, tmp_path) -> None:
    variables = Path(f"/proc/{start().pid}/environ").read_bytes().split(b"\0")
    assert f"KERAS_HOME={tmp_path / 'keras'}".encode() in variables
    assert not (tmp_path / "keras").exists()


@pytest.fixture
def built(start, build):
    """Return a function that starts a worker in which a toy's session is built."""

    def built(variant: str) -> Worker:
        worker = start()
        worker.request(build(variant), 60)
        return worker

    return built


def test_a_worker_builds_predicts_and_times(start, build, tmp_path) -> None:
    worker = start()
    assert worker.request(build("good"), 60).build_ns > 0
    assert worker.request(Predict("c", 7, str(tmp_path / "logits.npy")), 60) == PredictReply(7)
    timing = worker.request(RunSlice("c", budget_ns=1_000_000, lead_in=1), 60)
    assert len(timing.samples_ns) >= 1
    assert timing.wall_ns >= sum(timing.samples_ns)


def test_a_request_before_the_one_that_it_needs_is_an_error(start) -> None:
    with pytest.raises(WorkerError, match="no session was built for c"):
        start().request(RunSlice("c", budget_ns=1, lead_in=0), 60)


def test_an_urgent_worker_has_the_highest_priority_that_is_allowed(tmp_path) -> None:
    priorities = []
    for urgent in (False, True):
        with Worker(Path(sys.executable), {}, tmp_path / "log", tmp_path, urgent=urgent) as worker:
            priorities.append(resources.nice_of(worker.pid))
    assert priorities == [resources.nice_of(os.getpid()), resources.allowed_nice()]


def test_an_asynchronous_session_is_timed_by_its_submissions(built) -> None:
    timing = built("queued").request(RunSlice("c", budget_ns=1, lead_in=1, asynchronous=True), 60)
    assert timing.wall_ns == sum(timing.samples_ns)


def test_a_slice_starts_no_earlier_than_requested(built) -> None:
    worker, begin = built("good"), now_ns() + 300_000_000
    worker.request(RunSlice("c", budget_ns=1, lead_in=0, begin_ns=begin), 60)
    assert now_ns() > begin


def test_a_worker_reads_back_its_memory_and_that_it_imported_no_other_framework(built) -> None:
    worker = built("good")
    assert worker.request(Prove("c"), 60).memory_bytes > 1e6
    assert worker.request(Save("c"), 60).saved_bytes > 800_000
    with pytest.raises(WorkerError, match="has imported torch as well"):
        built("foreign").request(Prove("c"), 60)


def test_output_of_a_framework_is_no_reply_but_is_logged(built, tmp_path) -> None:
    built("chatty")
    assert "rubbish" in (tmp_path / "log").read_text(errors="replace")


def test_a_worker_that_exits_is_an_error_with_the_last_line_of_its_log(start, build) -> None:
    with pytest.raises(WorkerError, match="exited with status 7; last line of its log: the toy is broken"):
        start().request(build("dies"), 60)


def test_a_worker_that_is_killed_is_an_error_with_the_signal(start, build) -> None:
    worker = start()
    worker.kill()
    with pytest.raises(WorkerError, match="was killed by SIGKILL; last line of its log: none"):
        worker.request(build("good"), 60)


def test_a_user_without_a_name_is_called_by_number(tmp_path, monkeypatch) -> None:
    """Frameworks ask for the name, and would look for it in a list of users that need not have it."""
    started = []
    monkeypatch.setattr(module.subprocess, "Popen", lambda *_, env, **__: started.append(env) or SimpleNamespace(pid=1))
    for name, expected in (("me", "me"), (None, str(os.getuid()))):
        monkeypatch.setenv("USER", name) if name else monkeypatch.delenv("USER", raising=False)
        Worker(Path(sys.executable), {}, tmp_path / "log", tmp_path)._close_pipes()
        assert started[-1]["USER"] == expected


def test_a_failure_names_a_folder_for_temporary_files_that_is_full(start, build, tmp_path, monkeypatch) -> None:
    free = iter([module.FULL_BYTES - 1, 0, module.FULL_BYTES])
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    worker, full = start(), f"; {tmp_path} is full: free space there, or set TMPDIR to another folder"
    with pytest.raises(WorkerError, match=f"No module named 'backends.nowhere'{full}"):
        worker.request(build("good", stack="nowhere"), 60)
    with pytest.raises(WorkerError, match=f"last line of its log: the toy is broken{full}"):
        worker.request(build("dies"), 60)
    with pytest.raises(WorkerError, match=r"No module named 'backends\.nowhere'$"):
        start().request(build("good", stack="nowhere"), 60)


def test_a_worker_that_hangs_is_killed_after_the_timeout(start, build) -> None:
    worker = start()
    with pytest.raises(WorkerError, match=r"did not reply within 0\.5 s"):
        worker.request(build("hangs"), 0.5)
    worker.stop()
    assert not psutil.pid_exists(worker.pid)


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("segfaults", "was killed by SIGSEGV"),
        ("aborts", "was killed by SIGABRT"),
        ("greedy", "MemoryError: Unable to allocate"),
        ("pours", "bytes without an end of line"),
        ("forks", "exited with status 7"),
        ("daemon", "exited with status 7"),
    ],
)
def test_a_worker_that_fails_is_an_error_with_the_reason_and_leaves_no_process(
    start, build, tmp_path, variant, reason
) -> None:
    worker = start()
    with pytest.raises(WorkerError, match=reason):
        worker.request(build(variant), 60)
    worker.stop()
    # The guard of the folder kills a process in a session of its own.
    expected = int(variant == "daemon")
    left = left_in(tmp_path, expected)
    assert len(left) == expected
    for pid in left:
        os.kill(pid, signal.SIGKILL)


def test_a_worker_that_prints_without_end_is_given_up_and_its_log_is_cut(start, build, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_LOG_BYTES", 1 << 20)
    monkeypatch.setattr(module, "LOOK_MS", 50)
    worker = start()
    with pytest.raises(WorkerError, match=r"printed more than 1,048,576 bytes without a reply \(Build\)"):
        worker.request(build("floods"), 60)
    worker.stop()
    assert (tmp_path / "log").stat().st_size == 1 << 20


def test_a_process_that_hangs_before_it_is_ready_is_given_up(tmp_path, monkeypatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nsleep 1000\n")
    python.chmod(0o755)
    monkeypatch.setenv("BENCH_TIMEOUT_FACTOR", "0.001")
    expected = pytest.raises(WorkerError, match=r"did not reply within 0\.12 s \(start\); BENCH_TIMEOUT_FACTOR=4")
    with expected, Worker(python, {}, tmp_path / "log", tmp_path) as worker:
        worker.wait_until_ready()
    assert left_in(tmp_path) == []


def test_a_process_that_hangs_inside_a_slice_is_given_up(start, build, tmp_path) -> None:
    (tmp_path / "stalls.proved").touch()
    worker = start()
    worker.request(build("stalls"), 60)
    with pytest.raises(WorkerError, match=r"did not reply within 2 s \(RunSlice\)"):
        worker.request(RunSlice("c", budget_ns=10**12, lead_in=0), 2)
    worker.stop()
    assert left_in(tmp_path) == []


def test_all_timeouts_can_be_made_longer(start, build, monkeypatch) -> None:
    worker = start()
    monkeypatch.setenv("BENCH_TIMEOUT_FACTOR", "0.01")
    with pytest.raises(WorkerError, match=r"did not reply within 0\.6 s \(Build\); BENCH_TIMEOUT_FACTOR=4"):
        worker.request(build("hangs"), 60)


def test_a_reply_without_end_is_an_error(start, build, monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_REPLY_BYTES", 10)
    with pytest.raises(WorkerError, match="sent more than 10 bytes without an end of line"):
        start().request(build("good"), 60)


def test_the_files_of_a_worker_are_limited(start) -> None:
    limits = Path(f"/proc/{start().pid}/limits").read_text()
    assert re.search(rf"Max file size +{module.MOST_FILE_BYTES} +{module.MOST_FILE_BYTES}", limits)


@pytest.mark.parametrize(("variant", "reply"), [("rubbish", r"b'rubbish'"), ("brief", r"lacks .*build_ns.*")])
def test_an_invalid_reply_is_an_error(start, build, variant, reply) -> None:
    with pytest.raises(WorkerError, match=f"sent an invalid reply: {reply}"):
        start().request(build(variant), 60)


def test_an_exception_in_a_framework_is_an_error_with_its_type(start, build) -> None:
    with pytest.raises(WorkerError, match=r"ModuleNotFoundError: No module named 'backends\.nowhere'"):
        start().request(build("good", stack="nowhere"), 60)


def test_an_unsupported_request_differs_from_an_error(start, build) -> None:
    with pytest.raises(Unsupported, match="the toy can't do that"):
        start().request(build("unsupported"), 60)


def test_a_missing_interpreter_is_an_error(tmp_path) -> None:
    with pytest.raises(WorkerError, match="can't be started"):
        Worker(tmp_path / "python", {}, tmp_path / "log", tmp_path)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "LD_LIBRARY_PATH", "XLA_FLAGS", "ONEDNN_MAX_CPU_ISA"])
def test_a_worker_inherits_only_the_variables_that_are_allowed(start, monkeypatch, name) -> None:
    monkeypatch.setenv(name, "17")
    monkeypatch.setenv("CXX", "clang++")
    monkeypatch.setenv("BENCH_TIMEOUT_FACTOR", "3")
    environment = Path(f"/proc/{start().pid}/environ").read_bytes().split(b"\0")
    assert {b"CXX=clang++", b"BENCH_TIMEOUT_FACTOR=3"} <= set(environment)
    assert not [variable for variable in environment if variable.startswith(name.encode())]


def test_a_worker_leads_its_own_process_group_and_sleeps_while_idle(built) -> None:
    worker = built("good")
    assert os.getpgid(worker.pid) == worker.pid != os.getpgid(0)
    # It may still be busy with its last reply, on a machine that leaves it little time.
    assert any(sleeps(psutil.Process(worker.pid)) for _ in range(600))


def sleeps(process: psutil.Process) -> bool:
    """Return whether a process sleeps and has used no CPU time at all in a tenth of a second."""
    before = cpu_ns_of(process.pid)
    pause(100_000_000)
    return cpu_ns_of(process.pid) == before and process.status() == psutil.STATUS_SLEEPING


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_every_thread_of_a_process_moves_to_the_core_in_the_same_place(start, build) -> None:
    first, second = sorted(os.sched_getaffinity(0))[:2]
    worker = start()
    worker.request(replace(build("threads"), cores=(first, second)), 60)
    masks = _masks(worker)
    assert {frozenset({first}), frozenset({second}), frozenset({first, second})} <= set(masks.values())
    assert worker.request(Move((first, second), (second, first)), 60).cores == (first, second)
    swapped = {first: second, second: first}
    assert _masks(worker) == {thread: frozenset(map(swapped.get, mask)) for thread, mask in masks.items()}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_threads_that_are_older_than_the_pinning_move_as_well(start, build) -> None:
    first, second = sorted(os.sched_getaffinity(0))[:2]
    worker = start()
    worker.request(replace(build("threads"), cores=(first,)), 60)
    assert frozenset({second}) in _masks(worker).values()
    assert worker.request(Move((first,), (first,)), 60).cores == (first,)
    assert set(_masks(worker).values()) == {frozenset({first})}
    assert worker.request(Prove("c"), 60).cores == (first,)


def _masks(worker: Worker) -> dict[int, frozenset[int]]:
    threads = (int(folder.name) for folder in Path(f"/proc/{worker.pid}/task").iterdir())
    return {thread: frozenset(os.sched_getaffinity(thread)) for thread in threads}


@pytest.mark.parametrize(
    ("spent", "running", "steps"),
    [([0, 60_000, 100_000], [False, False], 2), ([0, 0, 0, 0], [True, True, False], 3), ([0, 10_000], [False], 1)],
    ids=["CPU time was used", "a thread runs", "idle"],
)
def test_processes_are_idle_once_none_runs_and_none_has_run_for_a_step(monkeypatch, spent, running, steps) -> None:
    pauses, clocks, states, now = [], iter(spent), iter(running), [0]

    def pause(duration_ns: int) -> None:
        pauses.append(duration_ns)
        now[0] += duration_ns

    monkeypatch.setattr(module, "now_ns", lambda: now[0])
    monkeypatch.setattr(module, "cpu_ns_of", lambda _: next(clocks))
    monkeypatch.setattr(module, "is_running", lambda _: next(states))
    monkeypatch.setattr(module, "pause", pause)
    module.wait_until_idle([1], [1])
    assert len(pauses) == steps


def test_a_thread_that_spins_is_seen_and_one_that_sleeps_is_not() -> None:
    program = """
import threading, time
begun = threading.Event()
threading.Thread(target=lambda: begun.set() or time.sleep(99)).start()
begun.wait()
print(flush=True)
{}
"""
    for main, expected in (("time.sleep(99)", False), ("exec('while True: pass')", True)):
        command = [sys.executable, "-S", "-c", program.format(main)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            # It has come to its last statement once it sleeps, or has used more time than it needs to start.
            begun = cpu_ns_of(process.pid) + 100_000_000
            while not (sleeps(psutil.Process(process.pid)) or cpu_ns_of(process.pid) > begun):
                pass
            states = {module.is_running(process.pid) for _ in range(20)}
            process.kill()
        assert states == {expected}
    assert not module.is_running(2**22 - 1)


def test_stopping_a_worker_leaves_no_open_descriptor(start) -> None:
    before = psutil.Process().num_fds()
    start().stop()
    assert psutil.Process().num_fds() == before


def test_a_group_sends_each_worker_its_request_and_returns_the_replies_in_order(start, build, tmp_path) -> None:
    with WorkerGroup([start, start]) as group:
        assert len(set(group.pids)) == 2
        assert len(group.request(build("good"), 60)) == 2
        requests = [Predict("c", images, str(tmp_path / f"{images}.npy")) for images in (3, 5)]
        assert group.request_each(requests, 60) == [PredictReply(3), PredictReply(5)]


def test_a_group_of_which_one_worker_can_not_be_started_leaves_none_behind(start, tmp_path) -> None:
    started = []

    def first() -> Worker:
        started.append(start())
        return started[0]

    def second() -> Worker:
        return Worker(tmp_path / "python", {}, tmp_path / "log", tmp_path)

    with pytest.raises(WorkerError, match="can't be started"):
        WorkerGroup([first, second])
    assert not psutil.pid_exists(started[0].pid)
