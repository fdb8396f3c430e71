"""`bench compare` and `bench history`."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.analysis.run import Run
from bench.commands.folders import refusing_damage
from bench.compare.changes import compare_runs
from bench.compare.comparison import (
    change_columns,
    change_emphasis,
    comparison_document,
    drift,
    headlines,
    run_effect_text,
)
from bench.compare.history import (
    HISTORY_COLUMNS,
    ODD_COLUMNS,
    ODD_TITLE,
    POINT_COLUMNS,
    HistoryPoint,
    OddRun,
    history_document,
    history_headlines,
    history_points,
    odd_emphasis,
    odd_run,
    point_rows,
    series_of,
)
from bench.compare.matching import require_new
from bench.compare.outputs import github_annotations, to_junit
from bench.console import WARNING, say, say_anyway
from bench.exports.outputs import CompareOutput, ComparisonOutput, HistoryOutput, as_rows, show_output
from bench.journal import RUN, disk_error, write_atomically
from bench.report.document import brief_table
from bench.report.writers import print_table, to_csv, to_markdown
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from bench.analysis.latency import Rule
    from bench.compare.changes import Comparison
    from bench.report.document import Document

MIN_RUNS = 2
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,4})?) ?%")


@dataclass(frozen=True)
class CompareOptions:
    """What to compare and how to show it; `threshold` is the slowdown that fails the gate, None without a gate."""

    runs: tuple[Path, ...]
    threshold: float | None = None
    outputs: tuple[Path, ...] = ()
    github: bool = False
    rule: Rule | None = None


def slowdown(text: str) -> float:
    """Return the fraction in a text such as `5%`."""
    if not (match := PERCENT.fullmatch(text.strip())):
        raise UserError(f"--fail-if-slower {text}: allowed: a percentage, such as 5%")
    return float(match[1]) / 100


def compare_recorded(options: CompareOptions, console: Console) -> int:
    """Compare the first run with the others; return 1 if the gate tripped, else 0."""
    if len(options.runs) < MIN_RUNS:
        raise UserError("compare: name two or more runs, such as results/before results/after")
    require_suffixes(options.outputs, (".md", ".csv", ".xml"))
    summary = _step_summary() if options.github else None
    runs = [Run(path, options.rule) for path in options.runs]
    seen: dict[tuple[str, int], Path] = {}
    for path, run in zip(options.runs, runs, strict=True):
        require_new(path, run, seen)
    names = dict(zip(runs, path_names(options.runs), strict=True))
    with refusing_damage(*options.runs):
        comparisons = compare_runs(runs[0], runs[1:], options.threshold)
        document = comparison_document(comparisons, names, options.threshold)
    for path, comparison in zip(options.runs[1:], comparisons, strict=True):
        if not comparison.rows:
            raise UserError(
                f"{path}: has no arm on a case in common with {options.runs[0]}; compare runs of the same suite"
            )
    texts: dict[str, Callable[[], str]] = {
        ".md": lambda: to_markdown(document),
        ".xml": lambda: to_junit(comparisons, names),
        ".csv": lambda: _csv(comparisons, names),
    }
    write_outputs(options.outputs, texts)
    _show(document, comparisons, names, console)
    answer = tuple(headlines(comparisons, names, options.threshold))
    for line in answer:
        say_anyway(console, line, "bold")
    if options.github:
        for line in github_annotations(comparisons, names, options.threshold):
            say_anyway(console, line)
    if summary:
        _append(summary, to_markdown(document))
    status = 1 if any(comparison.regressions for comparison in comparisons) else 0
    compared = tuple(_output(comparison, names) for comparison in comparisons)
    show_output(console, "compare", status, CompareOutput(options.threshold, answer, document.warnings, compared))
    return status


def _output(comparison: Comparison, names: dict[Run, str]) -> ComparisonOutput:
    return ComparisonOutput(
        before=names[comparison.before],
        after=names[comparison.after],
        same_machine=not comparison.other_machine,
        regressions=len(comparison.regressions),
        rows=as_rows(comparison.rows, change_columns(comparison, names)),
        notes=tuple(comparison.notes),
        missing=tuple(comparison.missing),
    )


def show_history(
    folders: tuple[Path, ...], results: Path, outputs: tuple[Path, ...], rule: Rule | None, console: Console
) -> None:
    """Show how speedups changed over the runs in these folders, by default over all runs in `results`."""
    require_suffixes(outputs, (".md", ".csv"))
    if importlib.util.find_spec("ruptures") is None:
        raise UserError("history: needs ruptures; install it: python -m pip install ruptures")
    points, odd, left_out = list[HistoryPoint](), list[OddRun](), list[str]()
    seen = dict[tuple[str, int], Path]()
    paths = _history_paths(folders, results)
    for path, name in zip(paths, path_names(paths), strict=True):
        try:
            # One at a time: the journals of many runs need much memory.
            run = Run(path, rule)
            require_new(path, run, seen)
            with refusing_damage(path):
                points += history_points(run, name)
                if what_happened := odd_run(run, name):
                    odd.append(what_happened)
        except UserError as error:
            if folders:
                raise
            left_out.append(f"left out: {error}")
            say_anyway(console, left_out[-1], WARNING)
    series = series_of(points)
    if not series:
        where = ", ".join(map(str, folders)) or str(results)
        raise UserError(f"{where}: no two runs of a machine have a comparison in common; name others, or measure again")
    document = history_document(series, odd)
    texts: dict[str, Callable[[], str]] = {
        ".md": lambda: to_markdown(document),
        ".csv": lambda: to_csv(point_rows(series), POINT_COLUMNS),
    }
    write_outputs(outputs, texts)
    for title in dict.fromkeys(each.title for each in series):
        rows = [each for each in series if each.title == title]
        print_table(brief_table(rows, HISTORY_COLUMNS, title=title), console)
    if odd:
        print_table(brief_table(odd, ODD_COLUMNS, odd_emphasis, title=ODD_TITLE), console)
    answer = tuple(history_headlines(series))
    for line in answer:
        say_anyway(console, line, "bold")
    output = HistoryOutput(
        answer, as_rows(point_rows(series), POINT_COLUMNS), as_rows(odd, ODD_COLUMNS), tuple(left_out)
    )
    show_output(console, "history", 0, output)


def _history_paths(folders: Sequence[Path], results: Path) -> Sequence[Path]:
    """Return the folders, or all runs in `results`, without links such as `latest`."""

    def runs_in(path: Path) -> list[Path]:
        return [file.parent for file in sorted(path.glob(f"*/{RUN}")) if not file.parent.is_symlink()]

    if len(folders) == 1 and not (folders[0] / RUN).exists() and runs_in(folders[0]):
        raise UserError(f"history: {folders[0]} is a folder of runs; name it with --results")
    return folders or runs_in(results)


def require_suffixes(outputs: Sequence[Path], allowed: Sequence[str]) -> None:
    for path in outputs:
        if path.suffix not in allowed:
            raise UserError(f"--output {path}: allowed: a file that ends in {', '.join(allowed)}")
        if not path.parent.is_dir():
            raise UserError(f"--output {path}: {path.parent} is not a folder; make it first")


def write_outputs(outputs: Sequence[Path], texts: dict[str, Callable[[], str]]) -> None:
    """Write each file in the format of its suffix, after all of them are rendered."""
    rendered = {path: texts[path.suffix]() for path in outputs}
    for path, text in rendered.items():
        write_atomically(path, text)


def path_names(paths: Sequence[Path]) -> list[str]:
    """Return the names of the runs' folders, or their paths if two have the same name."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else list(map(str, paths))


