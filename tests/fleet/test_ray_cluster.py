"""The driver `ray`: its rules, and fleets on a cluster of several nodes on this machine."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest

from bench.fleet.ray_cluster import LOCAL_ADDRESS, require_trust
from bench.fleet.ray_hand import Hand
from bench.fleet.state import read_events, read_fleet
from conftest import SMALL
from models.errors import UserError
from tests.command_line import environment_of

NEEDS_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray (extra fleet-ray)")


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "127.9.9.9:1", "localhost:6379", "[::1]:6379"])
def test_the_own_machine_needs_no_token(monkeypatch, address) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    require_trust(address)


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "head.example:6379", "[fe80::1]:6379"])
def test_others_need_a_token(monkeypatch, address) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(UserError, match="whoever reaches a Ray cluster can run code on it"):
        require_trust(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    require_trust(address)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_one_line_says_how_to_get_it(bench) -> None:
    done = bench("fleet", "run", "--driver", "ray", "--home", "/h")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "--driver ray: needs Ray; install it: python -m pip install 'cnn-stack-bench[fleet-ray]'" in done.stderr


def test_an_actor_hands_on_complete_lines_and_signs_of_life() -> None:
    hand = Hand()
    program = "import time; print('Ja\\nJb'); print('Jc', end='', flush=True); time.sleep(0.3); print()"
    assert hand.open([sys.executable, "-c", program], b"") == b"ready"
    lines = b""
    while chunk := hand.read(0.05, 1 << 20, 0.05):
        lines += chunk
    assert lines.replace(b"Hmeasuring\n", b"") == b"Ja\nJb\nJc\n"
    assert hand.open([], b"") == b"ready"


def test_an_actor_tells_why_a_program_failed() -> None:
    hand = Hand()
    assert hand.run([sys.executable, "-c", "print(input())"], b"x\n", 60.0) == b"x\n"
    assert hand.run([sys.executable, "-c", "raise ValueError('no disk')"], b"", 60.0) == b"!ValueError: no disk"
    assert hand.run(["/no/such/program"], b"", 60.0).startswith(b"![Errno 2]")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Start the head of a cluster on loopback, whose nodes have one CPU each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("BENCH_BACKENDS", environment_of(tmp_path, ())["BENCH_BACKENDS"])
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")
    monkeypatch.setenv("RAY_health_check_timeout_ms", "2000")
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 0, "include_dashboard": False, "node_ip_address": LOCAL_ADDRESS}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    yield cluster
    cluster.shutdown()


def add_node(cluster, monkeypatch, lock):
    """Add a node whose measurements exclude each other, but not those of the other nodes of this machine."""
    monkeypatch.setenv("BENCH_LOCK", str(lock))
    return cluster.add_node(num_cpus=1, include_dashboard=False, node_ip_address=LOCAL_ADDRESS)


def raylet(node) -> int:
    return node.all_processes["raylet"][0].process.pid


def name_of(node) -> str:
    return f"{node.node_ip_address}-{node.node_id[:8]}"


class Driven:
    """The command line, driving a fleet in a process of its own."""

    def __init__(self, tmp_path, *options: str) -> None:
        self.folder = tmp_path / "results" / "f"
        with (tmp_path / "out").open("a") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench", "fleet", "run", *options],
                cwd=tmp_path, env=environment_of(tmp_path, ("synthetic",)), stdout=out, stderr=out,
            )  # fmt: skip

    def wait_for(self, name, *statuses) -> None:
        for _ in range(4_000):
            with contextlib.suppress(UserError):
                if name in (events := read_events(self.folder)) and events[name].status in statuses:
                    return
            time.sleep(0.05)
        raise TimeoutError(f"{name}: {read_events(self.folder)}")


def options(tmp_path, address) -> tuple[str, ...]:
    (tmp_path / "mine.toml").write_text(SMALL)
    return (
        "--driver", "ray", "--address", address, "--home", str(tmp_path / "home"), "--python", sys.executable,
        "--name", "f", "--suite", str(tmp_path / "mine.toml"), "--preset", "smoke", "--data", "synthetic",
        "--threads", "1",
    )  # fmt: skip


@NEEDS_RAY
@pytest.mark.fleet
def test_nodes_of_a_cluster_die_fall_silent_and_join(cluster, monkeypatch, tmp_path) -> None:
    """One node is killed, one hears and says nothing more, one joins; the others are measured."""
    nodes = [add_node(cluster, monkeypatch, tmp_path / f"lock{number}") for number in range(3)]
    stays, dies, silent = nodes
    driven = Driven(tmp_path, *options(tmp_path, cluster.address))
    for node in nodes:
        driven.wait_for(name_of(node), "measuring")
    os.kill(raylet(dies), signal.SIGKILL)
    os.kill(raylet(silent), signal.SIGSTOP)
    joins = add_node(cluster, monkeypatch, tmp_path / "lock3")
    driven.wait_for(name_of(dies), "lost")
    driven.wait_for(name_of(silent), "lost")
    driven.wait_for(name_of(joins), "complete")
    assert driven.process.wait(600) == 1
    os.kill(raylet(silent), signal.SIGCONT)
    events = read_events(driven.folder)
    assert {name: (event.status, event.starts) for name, event in events.items()} == {
        name_of(stays): ("complete", 1), name_of(dies): ("lost", 1), name_of(silent): ("lost", 1),
        name_of(joins): ("complete", 1),
    }  # fmt: skip
    assert "Ray counts the node as dead" in events[name_of(dies)].reason
    report = (driven.folder / "report.md").read_text()
    assert f"{name_of(dies)}: lost: Ray counts the node as dead" in report
    assert "run on one machine: they count as one." in report
    assert read_fleet(driven.folder).driver == "ray"
