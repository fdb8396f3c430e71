"""`bench convert`."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, TypeAlias

from bench.analysis.run import Run
from bench.commands.folders import refusing_damage
from bench.console import WARNING, say, say_anyway
from bench.exports.frames import to_parquet
from bench.exports.latex import to_latex
from bench.exports.outputs import ConvertOutput, show_output
from bench.exports.peers import left_out, to_bencher, to_github_action, to_pyperf, to_pytest_benchmark
from bench.exports.trace import to_trace
from bench.journal import disk_error
from models.errors import UserError, unknown
from models.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    # From a run to its files by name.
    Writer: TypeAlias = Callable[[Run], Mapping[str, str | bytes]]

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
