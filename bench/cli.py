"""The command line: turn options into types, make one call, and turn errors into one line and an exit status."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from models.errors import UserError, remedy_of
from models.texts import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.commands.train import TrainOptions
    from bench.console import BrokenPipeSafeConsole

app = typer.Typer(
    name="bench",
    help="Is the Intel-optimised stack worth it on my machine?",
    add_completion=False,
    pretty_exceptions_enable=False,
)

RESULTS = Path("results")
# What Typer returns after Ctrl-C.
SHELL_INTERRUPTED = 130

RANDOM_SEED = -1
LONGEST_MESSAGE = 4000

# Options of several commands. An empty text, 0 threads and 0 epochs count as not given.
DataOption = Annotated[str, typer.Option(help="auto, fashion-mnist, synthetic, or a folder with the official files")]
ResultsOption = Annotated[Path, typer.Option(help="The folder for all results")]
RunNameOption = Annotated[
    str | None, typer.Option(help="The name of the run's folder; default: the suite and the time")
]
ThreadsOption = Annotated[int | None, typer.Option(help="The number of threads; default: one for each usable core")]
ModelOption = Annotated[str | None, typer.Option("--model", help="The model, if the file does not name it")]
ModelFileArgument = Annotated[Path, typer.Argument(help="A model file, or the folder of a training")]
PresetOption = Annotated[str, typer.Option(help="smoke, quick, standard or publish")]
EnvOption = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="NAME=VALUE", help="Hand an environment variable to all arms; may be repeated"),
]
RuleOption = Annotated[
    str | None, typer.Option(help="The rule for latencies: at-rest or as-it-was; default: the run's own")
]
OutputsOption = Annotated[
    list[Path] | None, typer.Option(metavar="FILE", help="Write this file, in the format of its suffix; repeatable")
]
# Options of `train` and `tune`.
RecipeOption = Annotated[str, typer.Option(help="The name of a recipe, or the path of a recipe file")]
TrainStackOption = Annotated[str, typer.Option("--stack", help="The stack to train on")]
VariantOption = Annotated[str | None, typer.Option(help="The variant to train with; default: the stack's default")]
PrecisionOption = Annotated[str, typer.Option(help="fp32 or bf16")]
TrainNameOption = Annotated[str | None, typer.Option(help="The name of the folder; default: recipe, stack and seed")]
ChangesOption = Annotated[
    str | None, typer.Option("--set", metavar="KEY=VALUE,...", help="Change settings of the recipe")
]


@app.command()
def run(
    suite: Annotated[str, typer.Option(help="The name of a suite, or the path of a suite file")] = "inference",
    preset: PresetOption = "standard",
    stack: Annotated[str | None, typer.Option(metavar="NAME[,NAME...]", help="Measure only these stacks")] = None,
    environments: Annotated[
        str | None, typer.Option(metavar="NAME[,NAME...]", help="Measure only the stacks in these environments")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME[,NAME...]", help="Replace the suite's models")] = None,
    batch_size: Annotated[str | None, typer.Option(metavar="N[,N...]", help="Replace the suite's batch sizes")] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="NAME[,NAME...]", help="Replace the suite's precisions")
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Numbers of threads, or best: for each arm its fastest one; default: one for each usable core",
        ),
    ] = None,
    isa: Annotated[
        str | None,
        typer.Option(metavar="NAME[,NAME...]", help="Settings to measure bf16 and int8 with as well: no-amx"),
    ] = None,
    env: EnvOption = None,
    data: DataOption = "auto",
    seed: Annotated[int | None, typer.Option(help="The seed of the schedule; default: random, and stored")] = None,
    results: ResultsOption = RESULTS,
    name: RunNameOption = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Go on with an unfinished run of this name; repeat its other options"),
    ] = None,
) -> None:
    """Measure a suite, and write a report with the speedups."""
    console = _console("reading options, data and machine")
    from bench.commands.run import RunOptions, run_suite
    from bench.suite.parse import load_suite
    from bench.suite.schedule import MAX_SEED, find_preset
    from bench.suite.user_variables import user_variables

    if seed is not None and not RANDOM_SEED <= seed <= MAX_SEED:
        raise UserError(f"--seed {seed}: allowed: 0 to {MAX_SEED}, or {RANDOM_SEED} for a random one")
    options = RunOptions(
        suite=load_suite(suite),
        preset=find_preset(preset),
        stacks=_names("--stack", stack),
        environments=_names("--environments", environments),
        models=_names("--model", model),
        batch_sizes=_numbers("--batch-size", batch_size),
        precisions=_names("--precision", precision),
        threads=_thread_counts(threads),
        limits=_names("--isa", isa),
        data=data,
        seed=None if seed == RANDOM_SEED else seed,
        results=results,
        name=name or None,
        resume=resume or None,
        variables=user_variables(env or ()),
    )
    raise typer.Exit(run_suite(options, console))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a run")] = RESULTS / "latest",
    rule: RuleOption = None,
) -> None:
    """Write the report of an earlier run again, from its journal."""
    console = _console("reading the run")
    from bench.analysis.latency import find_rule
    from bench.commands.run import report_run

    raise typer.Exit(report_run(folder, find_rule(rule) if rule else None, console))


@app.command()
def verify(folder: Annotated[Path, typer.Argument(help="The folder of a run")] = RESULTS / "latest") -> None:
    """Check that a run's description and journal are as they were written."""
    from bench.commands.integrity import verify_run

    raise typer.Exit(verify_run(folder, _console()))


