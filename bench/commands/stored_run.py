"""What is done with a stored run: `bench convert`, `verify` and `withdraw`."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

from bench.analysis.run import Run
from bench.commands.folders import MEASURING, refusing_damage
from bench.console import WARNING, say, say_anyway
from bench.exports.frames import to_parquet
from bench.exports.latex import to_latex
from bench.exports.outputs import ConvertOutput, VerifyOutput, run_output, show_output
from bench.exports.peers import left_out, to_bencher, to_github_action, to_pyperf, to_pytest_benchmark
from bench.exports.trace import to_trace
from bench.journal import broken_link, disk_error
from bench.processes.lock import only_command_in
from bench.report.arm_table import arm_rows
from bench.report.run_report import csv_files, exit_status, write_report
from bench.withdrawal import WITHDRAWAL, Withdrawal, write_withdrawal
from models.errors import UserError, unknown
from models.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    # From a run to its files by name.
    Writer: TypeAlias = Callable[[Run], Mapping[str, str | bytes]]

MOST_CHARACTERS = 500
PARQUET = "parquet"
FORMATS: dict[str, Writer] = {
    "pyperf": to_pyperf,
    "pytest-benchmark": to_pytest_benchmark,
    "github-action-benchmark": to_github_action,
    "bencher": to_bencher,
    "latex": to_latex,
    "trace": to_trace,
    PARQUET: to_parquet,
}
# These show every arm, with its verdict or its turns; the others get only arms with valid times.
COMPLETE_FORMATS = {"latex", "trace", PARQUET}


def convert_run(folder: Path, formats: Sequence[str], output: Path | None, console: Console) -> None:
    """Write a run in the formats of other tools, each into a folder of its own below `output`."""
    for name in formats:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    if PARQUET in formats and importlib.util.find_spec("pyarrow") is None:
        raise UserError("--to parquet: needs pyarrow; install it: python -m pip install pyarrow")
    run, target = Run(folder), output or folder / "exports"
    with refusing_damage(folder):
        files = {name: FORMATS[name](run) for name in formats}
        warnings = left_out(run) if set(formats) - COMPLETE_FORMATS else []
    for name, contents in files.items():
        _write(target / name, contents)
    for line in warnings:
        say_anyway(console, line, WARNING)
    for name in formats:
        say(console, f"{name}: {target / name}")
    paths = {name: tuple(str(target / name / file) for file in contents) for name, contents in files.items()}
    show_output(console, "convert", 0, ConvertOutput(paths, tuple(warnings)))


def _write(folder: Path, contents: Mapping[str, str | bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: can't be made ({error.strerror}); name another --output") from error
    for name, content in contents.items():
        try:
            with atomic_write(folder / name) as partial:
                raw = content if isinstance(content, bytes) else content.encode(errors="backslashreplace")
                partial.write_bytes(raw)
        except OSError as error:
            raise disk_error(folder / name, error) from error


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
        raise UserError(
            f"{folder / WITHDRAWAL}: was withdrawn on {run.withdrawal.date}: {run.withdrawal.why}; `bench report` "
            "writes its report again"
        )
    with only_command_in(folder, MEASURING, shared=True):
        write_withdrawal(folder, Withdrawal(f"{datetime.now(UTC):%Y-%m-%d}", reason))
        withdrawn = write_report(folder, console)
    status = exit_status(withdrawn)
    show_output(console, "withdraw", status, run_output(withdrawn))
    return status
