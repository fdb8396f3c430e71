"""The command line: parse, call, print. One place turns errors into one line and an exit status."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from typer.exceptions import TyperException

from models.errors import UserError

app = typer.Typer(
    name="bench",
    help="Is the Intel-optimised stack worth it on my machine?",
    add_completion=False,
    pretty_exceptions_enable=False,
)

RESULTS = Path("results")
SHELL_INTERRUPTED = 130  # what Typer makes of Ctrl-C

Names = Annotated[str, typer.Option(metavar="NAME[,NAME...]")]
StackOption = Annotated[str, typer.Option("--stack", metavar="NAME[,NAME...]", help="Only these stacks")]
DataOption = Annotated[str, typer.Option(help="auto, fashion-mnist, synthetic, or a folder with the official files")]
RecipeOption = Annotated[str, typer.Option(help="A recipe's name, or the path of a recipe file")]
SET_HELP = "Instead of what the recipe says"
ChangesOption = Annotated[str, typer.Option("--set", metavar="KEY=VALUE,...", help=SET_HELP)]
ResultsOption = Annotated[Path, typer.Option(help="Folder of all runs")]
ThreadsOption = Annotated[int, typer.Option(help="Threads of every arm; 0 takes all usable cores")]


@app.command()
def run(
    suite: Annotated[str, typer.Option(help="A suite's name, or the path of a suite file")] = "inference",
    preset: Annotated[str, typer.Option(help="smoke, quick, standard or publish")] = "standard",
    stack: StackOption = "",
    environments: Annotated[str, typer.Option(metavar="NAME[,NAME...]", help="Only stacks of these environments")] = "",
    model: Annotated[str, typer.Option(metavar="NAME[,NAME...]", help="Replace the suite's models")] = "",
    batch_size: Annotated[str, typer.Option(metavar="N[,N...]", help="Replace the suite's batch sizes")] = "",
    precision: Annotated[str, typer.Option(metavar="NAME[,NAME...]", help="Replace the suite's precisions")] = "",
    threads: Annotated[
        str, typer.Option(metavar="N[,N...]", help="Threads of every arm; default: all usable cores")
    ] = "",
    data: DataOption = "auto",
    seed: Annotated[int, typer.Option(help="Of the schedule; drawn and stored when not given")] = -1,
    results: ResultsOption = RESULTS,
    name: Annotated[str, typer.Option(help="Name of this run's folder; default: suite and time")] = "",
) -> None:
    """Measure a suite, pair by pair, and write the report."""
    from bench.commands import run as commands

    choice = commands.RunOptions(suite, preset, stack, environments, model, batch_size, precision, threads, data, seed)
    raise typer.Exit(commands.run(choice, results, name, BrokenPipeSafeConsole(), sys.argv))


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Folder of a run")] = RESULTS / "latest") -> None:
    """Write the tables, plots and pages of a run anew, from its journal."""
    from bench.commands import run as commands

    raise typer.Exit(commands.report(folder, BrokenPipeSafeConsole()))


@app.command("list")
def list_() -> None:
    """Show the suites, presets, stacks with their variants, models and recipes there are."""
    from bench.commands import run as commands

    commands.list_everything(BrokenPipeSafeConsole())


@app.command()
def models(name: Annotated[str, typer.Argument(help="A model; all of them when left out")] = "") -> None:
    """Show a model layer by layer: output shape, parameters, multiply-adds."""
    from bench.commands import run as commands

    commands.show_models(name, BrokenPipeSafeConsole())


@app.command()
def train(
    recipe: RecipeOption,
    stack: Annotated[str, typer.Option(help="The stack to train on")] = "pytorch",
    variant: Annotated[str, typer.Option(help="The stack's way to train; the first of them when not given")] = "",
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
    epochs: Annotated[int, typer.Option(help="Instead of the recipe's; 0 takes the recipe's")] = 0,
    seed: Annotated[int, typer.Option(help="Of the initial weights, the order of images and their augmentation")] = 0,
    threads: ThreadsOption = 0,
    data: DataOption = "auto",
    results: ResultsOption = RESULTS,
    name: Annotated[str, typer.Option(help="Name of the folder; default: recipe, stack, seed")] = "",
    output: Annotated[str, typer.Option(help="A .safetensors file to copy the model to")] = "",
    changes: ChangesOption = "",
) -> None:
    """Train a model, or go on with one that was interrupted, and write its learning curves and evaluation."""
    from bench.commands import train as commands

    wish = commands.TrainOptions(recipe, stack, variant, precision, epochs, seed, threads, data, changes)
    commands.train(wish, results, name, output, BrokenPipeSafeConsole(), sys.argv)


@app.command()
def tune(
    recipe: RecipeOption,
    stack: Annotated[str, typer.Option(help="The stack to train on")] = "pytorch",
    variant: Annotated[str, typer.Option(help="The stack's way to train; the first of them when not given")] = "",
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
    trials: Annotated[int, typer.Option(help="How many there are to be, those of an interrupted search included")] = 20,
    epochs: Annotated[int, typer.Option(help="Of each trial")] = 3,
    seed: Annotated[int, typer.Option(help="Of the search, and of each trial's training")] = 0,
    threads: ThreadsOption = 0,
    data: DataOption = "auto",
    results: ResultsOption = RESULTS,
    name: Annotated[str, typer.Option(help="Name of the folder; default: recipe, stack, seed")] = "",
    changes: ChangesOption = "",
) -> None:
    """Search batch size, learning rate and rho on held-out training images, or go on with a search."""
    from bench.commands import train as commands

    wish = commands.TrainOptions(recipe, stack, variant, precision, epochs, seed, threads, data, changes)
    commands.tune(wish, trials, results, name, BrokenPipeSafeConsole())


ModelOption = Annotated[str, typer.Option("--model", help="The model that a file which does not say so is of")]


@app.command()
def evaluate(
    file: Annotated[Path, typer.Argument(help="A .safetensors file, or the folder of a training")],
    arms: Annotated[str, typer.Option(metavar="STACK/VARIANT[/PRECISION],...", help="Default: every stack")] = "",
    model: ModelOption = "",
    threads: ThreadsOption = 0,
    data: DataOption = "auto",
    results: ResultsOption = RESULTS,
    name: Annotated[str, typer.Option(help="Name of the folder, for a file; default: the file's")] = "",
) -> None:
    """Judge a trained model on the test images, with and without optimisation side by side."""
    from bench.commands import train as commands

    raise typer.Exit(commands.evaluate(file, model, arms, data, threads, results, name, BrokenPipeSafeConsole()))


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="A .safetensors file, or the folder of a training")],
    output: Annotated[Path, typer.Argument(help="A file that ends in .pth, .h5, .xml or .safetensors")],
    model: ModelOption = "",
) -> None:
    """Write a model for other tools: a state dict, Keras's weights, OpenVINO IR."""
    from bench.commands import train as commands

    commands.export(file, output, model, BrokenPipeSafeConsole())


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A .pth or .h5 file of weights")],
    output: Annotated[Path, typer.Argument(help="The .safetensors file to write")],
    model: Annotated[str, typer.Option(help="The model that the weights are of")],
) -> None:
    """Read the weights of another tool; only tensors are read, never code."""
    from bench.commands import train as commands

    commands.import_(file, output, model, BrokenPipeSafeConsole())


