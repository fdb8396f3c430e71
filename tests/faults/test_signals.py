"""A signal ends a run early: what was measured is kept and reported, and nothing is left behind."""

from __future__ import annotations

import signal

from bench.records import End
from tests.command_line import HANG_S


def test_an_interrupt_ends_a_run_with_a_report_and_leaves_nothing(start) -> None:
    measuring = start()
    measuring.wait_for("slice")
    children = measuring.children()
    measuring.process.send_signal(signal.SIGINT)
    output, errors = measuring.process.communicate(timeout=HANG_S)
    assert errors == ""
    assert "the run did not end" in output
    records = measuring.journal_when_gone(children)
    assert isinstance(records[-1], End)
    assert records[-1].status == "interrupted"
    assert (measuring.run / "report.html").exists()
    assert not (measuring.folder / "results" / "latest").is_symlink()
    assert measuring.process.returncode == 1