@app.command()
def withdraw(
    folder: Annotated[Path, typer.Argument(help="The folder of a run")],
    why: Annotated[str, typer.Option(help="The reason, for the readers of the report")],
) -> None:
    """Mark a run as withdrawn: its report stays, struck out, and claims nothing."""
    from bench.commands.integrity import withdraw_run

    raise typer.Exit(withdraw_run(folder, why, _console()))


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="The folders of two or more runs; all are compared with the first")
    ],
    fail_if_slower: Annotated[
        str | None,
        typer.Option(metavar="PERCENT", help="Exit with 1 if an arm is slower by more than this, such as 5%"),
    ] = None,
    output: OutputsOption = None,
    github: Annotated[bool, typer.Option("--github", help="Print annotations and write the summary of a job")] = False,  # noqa: FBT002 - an option
    rule: RuleOption = None,
) -> None:
    """Compare runs: how much faster or slower each arm became, with intervals and verdicts."""
    from bench.analysis.latency import find_rule
    from bench.commands.compare import CompareOptions, compare_recorded, slowdown

    options = CompareOptions(
        runs=tuple(runs),
        threshold=None if fail_if_slower is None else slowdown(fail_if_slower),
        outputs=tuple(output or ()),
        github=github,
        rule=find_rule(rule) if rule else None,
    )
    raise typer.Exit(compare_recorded(options, _console()))


@app.command()
def history(
    runs: Annotated[list[Path] | None, typer.Argument(help="The folders of runs; default: all in the results")] = None,
    results: ResultsOption = RESULTS,
    output: OutputsOption = None,
    rule: RuleOption = None,
) -> None:
    """Show speedups over many runs, and from which run on they changed."""
    from bench.analysis.latency import find_rule
    from bench.commands.compare import show_history

    chosen = find_rule(rule) if rule else None
    show_history(tuple(runs or ()), results, tuple(output or ()), chosen, _console())


@app.command()
def convert(
    folder: Annotated[Path, typer.Argument(help="The folder of a run")] = RESULTS / "latest",
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT[,FORMAT...]",
            help="pyperf, pytest-benchmark, github-action-benchmark, bencher, latex, trace or parquet",
        ),
    ] = "",
    output: Annotated[Path | None, typer.Option(help="The folder to write to; default: `exports` in the run's")] = None,
) -> None:
    """Write a run in the formats of other tools."""
    from bench.commands.convert import FORMATS, convert_run

    if not (formats := _names("--to", to)):
        raise UserError(f"--to: name one or more of {', '.join(FORMATS)}")
    convert_run(folder, formats, output, _console())


@app.command("list")
def list_() -> None:
    """List the suites, presets, stacks, variants, models and recipes."""
    from bench.commands.catalogue import list_all

    list_all(_console())


@app.command()
def models(name: Annotated[str | None, typer.Argument(help="The name of a model; default: all models")] = None) -> None:
    """Show the layers of a model: output shapes, parameters and multiply-adds."""
    from bench.commands.catalogue import show_models

    show_models(name or None, _console())


@app.command()
def train(
    recipe: RecipeOption,
    stack: TrainStackOption = "pytorch",
    variant: VariantOption = None,
    precision: PrecisionOption = "fp32",
    epochs: Annotated[int | None, typer.Option(help="The number of epochs; default: the recipe's")] = None,
    seed: Annotated[int, typer.Option(help="The seed of initial weights, image order and augmentation")] = 0,
    threads: ThreadsOption = None,
    env: EnvOption = None,
    data: DataOption = "auto",
    results: ResultsOption = RESULTS,
    name: TrainNameOption = None,
    output: Annotated[str | None, typer.Option(help="A .safetensors file to copy the model to")] = None,
    changes: ChangesOption = None,
) -> None:
    """Train a model, or continue an interrupted training, and write its learning curves and evaluation."""
    console = _console("reading options, data and machine")
    from bench.commands.train import train_model

    options = _train_options(
        recipe, stack, variant, precision, epochs, seed, threads, env, data, results, name, changes
    )
    train_model(options, Path(output) if output else None, console)


