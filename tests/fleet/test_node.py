"""The program on a node: its priority, and what it sends of a journal."""

import json
import os
import subprocess
import sys

import pytest

from bench.codec import encode
from bench.fleet.driver import NodeOrder
from bench.fleet.node import START, NodeRequest, RefusalError, frames, has_ended, restore_priority, run_folder
from tests.analysis.recorded_run import inference_run


def ask(request) -> dict:
    line = json.dumps(encode(request)) + "\n"
    command = ["nice", "-n", "15", sys.executable, "-I", "-m", "bench.fleet.node"]
    return json.loads(subprocess.run(command, input=line, capture_output=True, text=True, check=True).stdout)


@pytest.fixture
def order(tmp_path) -> NodeOrder:
    return NodeOrder("r", str(tmp_path), ("--suite", "no-such-suite"), nice=0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise its priority")
def test_a_raised_nice_value_is_undone_and_read_back(order) -> None:
    assert ask(NodeRequest(START, order))["nice"] == 0


def test_a_raised_nice_value_that_can_not_be_undone_is_refused(monkeypatch) -> None:
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "getpriority", lambda *_: 15)
    monkeypatch.setattr(os, "setpriority", refuse)
    with pytest.raises(
        RefusalError, match=r"start at nice 15, .* start the cluster on this node with RAY_worker_nicen"
    ):
        restore_priority(0)
    restore_priority(15)


def test_a_part_of_a_node_is_refused(tmp_path) -> None:
    core = {min(os.sched_getaffinity(0))}
    request = NodeRequest(START, NodeOrder("r", str(tmp_path), (), whole=True))
    command = ["taskset", "-c", str(*core), sys.executable, "-I", "-m", "bench.fleet.node"]
    line = json.dumps(encode(request)) + "\n"
    answer = json.loads(subprocess.run(command, input=line, capture_output=True, text=True, check=True).stdout)
    assert answer == {"refused": f"the run may use 1 of {os.cpu_count()} CPUs; it needs the whole node"}


def test_a_request_that_is_none_is_refused() -> None:
    command = [sys.executable, "-I", "-m", "bench.fleet.node"]
    done = subprocess.run(command, input='{"action": 1}\n', capture_output=True, text=True, check=True)
    assert "lacks order" in json.loads(done.stdout)["refused"]


def test_frames_are_what_the_driver_does_not_have(order) -> None:
    inference_run(run_folder(order)).write()
    assert has_ended(order)
    journal = (run_folder(order) / "journal.jsonl").read_bytes()
    # Half a line of a run that was killed is not sent.
    with (run_folder(order) / "journal.jsonl").open("ab") as stream:
        stream.write(b'{"kind":')
    offset = journal.index(b"\n") + 1
    first, *lines, last = frames(order, offset)
    assert json.loads(first[1:]) == (run_folder(order) / "run.json").read_text()
    assert b"\n".join(line[1:] for line in lines) + b"\n" == journal[offset:]
    assert {line[:1] for line in lines} == {b"J"}
    assert last == b'E{"status": null, "line": "the run was killed"}'


def test_a_journal_that_has_shrunk_is_refused(order) -> None:
    inference_run(run_folder(order)).write()
    with pytest.raises(RefusalError, match="is shorter than what the driver has of it"):
        list(frames(order, 1 << 40))
