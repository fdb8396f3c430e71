"""Signals, closed terminals and closed pipes: what was measured is kept and reported, and nothing is left behind."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import threading

import pytest

from bench.records import End
from conftest import SMALL
from models.weights import checkpoint_path
from models.zoo import CNN_SMALL
from tests.command_line import HANG_S, run_bench
from tests.training.test_train import RECIPE, TRAIN

# A run that does not end by itself while a test does something to it.
LONG = (SMALL, "--preset", "standard")


def require_interrupted(measuring, children) -> None:
    records = measuring.journal_when_gone(children)
    assert isinstance(records[-1], End)
    assert records[-1].status == "interrupted"
    assert (measuring.run / "report.html").exists()
    assert not (measuring.folder / "results" / "latest").is_symlink()
    assert measuring.process.returncode == 1


@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_a_signal_ends_a_run_with_a_report_and_a_second_one_changes_nothing(start, numbers) -> None:
    measuring = start(*LONG)
    measuring.wait_for("slice")
    children = measuring.children()
    for number in numbers:
        measuring.process.send_signal(number)
    output, errors = measuring.process.communicate(timeout=HANG_S)
    assert errors == ""
    assert "the run did not end" in output
    require_interrupted(measuring, children)


def test_a_closed_terminal_ends_a_run_with_a_report(start) -> None:
    ours, theirs = pty.openpty()
    ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    # The terminal becomes that of the process's session: closing it sends SIGHUP.
    measuring = start(*LONG, preexec_fn=lambda: os.login_tty(theirs), **ends)
    os.close(theirs)
    is_closing = threading.Event()

    def read() -> None:
        """Read what is drawn, so that the process need not wait."""
        while not is_closing.is_set() and os.read(ours, 1 << 16):
            pass

    reader = threading.Thread(target=read)
    reader.start()
    measuring.wait_for("slice")
    children = measuring.children()
    is_closing.set()
    reader.join()
    os.close(ours)
    measuring.process.wait(HANG_S)
    require_interrupted(measuring, children)


def test_output_that_nobody_reads_any_more_does_not_end_a_run(start) -> None:
    """As in `bench run | head -1`, with a real `head`."""
    reading, writing = os.pipe()
    measuring = start(stdout=writing)
    os.close(writing)
    first = subprocess.run(["head", "-1"], stdin=reading, capture_output=True, text=True, check=True)
    os.close(reading)
    _, errors = measuring.process.communicate(timeout=HANG_S)
    assert first.stdout.startswith("suite small")
    assert (measuring.process.returncode, errors) == (0, "")
    assert measuring.journal_when_gone()[-1].status == "complete"
    assert (measuring.run / "report.html").exists()


def test_a_killed_run_leaves_a_readable_journal_and_nothing_else_and_can_be_reported(start) -> None:
    """Until then no training, no evaluation and no second run may disturb it."""
    measuring = start(*LONG)
    measuring.wait_for("slice")
    # It must not end before it is killed.
    measuring.process.send_signal(signal.SIGSTOP)
    children = measuring.children()
    (measuring.folder / "own.toml").write_text(RECIPE)
    run = ("run", "--suite", "./toys.toml", "--name", "other")
    evaluate = ("evaluate", str(checkpoint_path(CNN_SMALL)), "--arms", "toy/good")
    for command in (TRAIN, ("tune", *TRAIN[1:]), evaluate, run):
        done = run_bench(measuring.folder, *command, *(() if "--data" in command else ("--data", "synthetic")))
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stderr.startswith("bench: another measurement is under way on this machine (process ")
        assert f"{measuring.run}); two would disturb each other; wait for its end." in done.stderr
    assert [path for path in (measuring.folder / "results").glob("*/*") if path.parent != measuring.run] == []
    measuring.process.kill()
    measuring.process.communicate()
    assert not isinstance(measuring.journal_when_gone(children)[-1], End)
