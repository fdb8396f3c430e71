"""Groups of ranks whose one member dies or hangs: one reason, and no process is left."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from bench.engine.scaling import ranks
from bench.engine.scaling.ranks import request_of_ranks
from bench.engine.workers import Worker, WorkerError, WorkerGroup
from bench.worker.messages import Listen, Prove

TIMEOUT_S = 60


@pytest.fixture
def group(tmp_path):
    starts = [lambda: Worker(Path(sys.executable), {}, tmp_path / "log", tmp_path)] * 2
    with WorkerGroup(starts) as group:
        yield group.wait_until_ready()


def has_ended(pid) -> bool:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].startswith(b"Z")


def test_each_rank_gets_its_request_and_reserves_an_address_of_its_own_on_the_loopback_interface(group) -> None:
    replies = request_of_ranks(group, [Listen("lo")] * 2, TIMEOUT_S)
    hosts, ports = zip(*(reply.address.split(":") for reply in replies), strict=True)
    assert hosts == ("127.0.0.1", "127.0.0.1")
    assert len(set(ports)) == 2


def test_an_unknown_interface_is_an_error_that_names_the_known_ones(group) -> None:
    with pytest.raises(WorkerError, match=r"rank \d of 2: no network interface 'wire0' here; allowed: .*\blo\b"):
        request_of_ranks(group, [Listen("wire0")] * 2, TIMEOUT_S)


def test_a_rank_that_was_killed_is_the_reason_and_all_ranks_end(group) -> None:
    os.kill(group.workers[1].pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="rank 1 of 2: was killed by SIGKILL"):
        request_of_ranks(group, [Listen("lo")] * 2, TIMEOUT_S)
    os.waitid(os.P_PID, group.workers[0].pid, os.WEXITED | os.WNOWAIT)
    assert has_ended(group.workers[0].pid)


def test_an_exit_is_the_cause_of_the_errors_of_the_others(group, monkeypatch) -> None:
    monkeypatch.setattr(ranks, "CAUSE_S", 600)
    os.kill(group.workers[1].pid, signal.SIGSTOP)
    # Rank 0 replies at once that it has no session; rank 1 ends a little later.
    killer = threading.Timer(0.3, os.kill, (group.workers[1].pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(WorkerError, match="rank 1 of 2: was killed by SIGKILL"):
        request_of_ranks(group, [Prove("nothing")] * 2, TIMEOUT_S)
    killer.join()


def test_a_rank_that_is_stopped_hangs_and_is_named(group, monkeypatch) -> None:
    monkeypatch.setattr(ranks, "STALL_S", 0.4)
    os.kill(group.workers[1].pid, signal.SIGSTOP)
    os.kill(group.workers[0].pid, signal.SIGSTOP)
    with pytest.raises(
        WorkerError, match=r"rank 0 of 2: is stopped: it has used no core for 0\.4 s; BENCH_TIMEOUT_FACTOR=4"
    ):
        request_of_ranks(group, [Listen("lo")] * 2, TIMEOUT_S)


def test_a_rank_that_waits_for_a_core_does_not_hang(group, monkeypatch) -> None:
    waiting = {group.workers[0].pid}
    monkeypatch.setattr(ranks, "cpu_ns_of", lambda _: 0)
    monkeypatch.setattr(ranks, "is_running", lambda pid: pid in waiting)
    watch, later = ranks._Watch(group, 0), int(61e9)
    assert watch.late([0], None, later) == {}
    assert watch.late([0, 1], None, later).keys() == {1}


def test_a_request_that_takes_too_long_names_the_limit_with_the_users_factor(group, monkeypatch) -> None:
    monkeypatch.setattr(ranks, "CHECK_S", 0.1)
    monkeypatch.setenv("BENCH_TIMEOUT_FACTOR", "0.5")
    for worker in group.workers:
        os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(
        WorkerError, match=r"rank 0 of 2: did not reply within 0\.2 s \(Listen\); BENCH_TIMEOUT_FACTOR=4"
    ):
        request_of_ranks(group, [Listen("lo")] * 2, 0.4)


def test_a_rank_that_does_not_reply_after_another_one_hangs(group, monkeypatch) -> None:
    monkeypatch.setattr(ranks, "STALL_S", 40)
    monkeypatch.setattr(ranks, "CHECK_S", 0.1)
    monkeypatch.setenv("BENCH_TIMEOUT_FACTOR", "0.01")
    os.kill(group.workers[1].pid, signal.SIGSTOP)
    reason = r"rank 1 of 2: (hangs: it has not replied|is stopped: .*) 0\.4 s( after another rank)?; BENCH_TIMEOUT_FAC"
    with pytest.raises(WorkerError, match=reason):
        request_of_ranks(group, [Listen("lo")] * 2, TIMEOUT_S)
