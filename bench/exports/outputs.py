"""What commands print with `--json`. docs/schema/output-1.schema.json is made from these dataclasses."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from bench.analysis.speedups import speedups
from bench.codec import encode
from bench.console import BrokenPipeSafeConsole, wants_json, write_lines
from bench.machine.diagnosis import Finding
from bench.report.answer.wording import answer_sentence
from bench.report.arm_table import arm_columns, arm_rows
from bench.report.tables import speedup_columns
from bench.report.text import problems, warnings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from bench.analysis.run import Run
    from bench.report.document import Column

T = TypeVar("T")
Fields: TypeAlias = dict[str, str | float | bool | None]

OUTPUT_SCHEMA = 1


@dataclass(frozen=True)
class RunOutput:
    """A run: `arms` and `speedups` have the columns of arms.csv and speedups.csv. A missing figure is null."""

    folder: str
    report: str
    data: str
    answer: str
    warnings: tuple[str, ...]
    problems: tuple[str, ...]
    speedups: tuple[Fields, ...]
    arms: tuple[Fields, ...]


@dataclass(frozen=True)
class ComparisonOutput:
    """A run compared with the first one; `rows` have the columns of the CSV file of `bench compare`."""

    before: str
    after: str
    same_machine: bool
    regressions: int
    rows: tuple[Fields, ...]
    notes: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class CompareOutput:
    """`threshold` is the slowdown that fails the gate, as a fraction, null without a gate."""

    threshold: float | None
    answer: tuple[str, ...]
    warnings: tuple[str, ...]
    comparisons: tuple[ComparisonOutput, ...]


@dataclass(frozen=True)
class HistoryOutput:
    """`points` have the columns of the CSV file of `bench history`; `left_out` are runs that can't be read.

    `odd` are runs that did not end, or were withdrawn.
    """

    answer: tuple[str, ...]
    points: tuple[Fields, ...]
    odd: tuple[Fields, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class ConvertOutput:
    """The files of each format; `left_out` says which arms are not in them, and why."""

    files: dict[str, tuple[str, ...]]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class VerifyOutput:
    """`fault` says where the files were changed; `outdated` are tables that differ from what the journal gives."""

    folder: str
    intact: bool
    fault: str | None
    records: int
    ended: str
    outdated: tuple[str, ...]


@dataclass(frozen=True)
class Named:
    name: str
    summary: str


@dataclass(frozen=True)
class ListedStack:
    """A stack; `variants` have the precisions in brackets, as the console shows them."""

    name: str
    summary: str
    environment: str | None
    variants: tuple[Named, ...]


@dataclass(frozen=True)
class ListOutput:
    suites: tuple[Named, ...]
    presets: tuple[Named, ...]
    stacks: tuple[ListedStack, ...]
    settings: tuple[Named, ...]
    models: tuple[Named, ...]
    recipes: tuple[Named, ...]


@dataclass(frozen=True)
class ClaimsOutput:
    """`claims` have the columns of claims.csv."""

    files: tuple[str, ...]
    claims: tuple[Fields, ...]


@dataclass(frozen=True)
class SelftestOutput:
    """`trials` have what was tested, found and wanted, and whether it passed."""

    folder: str
    trials: tuple[Fields, ...]


@dataclass(frozen=True)
class DoctorOutput:
    """A finding with `advice` disturbs or prevents measurements; the advice says what to do."""

    findings: tuple[Finding, ...]


Output: TypeAlias = (
    RunOutput
    | CompareOutput
    | HistoryOutput
    | ConvertOutput
    | VerifyOutput
    | ListOutput
    | ClaimsOutput
    | SelftestOutput
    | DoctorOutput
)
OUTPUTS: dict[str, type[Output]] = {
    "run": RunOutput,
    "report": RunOutput,
    "withdraw": RunOutput,
    "compare": CompareOutput,
    "history": HistoryOutput,
    "convert": ConvertOutput,
    "verify": VerifyOutput,
    "list": ListOutput,
    "claims": ClaimsOutput,
    "selftest": SelftestOutput,
    "doctor": DoctorOutput,
}


def show_output(console: Console, command: str, status: int, output: Output) -> None:
    """Print the result of a command, if its user wants JSON; `status` is the exit status."""
    if wants_json(console):
        content = {"schema": OUTPUT_SCHEMA, "command": command, "status": status, **encode(output)}
        write_lines(BrokenPipeSafeConsole(), json.dumps(content, indent=1, allow_nan=False))


def run_output(run: Run) -> RunOutput:
    arms = [row for rows in arm_rows(run).values() for row in rows]
    return RunOutput(
        folder=str(run.folder),
        report=str(run.folder / "report.html"),
        data=run.data,
        answer=answer_sentence(run),
        warnings=tuple(warnings(run)),
        problems=tuple(problems(run)),
        speedups=as_rows(speedups(run), speedup_columns(run)),
        arms=as_rows(arms, arm_columns(run)),
    )


def as_rows(rows: Iterable[T], columns: Sequence[Column[T]]) -> tuple[Fields, ...]:
    """Return the columns that have a key; JSON has no NaN and no infinity."""
    return tuple({column.key: _finite(column.value(row)) for column in columns if column.key} for row in rows)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
