"""Commands that measure: `run`, `claims` and `selftest`; and `doctor`, which looks at the machine before."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli import complete
from bench.cli.options import (
    RESULTS,
    DataOption,
    EnvOption,
    Modes,
    PresetOption,
    ResultsOption,
    RunNameOption,
    names,
    thread_count,
)
from models.errors import UserError

RANDOM_SEED = -1


def run(
    modes: Modes,
    suite: Annotated[
        str, typer.Option(help="The name of a suite, or the path of a suite file", autocompletion=complete.suites)
    ] = "inference",
    preset: PresetOption = "standard",
    stack: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME...]",
            help="Measure only these stacks",
            autocompletion=complete.listed(complete.stacks),
        ),
    ] = None,
    environments: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME...]",
            help="Measure only the stacks in these environments",
            autocompletion=complete.listed(complete.environments),
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME...]",
            help="Replace the suite's models",
            autocompletion=complete.listed(complete.models),
        ),
    ] = None,
    batch_size: Annotated[str | None, typer.Option(metavar="N[,N...]", help="Replace the suite's batch sizes")] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME...]",
            help="Replace the suite's precisions",
            autocompletion=complete.listed(complete.precisions),
        ),
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Numbers of threads, or best: for each arm its fastest one; default: one for each usable core",
        ),
    ] = None,
    workers: Annotated[
        str | None, typer.Option(metavar="N[,N...]", help="Numbers of workers that train together, in suite scaling")
    ] = None,
    interface: Annotated[
        str | None, typer.Option(help="The network interface on which these workers communicate; default: lo")
    ] = None,
    place: Annotated[
        list[str] | None,
        typer.Option(metavar="COMMAND", help="Start these workers through a command; repeat it for the next worker"),
    ] = None,
    isa: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME...]",
            help="Settings to measure bf16 and int8 with as well: no-amx",
            autocompletion=complete.listed(complete.limits),
        ),
    ] = None,
    env: EnvOption = None,
    data: DataOption = "auto",
    seed: Annotated[int | None, typer.Option(help="The seed of the schedule; default: random, and stored")] = None,
    results: ResultsOption = RESULTS,
    name: RunNameOption = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Go on with an unfinished run of this name; repeat its other options",
            autocompletion=complete.run_names,
        ),
    ] = None,
) -> None:
    """Measure a suite, and write a report with the speedups."""
    console = modes.console("reading options, data and machine")
    from bench.commands.run import RunOptions, run_suite
    from bench.suite.parse import load_suite
    from bench.suite.schedule import MAX_SEED, find_preset
    from bench.suite.user_variables import user_variables

    if seed is not None and not RANDOM_SEED <= seed <= MAX_SEED:
        raise UserError(f"--seed {seed}: allowed: 0 to {MAX_SEED}, or {RANDOM_SEED} for a random one")
    options = RunOptions(
        suite=load_suite(suite),
        preset=find_preset(preset),
        stacks=names("--stack", stack),
        environments=names("--environments", environments),
        models=names("--model", model),
        batch_sizes=_numbers("--batch-size", batch_size),
        precisions=names("--precision", precision),
        threads=_thread_counts(threads),
        workers=_numbers("--workers", workers),
        interface=interface or None,
        places=tuple(place or ()),
        limits=names("--isa", isa),
        data=data,
        seed=None if seed == RANDOM_SEED else seed,
        results=results,
        name=name or None,
        resume=resume or None,
        variables=user_variables(env or ()),
    )
    raise typer.Exit(run_suite(options, console))


def claims(
    modes: Modes,
    preset: Annotated[
        str,
        typer.Option(help="The preset of missing runs: quick, standard or publish", autocompletion=complete.presets),
    ] = "quick",
    only_read: Annotated[bool, typer.Option("--only-read", help="Measure nothing; use earlier runs")] = False,  # noqa: FBT002 - an option
    data: DataOption = "auto",
    results: ResultsOption = RESULTS,
) -> None:
    """Compare published claims with what is measured here.

    Each is reproduced, not reproduced, or not testable here, with the reason.
    """
    console = modes.console("reading options, data and machine")
    from bench.commands.claims import compare_claims
    from bench.suite.schedule import find_preset

    chosen = find_preset(preset)
    if chosen.confidence is None:
        raise UserError(f"--preset {preset}: claims nothing; allowed: quick, standard, publish")
    raise typer.Exit(compare_claims(None if only_read else chosen, results, data, console))


def selftest(
    modes: Modes,
    stack: Annotated[
        str | None,
        typer.Option(
            help="The stack to compare with itself; default: the first vanilla one", autocompletion=complete.stacks
        ),
    ] = None,
    env: EnvOption = None,
    results: ResultsOption = RESULTS,
    name: RunNameOption = None,
) -> None:
    """Test the harness on this machine.

    Identical arms must be equal, and known slowdowns must be detected.
    """
    console = modes.console("reading options, data and machine")
    from bench.commands.selftest import run_selftest
    from bench.suite.user_variables import user_variables

    raise typer.Exit(run_selftest(stack or None, results, name or None, console, user_variables(env or ())))


def doctor(modes: Modes) -> None:
    """Show what disturbs measurements on this machine, and the remedy."""
    console = modes.console("observing the machine")
    from bench.commands.doctor import examine_machine

    examine_machine(console)


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    listed = names(option, text, "whole numbers")
    try:
        return tuple(map(int, listed))
    except ValueError as error:
        raise UserError(f"{option} {text}: allowed: whole numbers, separated by commas") from error


def _thread_counts(text: str | None) -> tuple[int, ...]:
    from bench.suite.arms import BEST_THREADS

    listed = names("--threads", text, "whole numbers and best")
    try:
        numbers = {name: int(name) for name in listed if name != "best"}
    except ValueError as error:
        raise UserError(f"--threads {text}: allowed: whole numbers and best, separated by commas") from error
    return tuple(dict.fromkeys(thread_count(numbers[name]) if name in numbers else BEST_THREADS for name in listed))