def _show(document: Document, comparisons: Sequence[Comparison], names: dict[Run, str], console: Console) -> None:
    for comparison in comparisons:
        pair = f"{names[comparison.after]} compared with {names[comparison.before]}"
        for case in dict.fromkeys(row.case for row in comparison.rows):
            rows = [row for row in comparison.rows if row.case == case]
            columns = change_columns(comparison, names, case)
            print_table(brief_table(rows, columns, change_emphasis, f"{pair}: {case.label}"), console)
            say(console, drift(rows))
            say(console, "")
        say(console, run_effect_text(comparison))
        for line in (*comparison.notes, *comparison.missing):
            say(console, line, "dim")
    for line in document.warnings:
        say(console, line, WARNING)
    say(console, "Speeds, later run / earlier run: above 1 is faster. The runs are not interleaved.")


def _csv(comparisons: Sequence[Comparison], names: dict[Run, str]) -> str:
    tables = [to_csv(comparison.rows, change_columns(comparison, names)) for comparison in comparisons]
    return tables[0] + "".join(text.partition("\n")[2] for text in tables[1:])


def _step_summary() -> Path:
    if path := os.environ.get(STEP_SUMMARY):
        return Path(path)
    raise UserError(f"--github: {STEP_SUMMARY} is not set; use it in a GitHub job, or write --output summary.md")


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
    except OSError as error:
        raise disk_error(path, error) from error
