"""`bench verify` and `bench withdraw`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bench.analysis.run import Run
from bench.console import WARNING, say, say_anyway
from bench.exports.outputs import VerifyOutput, run_output, show_output
from bench.journal import broken_link
from bench.report.arm_table import arm_rows
from bench.report.run_report import csv_files, exit_status, write_report
from bench.withdrawal import WITHDRAWAL, Withdrawal, write_withdrawal
from models.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

MOST_CHARACTERS = 500


def verify_run(folder: Path, console: Console) -> int:
    """Show whether a run's description and journal are as they were written; return 1 if not, else 0."""
    run, fault = Run(folder), broken_link(folder)
    end = run.end.status if run.end else "killed; the records after its last one, if there were any, are lost"
    texts = {folder / name: text for name, text in csv_files(run, arm_rows(run)).items()}
    outdated = [str(path) for path, text in texts.items() if path.exists() and path.read_bytes() != text.encode()]
    if fault:
        say_anyway(console, fault, "bold red")
    else:
        count = f"{len(run.records):,} records, each linked to run.json and those before"
        say(console, f"{folder}: as it was written: {count}")
        say(console, f"how it ended: {end}")
        for path in outdated:
            what = "is not what this version derives from the journal; `bench report` replaces it"
            say_anyway(console, f"{path}: {what}", WARNING)
    status = 1 if fault else 0
    output = VerifyOutput(str(folder), fault is None, fault, len(run.records), end, tuple(outdated))
    show_output(console, "verify", status, output)
    return status


def withdraw_run(folder: Path, why: str, console: Console) -> int:
    """Mark a run as withdrawn, and write its report again; return its status."""
    run, reason = Run(folder), " ".join(why.split())
    if not reason or len(reason) > MOST_CHARACTERS or not reason.isprintable():
        raise UserError(f"--why: allowed: 1 to {MOST_CHARACTERS} printable characters, for the readers of the report")
    if run.withdrawal:
        raise UserError(f"{folder / WITHDRAWAL}: was withdrawn on {run.withdrawal.date}: {run.withdrawal.why}")
    write_withdrawal(folder, Withdrawal(f"{datetime.now(UTC):%Y-%m-%d}", reason))
    withdrawn = write_report(folder, console)
    status = exit_status(withdrawn)
    show_output(console, "withdraw", status, run_output(withdrawn))
    return status
