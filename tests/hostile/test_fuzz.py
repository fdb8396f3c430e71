"""A share of the fuzzing, in bounded time, and what the fuzzer would notice."""

import signal
import socket
import subprocess

import pytest

from models.errors import UserError
from tests.hostile import fuzz as fuzzer
from tests.hostile.targets import TARGETS, Target

# Reports are slow, and PyTorch is not installed in the environment of these tests.
INPUTS = {name: 12 if name == "report" else 60 for name in TARGETS if name != "PyTorch"}


@pytest.mark.parametrize("name", INPUTS)
def test_damaged_files_end_in_one_line(tmp_path, name) -> None:
    # Another seed on each day would make failures that nobody can repeat.
    outcome = fuzzer.fuzz(name, INPUTS[name], seed=1, folder=tmp_path / "fuzz")
    assert outcome.failures == []
    assert outcome.counts.total() == INPUTS[name]
    assert outcome.counts["refused"] > INPUTS[name] / 4


def crash(path):
    signal.raise_signal(signal.SIGSEGV)


def connect(path):
    with socket.socket() as connection:
        connection.connect(("127.0.0.1", 9))


FAULTS = {
    "traceback": (lambda path: 1 / 0, "ZeroDivisionError"),
    "crash": (crash, "SIGSEGV"),
    "hang": (lambda path: [None for _ in iter(int, 1)], "SIGPROF"),
    "memory": (lambda path: bytearray(2 << 30), "MemoryError"),
    "process": (lambda path: subprocess.run(["true"], check=True), "subprocess.Popen"),
    "network": (connect, "socket.connect"),
    "write": (lambda path: (path.parents[2] / "elsewhere").write_text("x"), "open"),
    "read": (lambda path: (path.parents[1] / "outside" / "canary").read_text(), "open"),
    "removal": (lambda path: (path.parents[1] / "outside" / "canary").unlink(), "os.remove"),
    "long error": (lambda path: (_ for _ in ()).throw(UserError("x" * 2_000_000)), "2000000 characters"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_fuzzer_notices(tmp_path, monkeypatch, fault) -> None:
    read, what = FAULTS[fault]

    def make(folder):
        (folder / "a").write_bytes(b"good")
        return [folder / "a"]

    def only_damaged(path):
        return path.read_bytes() == b"good" or read(path)

    monkeypatch.setitem(TARGETS, "faulty", Target(make, only_damaged, (lambda *_: b"bad",)))
    monkeypatch.setattr(fuzzer, "CPU_S", 1)
    outcome = fuzzer.fuzz("faulty", 1, 0, tmp_path / "fuzz")
    assert len(outcome.failures) == 1
    assert what in outcome.failures[0]