@app.command()
def claims(
    preset: Annotated[str, typer.Option(help="Of the runs that are missing")] = "quick",
    only_read: Annotated[bool, typer.Option("--only-read", help="Measure nothing: read earlier runs")] = False,  # noqa: FBT002 - an option
    data: DataOption = "auto",
    results: ResultsOption = RESULTS,
) -> None:
    """Set published claims beside what is measured here: reproduced, not reproduced, or not testable and why."""
    from bench.commands import claims

    console = BrokenPipeSafeConsole()
    status = claims.claims(
        measure=not only_read, preset=preset, results=results, source=data, console=console, argv=sys.argv
    )
    raise typer.Exit(status)


@app.command()
def selftest(
    stack: Annotated[str, typer.Option(help="Measured against itself; default: the first vanilla one there is")] = "",
    results: ResultsOption = RESULTS,
    name: Annotated[str, typer.Option(help="Name of this run's folder; default: selftest and time")] = "",
) -> None:
    """Prove the instrument on this machine: equal arms are equal, and known differences are recovered."""
    from bench.commands import selftest as commands

    raise typer.Exit(commands.selftest(stack, results, name, BrokenPipeSafeConsole(), sys.argv))


@app.command()
def doctor() -> None:
    """Show what this machine is, what disturbs measuring on it, and what to do about that."""
    from bench.machine.diagnosis import show

    show(BrokenPipeSafeConsole())


class BrokenPipeSafeConsole(Console):
    """A console whose reader may leave: the work goes on without output."""

    def on_broken_pipe(self) -> None:
        """Write to nowhere from now on."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(message: str, status: int = 2) -> NoReturn:
    """Print one line and exit."""
    sys.stderr.write(f"bench: {' '.join(message.split())}\n")
    sys.exit(status)


def main() -> None:
    """Run the command line; exit 2 with one line when the user's input is wrong."""
    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except UserError as error:
        fail(str(error))
    except TyperException as error:
        fail(f"{getattr(error, 'format_message', error.__str__)()}; see `bench --help`, or `bench COMMAND --help`")
    except OSError as error:
        fail(f"{error.filename or 'writing'}: {error.strerror or error}; free space or name another folder")
    if status == SHELL_INTERRUPTED:
        fail("interrupted; what was done is kept: the same command goes on with a training or a search", 1)
    sys.exit(status)
