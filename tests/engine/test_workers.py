import os
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest

from bench.clock import now_ns
from bench.engine.workers import Unsupported, Worker, WorkerError
from bench.machine import limits
from models.weights import checkpoint_path
from models.zoo import CNN_SMALL

TOYS = Path(__file__).parents[1] / "toys"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Return a function that starts a worker with a built toy; all are stopped at the end."""
    monkeypatch.setenv("BENCH_BACKENDS", str(TOYS))
    np.save(tmp_path / "images.npy", np.zeros((8, 28, 28), np.uint8))
    workers = []

    def start(variant: str, stack: str = "toy") -> Worker:
        worker = Worker(Path(sys.executable), {}, tmp_path / "log", tmp_path)
        workers.append(worker)
        worker.wait_until_ready()
        worker.send(
            "build", case="c", stack=stack, variant=variant, model="cnn-small", precision="fp32", batch_size=4,
            threads=1, delay=0.0, wait=0.0, cores=None, weights=str(checkpoint_path(CNN_SMALL)),
            images=str(tmp_path / "images.npy"), calibration=str(tmp_path / "images.npy"), files="",
        )  # fmt: skip
        return worker

    yield start
    for worker in workers:
        worker.stop()


def test_a_good_worker_builds_predicts_and_times(start, tmp_path) -> None:
    worker = start("good")
    assert worker.receive(60)["build_ns"] > 0
    assert worker.request("predict", 60, case="c", images=7, file=str(tmp_path / "logits.npy")) == {"images": 7}
    timing = worker.request("slice", 60, case="c", asynchronous=False, budget_ns=1_000_000, lead_in=1, begin_ns=0)
    assert len(timing["samples_ns"]) >= 1
    assert timing["wall_ns"] >= sum(timing["samples_ns"])


def test_an_urgent_process_has_the_priority_that_is_allowed(tmp_path) -> None:
    found = []
    for urgent in (False, True):
        with Worker(Path(sys.executable), {}, tmp_path / "log", tmp_path, urgent=urgent) as worker:
            found.append(limits.nice_of(worker.pid))
    assert found == [limits.nice_of(os.getpid()), limits.allowed_nice()]


def test_an_asynchronous_session_is_timed_by_its_submissions(start) -> None:
    worker = start("queued")
    worker.receive(60)
    timing = worker.request("slice", 60, case="c", asynchronous=True, budget_ns=1, lead_in=1, begin_ns=0)
    assert timing["wall_ns"] == sum(timing["samples_ns"])


def test_a_process_begins_when_it_is_told_to(start) -> None:
    worker = start("good")
    worker.receive(60)
    begin = now_ns() + 300_000_000
    worker.request("slice", 60, case="c", asynchronous=False, budget_ns=1, lead_in=0, begin_ns=begin)
    assert now_ns() > begin


def test_a_process_proves_its_memory_and_that_it_imported_no_other_framework(start) -> None:
    worker = start("good")
    worker.receive(60)
    assert worker.request("prove", 60, case="c")["memory_bytes"] > 1e6
    assert worker.request("save", 60, case="c")["saved_bytes"] > 800_000
    other = start("foreign")
    other.receive(60)
    with pytest.raises(WorkerError, match="has imported torch as well"):
        other.request("prove", 60, case="c")


def test_what_a_framework_prints_is_no_answer_but_is_kept(start, tmp_path) -> None:
    start("chatty").receive(60)
    assert "rubbish" in (tmp_path / "log").read_text(errors="replace")


def test_a_worker_that_dies_is_told_with_its_last_words(start) -> None:
    with pytest.raises(WorkerError, match="died with status 7; its last words: the toy is broken"):
        start("dies").receive(60)


def test_a_worker_that_hangs_is_given_up_and_killed(start) -> None:
    worker = start("hangs")
    with pytest.raises(WorkerError, match=r"gave no answer within 0\.5 s"):
        worker.receive(0.5)
    worker.stop()
    assert not psutil.pid_exists(worker.pid)


def test_a_worker_that_writes_rubbish_is_given_up(start) -> None:
    with pytest.raises(WorkerError, match="sent what is no message: b'rubbish'"):
        start("rubbish").receive(60)


def test_an_exception_in_a_framework_is_a_reason(start) -> None:
    with pytest.raises(WorkerError, match=r"ModuleNotFoundError: No module named 'backends\.nowhere'"):
        start("good", stack="nowhere").receive(60)


def test_what_a_stack_can_not_do_is_told_apart_from_a_fault(start) -> None:
    with pytest.raises(Unsupported, match="the toy can't do that"):
        start("unsupported").receive(60)


def test_an_interpreter_that_is_not_there_is_a_reason(tmp_path) -> None:
    with pytest.raises(WorkerError, match="can't be started"):
        Worker(tmp_path / "python", {}, tmp_path / "log", tmp_path)


def test_a_worker_sees_only_what_it_is_given(start, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    worker = start("good")
    environment = Path(f"/proc/{worker.pid}/environ").read_bytes()
    assert b"OMP_NUM_THREADS" not in environment


def test_a_worker_leads_its_own_process_group_and_sleeps_while_idle(start) -> None:
    worker = start("good")
    worker.receive(60)
    assert os.getpgid(worker.pid) == worker.pid != os.getpgid(0)
    statuses = iter(psutil.Process(worker.pid).status, psutil.STATUS_SLEEPING)
    assert sum(1 for _ in islice(statuses, 100_000)) < 100_000


def test_stopping_leaves_no_open_descriptor(start) -> None:
    before = psutil.Process().num_fds()
    start("good").stop()
    assert psutil.Process().num_fds() == before
