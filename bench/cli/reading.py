"""Commands about finished runs: `report`, `compare`, `history`, `convert`, `verify` and `withdraw`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import complete
from bench.cli.options import RESULTS, Modes, OutputsOption, ResultsOption, RuleOption, RunArgument, names
from models.errors import UserError


def report(
    modes: Modes,
    folder: RunArgument = RESULTS / "latest",
    rule: RuleOption = None,
) -> None:
    """Write the report of an earlier run again, from its journal."""
    console = modes.console("reading the run")
    from bench.analysis.latency import find_rule
    from bench.commands.run import report_run

    raise typer.Exit(report_run(folder, find_rule(rule) if rule else None, console))


def compare(
    modes: Modes,
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="The folders of two or more runs; all are compared with the first", autocompletion=complete.runs
        ),
    ],
    fail_if_slower: Annotated[
        str | None,
        typer.Option(metavar="PERCENT", help="Exit with 1 if an arm is slower by more than this, such as 5%"),
    ] = None,
    output: OutputsOption = None,
    github: Annotated[bool, typer.Option("--github", help="Print annotations and write the summary of a job")] = False,  # noqa: FBT002 - an option
    rule: RuleOption = None,
) -> None:
    """Compare runs: what became faster or slower.

    Each change has an interval and a verdict.
    """
    from bench.analysis.latency import find_rule
    from bench.commands.compare import CompareOptions, compare_recorded, slowdown

    options = CompareOptions(
        runs=tuple(runs),
        threshold=None if fail_if_slower is None else slowdown(fail_if_slower),
        outputs=tuple(output or ()),
        github=github,
        rule=find_rule(rule) if rule else None,
    )
    raise typer.Exit(compare_recorded(options, modes.console()))


def history(
    modes: Modes,
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="The folders of runs; default: all in the results", autocompletion=complete.runs),
    ] = None,
    results: ResultsOption = RESULTS,
    output: OutputsOption = None,
    rule: RuleOption = None,
) -> None:
    """Show speedups over many runs, and when they changed."""
    from bench.analysis.latency import find_rule
    from bench.commands.compare import show_history

    chosen = find_rule(rule) if rule else None
    show_history(tuple(runs or ()), results, tuple(output or ()), chosen, modes.console())


def convert(
    modes: Modes,
    folder: RunArgument = RESULTS / "latest",
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT[,FORMAT...]",
            help="pyperf, pytest-benchmark, github-action-benchmark, bencher, latex, trace or parquet",
            autocompletion=complete.listed(complete.formats),
        ),
    ] = "",
    output: Annotated[Path | None, typer.Option(help="The folder to write to; default: `exports` in the run's")] = None,
) -> None:
    """Write a run in the formats of other tools."""
    from bench.commands.stored_run import FORMATS, convert_run

    if not (formats := names("--to", to)):
        raise UserError(f"--to: name one or more of {', '.join(FORMATS)}")
    convert_run(folder, formats, output, modes.console())


def verify(modes: Modes, folder: RunArgument = RESULTS / "latest") -> None:
    """Check that the files of a run are as they were written."""
    from bench.commands.stored_run import verify_run

    raise typer.Exit(verify_run(folder, modes.console()))


def withdraw(
    modes: Modes,
    folder: RunArgument,
    why: Annotated[str, typer.Option(help="The reason, for the readers of the report")],
) -> None:
    """Mark a run as withdrawn.

    Its report stays, struck out, and claims nothing.
    """
    from bench.commands.stored_run import withdraw_run

    raise typer.Exit(withdraw_run(folder, why, modes.console()))
