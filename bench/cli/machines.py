"""Commands for other machines: `bundle` and `fleet`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.cli import complete
from bench.cli.options import RESULTS, DataOption, Modes, ResultsOption, app, names, thread_count
from models.errors import UserError

# Options of `bench run` that a fleet sets for each node.
OF_EACH_NODE = ("--results", "--name", "--resume", "--seed")

fleet_app = typer.Typer(help="The same run on many machines, and one report.")


def bundle(
    modes: Modes,
    folder: Annotated[Path, typer.Argument(help="The folder to make")],
    environments: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME...]",
            help="Default: those that exist here, else those that tox makes",
            autocompletion=complete.listed(complete.environments),
        ),
    ] = None,
    torch_index: Annotated[
        str | None,
        typer.Option(metavar="URL|FOLDER", help="An index or folder with CPU wheels of torch; default: uv's settings"),
    ] = None,
    data: DataOption = "auto",
) -> None:
    """Collect all that a machine without a network needs: environments, tools, data, and a script to install them."""
    console = modes.console("reading options")
    from bench.commands.bundle import BundleOptions, make_bundle

    make_bundle(BundleOptions(folder, names("--environments", environments), torch_index or None, data), console)


@fleet_app.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def fleet_run(
    context: typer.Context,
    driver: Annotated[str, typer.Option(help="How nodes are reached: ssh, slurm or ray")] = "ssh",
    home: Annotated[
        str | None, typer.Option(help="The folder of the checkout, or of the placed bundle, on nodes")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="A folder that `bench bundle` has made, to install on each node first")
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="The interpreter on nodes, from --home; default: .tox/vanilla/bin/python")
    ] = None,
    hosts: Annotated[Path | None, typer.Option(help="ssh: a file with one destination on each line")] = None,
    ssh_config: Annotated[Path | None, typer.Option(help="ssh: a configuration file of the client")] = None,
    address: Annotated[
        str | None, typer.Option(help="ray: the address of the cluster, auto (the default), or local to start one")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="slurm: the partition; default: the cluster's own")] = None,
    minutes: Annotated[int | None, typer.Option(help="slurm: the time limit of a node's job; default: 240")] = None,
    require: Annotated[
        str | None, typer.Option(metavar="NAME[,NAME...]", help="Refuse nodes without these instruction sets")
    ] = None,
    free: Annotated[float, typer.Option(metavar="GB", help="Refuse nodes with less free disk space")] = 1.0,
    wait: Annotated[
        float, typer.Option(metavar="MINUTES", help="How long a node waits for the end of another measurement")
    ] = 0.0,
    patience: Annotated[
        float, typer.Option(metavar="MINUTES", help="Stop a node that records nothing for so long")
    ] = 30.0,
    results: ResultsOption = RESULTS,
    name: Annotated[str | None, typer.Option(help="The name of the fleet's folder; default: the time")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="NAME", help="Go on with a fleet of this name; its options stay as they were")
    ] = None,
    again: Annotated[
        str | None, typer.Option(metavar="NODE[,NODE...]", help="With --resume: nodes to start once more")
    ] = None,
) -> None:
    """Measure the same suite on many machines; all other options are those of `bench run`."""
    console = Modes().console("reading options")
    from bench.commands.fleet import FleetOptions, resume_fleet, run_fleet

    if resume:
        if context.args:
            raise UserError(f"{context.args[0]}: --resume repeats the fleet's own options; leave out all others")
        raise typer.Exit(resume_fleet(results, resume, names("--again", again), console))
    if again:
        raise UserError("--again: needs --resume with the name of the fleet")
    if not home:
        raise UserError("--home: name the folder of the checkout on the nodes, or where --bundle is placed")
    if not home.startswith("/"):
        raise UserError(f"--home {home}: allowed: an absolute path, the same on every node")
    if minutes is not None and minutes < 1:
        raise UserError(f"--minutes {minutes}: allowed: 1 or more")
    given = {
        "python": python,
        "hosts": hosts and str(hosts.absolute()),
        "address": address,
        "partition": partition,
        "minutes": minutes and str(minutes),
        "ssh_config": ssh_config and str(ssh_config.absolute()),
    }
    options = FleetOptions(
        driver=driver,
        home=home.rstrip("/") or "/",
        settings={key: value for key, value in given.items() if value},
        arguments=run_arguments(context.args),
        results=results,
        name=name or None,
        bundle=bundle,
        instruction_sets=names("--require", require),
        free_gb=free,
        wait_minutes=wait,
        patience_minutes=patience,
    )
    raise typer.Exit(run_fleet(options, console))


@fleet_app.command("report")
def fleet_report(folder: Annotated[Path, typer.Argument(help="The folder of a fleet")]) -> None:
    """Write the report of a fleet again, from what its nodes have sent."""
    from bench.commands.fleet import report_fleet

    raise typer.Exit(report_fleet(folder, Modes().console()))


@fleet_app.command("stop")
def fleet_stop(folder: Annotated[Path, typer.Argument(help="The folder of a fleet")]) -> None:
    """Stop the runs of a fleet on its nodes; `bench fleet run --resume` can go on with them."""
    from bench.commands.fleet import stop_fleet

    raise typer.Exit(stop_fleet(folder, Modes().console()))


@fleet_app.command("trial", hidden=True)
def fleet_trial() -> None:
    """Train what a line of JSON on the standard input describes; nodes of `bench tune --fleet` start this."""
    from bench.commands.train import run_trial

    run_trial(sys.stdin.readline(), thread_count)


def run_arguments(arguments: list[str]) -> tuple[str, ...]:
    """Return the arguments of `bench run`, as every node gets them; raises UserError for what it would refuse."""
    from typer.main import get_command

    from bench.suite.parse import load_suite
    from bench.suite.schedule import find_preset

    for argument in arguments:
        if (option := argument.partition("=")[0]) in OF_EACH_NODE:
            raise UserError(f"{option}: no option of a fleet, which sets it for each node")
    command = get_command(app).commands["run"]  # type: ignore[attr-defined] # an application with several commands
    options = command.make_context("run", list(arguments)).params
    suite = options["suite"]
    if not suite.startswith("/"):
        if "/" in suite or suite.endswith(".toml"):
            raise UserError(f"--suite {suite}: allowed: a name, or the absolute path of a file that each node has")
        load_suite(suite)
    find_preset(options["preset"])
    return tuple(arguments)