@app.command()
def tune(
    recipe: RecipeOption,
    stack: TrainStackOption = "pytorch",
    variant: VariantOption = None,
    precision: PrecisionOption = "fp32",
    trials: Annotated[int, typer.Option(help="The number of trials, with those of an interrupted search")] = 20,
    epochs: Annotated[int, typer.Option(help="The number of epochs of each trial")] = 3,
    seed: Annotated[int, typer.Option(help="The seed of the search, and of each trial's training")] = 0,
    threads: ThreadsOption = None,
    env: EnvOption = None,
    data: DataOption = "auto",
    results: ResultsOption = RESULTS,
    name: TrainNameOption = None,
    changes: ChangesOption = None,
) -> None:
    """Search batch size, learning rate and rho on held-out training images, or continue an interrupted search."""
    console = _console("reading options, data and machine")
    from bench.commands.train import tune_recipe

    options = _train_options(
        recipe, stack, variant, precision, epochs, seed, threads, env, data, results, name, changes
    )
    tune_recipe(options, trials, console)


@app.command()
def evaluate(
    file: ModelFileArgument,
    arms: Annotated[
        str | None, typer.Option(metavar="STACK/VARIANT[/PRECISION],...", help="Default: every installed stack")
    ] = None,
    model: ModelOption = None,
    threads: ThreadsOption = None,
    env: EnvOption = None,
    data: DataOption = "auto",
    results: ResultsOption = RESULTS,
    name: Annotated[
        str | None, typer.Option(help="The name of the folder for a file; default: the file's name")
    ] = None,
) -> None:
    """Evaluate a trained model on the test images, on vanilla and Intel-optimised stacks."""
    console = _console("reading options, data and machine")
    from bench.commands.model_files import EvaluateOptions, evaluate_model, inference_arm
    from bench.suite.user_variables import user_variables

    options = EvaluateOptions(
        path=file,
        threads=_thread_count(threads),
        variables=user_variables(env or ()),
        model=model or None,
        arms=tuple(map(inference_arm, _names("--arms", arms))),
        data=data,
        results=results,
        name=name or None,
    )
    raise typer.Exit(evaluate_model(options, console))


@app.command()
def export(
    file: ModelFileArgument,
    output: Annotated[Path, typer.Argument(help="A file that ends in .pth, .h5, .xml, .onnx or .safetensors")],
    model: ModelOption = None,
) -> None:
    """Write a model for other tools: a PyTorch state dict, Keras weights, OpenVINO IR, ONNX or safetensors."""
    from bench.commands.model_files import export_file

    export_file(file, output, model or None, _console())


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A PyTorch, Keras or safetensors file with weights")],
    output: Annotated[Path, typer.Argument(help="The .safetensors file to write")],
    model: Annotated[str, typer.Option(help="The model that the weights belong to")],
    key: Annotated[str | None, typer.Option(help="The entry of the file, or the prefix of the names, to read")] = None,
    bn_epsilon: Annotated[
        float | None, typer.Option(help="The epsilon of the file's batch normalisation, such as 1e-5")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="How feature maps are flattened: channels-first or channels-last")
    ] = None,
    pixels: Annotated[
        str | None,
        typer.Option(metavar="MEAN,DEVIATION", help="How pixels from 0 to 1 are standardised, such as 0.5,0.5"),
    ] = None,
    norm: Annotated[
        str | None, typer.Option(help="The place of batch normalisation: after-activation or before-activation")
    ] = None,
    threads: ThreadsOption = None,
    data: DataOption = "auto",
) -> None:
    """Read the weights of another tool, and show their accuracy; only tensors are read, never code."""
    from bench.commands.model_files import import_file
    from models.formats.read import parse_assumptions

    assumed = parse_assumptions(key, bn_epsilon, layout, pixels, norm)
    import_file(file, output, model, assumed, data, _thread_count(threads), _console())


@app.command()
def claims(
    preset: Annotated[str, typer.Option(help="The preset of missing runs: quick, standard or publish")] = "quick",
    only_read: Annotated[bool, typer.Option("--only-read", help="Measure nothing; use earlier runs")] = False,  # noqa: FBT002 - an option
    data: DataOption = "auto",
    results: ResultsOption = RESULTS,
) -> None:
    """Compare published claims with measurements: reproduced, not reproduced, or why not testable here."""
    console = _console("reading options, data and machine")
    from bench.commands.claims import compare_claims
    from bench.suite.schedule import find_preset

    raise typer.Exit(compare_claims(None if only_read else find_preset(preset), results, data, console))


