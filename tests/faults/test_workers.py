"""Workers that fail in every way leave the run, and nothing else; the other arms are measured."""

from __future__ import annotations

import csv

import pytest

from bench.records import End
from tests.command_line import HANG_S

SUITE = """\
name = "toys"
summary = "faults of workers"
scenarios = ["latency"]
models = ["cnn-small"]
batch_sizes = [4]
precisions = ["fp32"]
arms = ["oracle/numpy", "toy/good", "toy/stalls", "toy/segfaults", "toy/aborts", "toy/greedy", "toy/dies",
        "toy/pours", "toy/rubbish", "toy/forks", "toy/daemon"]
baselines = ["oracle/numpy"]
primary = ["toy/good"]
"""
REASONS = {
    "numpy": "",
    "good": "",
    "stalls": "did not reply within 15 s (RunSlice)",
    "segfaults": "was killed by SIGSEGV",
    "aborts": "was killed by SIGABRT",
    "greedy": "MemoryError: Unable to allocate",
    "dies": "exited with status 7; last line of its log: the toy is broken",
    "pours": "bytes without an end of line",
    "rubbish": "sent an invalid reply",
    "forks": "exited with status 7",
    "daemon": "exited with status 7",
}


@pytest.fixture
def shown(start):
    # A machine that is busy needs longer to start a process, not to run a slice.
    measuring = start(SUITE, variables={"BENCH_TIMEOUT_FACTOR": "0.25"})
    output, errors = measuring.process.communicate(timeout=HANG_S)
    assert errors == ""
    return measuring, output


def test_every_fault_of_a_worker_fails_its_arm_only_and_leaves_nothing(shown) -> None:
    measuring, _ = shown
    assert measuring.process.returncode == 1
    records = measuring.journal_when_gone()
    assert records[-1] == End("complete", records[-1].wall_ns)
    with (measuring.run / "arms.csv").open() as stream:
        rows = {row["variant"]: row for row in csv.DictReader(stream) if row["replica"] != "True"}
    assert rows.keys() == REASONS.keys()
    assert {name: REASONS[name] in row["reason"] for name, row in rows.items()} == dict.fromkeys(REASONS, True)
    assert {name for name, row in rows.items() if row["status"] == "measured"} == {"numpy", "good"}
