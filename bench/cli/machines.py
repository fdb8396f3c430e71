"""Commands for other machines: `bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import complete
from bench.cli.options import DataOption, Modes, names


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