@app.command()
def selftest(
    stack: Annotated[
        str | None, typer.Option(help="The stack to compare with itself; default: the first vanilla one")
    ] = None,
    env: EnvOption = None,
    results: ResultsOption = RESULTS,
    name: RunNameOption = None,
) -> None:
    """Test the harness on this machine: identical arms must be equal, and known slowdowns must be detected."""
    console = _console("reading options, data and machine")
    from bench.commands.selftest import run_selftest
    from bench.suite.user_variables import user_variables

    raise typer.Exit(run_selftest(stack or None, results, name or None, console, user_variables(env or ())))


@app.command()
def doctor() -> None:
    """Show what this machine is, what disturbs measurements on it, and what to do about that."""
    console = _console("observing the machine")
    from bench.commands.doctor import examine_machine

    examine_machine(console)


def _console(first_line: str = "") -> BrokenPipeSafeConsole:
    """Return the console; on a terminal the first line appears at once, as imports take a second."""
    from bench.console import BrokenPipeSafeConsole, say

    console = BrokenPipeSafeConsole()
    if first_line and console.file.isatty():
        say(console, first_line, "dim")
    return console


def _names(option: str, text: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    if not all(names):
        raise UserError(f"{option} {text!r}: allowed: names separated by commas")
    return names


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(map(int, _names(option, text)))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{option} {text}: allowed: whole numbers, separated by commas") from error


def _thread_counts(text: str | None) -> tuple[int, ...]:
    from bench.suite.arms import BEST_THREADS

    counts = []
    for name in _names("--threads", text):
        if name != "best" and not name.removeprefix("-").isdecimal():
            raise UserError(f"--threads {text}: allowed: whole numbers and best, separated by commas")
        counts.append(BEST_THREADS if name == "best" else _thread_count(int(name)))
    return tuple(dict.fromkeys(counts))


def _thread_count(threads: int | None) -> int:
    from bench.machine.facts import usable_cores

    cores = usable_cores()
    if threads is not None and not 0 <= threads <= cores:
        raise UserError(f"--threads {threads}: allowed: 1 to {cores}, the cores this process may use, or 0 for all")
    return threads or cores


def _train_options(
    recipe: str,
    stack: str,
    variant: str | None,
    precision: str,
    epochs: int | None,
    seed: int,
    threads: int | None,
    env: list[str] | None,
    data: str,
    results: Path,
    name: str | None,
    changes: str | None,
) -> TrainOptions:
    from bench.commands.train import TrainOptions
    from bench.suite.environments import find_stack
    from bench.suite.schedule import MAX_SEED
    from bench.suite.user_variables import user_variables
    from models.recipes.parse import load_recipe

    if epochs is not None and epochs < 0:
        raise UserError(f"--epochs {epochs}: allowed: 0 (the recipe's) or more")
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"--seed {seed}: allowed: 0 to {MAX_SEED}")
    return TrainOptions(
        recipe=load_recipe(recipe, changes or ""),
        stack=find_stack(stack),
        threads=_thread_count(threads),
        variant=variant or None,
        precision=precision,
        epochs=epochs or None,
        seed=seed,
        data=data,
        results=results,
        name=name or None,
        changes=changes or "",
        variables=user_variables(env or ()),
    )


def fail(message: str, status: int = 2) -> NoReturn:
    text = printable(" ".join(message.split()))
    line = f"bench: {text[:LONGEST_MESSAGE]}{'...' if len(text) > LONGEST_MESSAGE else ''}"
    if sys.stderr.isatty():
        from bench.console import wrapped

        line = wrapped(line, shutil.get_terminal_size().columns)
    sys.stderr.write(f"{line}\n")
    sys.exit(status)


@contextmanager
def first_interrupt_only() -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into KeyboardInterrupt, and ignore those that follow it.

    A second Ctrl-C, or the copy of the first one that tox sends, must not cut short what ends a command early: stopping
    the workers, removing temporary files and writing the report. What is ignored already, as nohup ignores SIGHUP,
    stays ignored.
    """
    every = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    numbers = [number for number in every if signal.getsignal(number) != signal.SIG_IGN]
    terminals = [stream.fileno() for stream in (sys.__stdout__, sys.__stderr__) if stream and stream.isatty()]

    def interrupt(received: int, _: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        if received == signal.SIGHUP:
            # The terminal is gone. Writing to it would be an error.
            for descriptor in terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Run the command line; exit 2 with one line if the user's input is wrong."""
    try:
        with first_interrupt_only():
            status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except UserError as error:
        fail(str(error))
    except TyperException as error:
        fail(f"{getattr(error, 'format_message', error.__str__)()}; see `bench --help`, or `bench COMMAND --help`")
    except OSError as error:
        fail(f"{error.filename or 'writing'}: {error.strerror or error}; {remedy_of(error)}, or name another folder")
    if status == SHELL_INTERRUPTED:
        fail("interrupted; finished work is kept, and the same command continues a training or a search", 1)
    sys.exit(status)
