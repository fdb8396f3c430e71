"""The application, options of several commands, and what their texts mean."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import complete
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.console import BrokenPipeSafeConsole

app = typer.Typer(
    name="bench",
    help="Is the Intel-optimised stack worth it on my machine?",
    pretty_exceptions_enable=False,
    # Rich's help takes longer to import than everything else.
    rich_markup_mode=None,
    # A value of these is never coerced then, for which Typer would import Pydantic before every help text.
    context_settings={"default_map": dict.fromkeys(("help", "install_completion", "show_completion"), False)},
)

RESULTS = Path("results")

# An empty text, 0 threads and 0 epochs count as not given.
DataOption = Annotated[
    str,
    typer.Option(
        help="auto, fashion-mnist, synthetic, or a folder with the official files", autocompletion=complete.data
    ),
]
ResultsOption = Annotated[Path, typer.Option(help="The folder for all results")]
RunArgument = Annotated[Path, typer.Argument(help="The folder of a run", autocompletion=complete.runs)]
RunNameOption = Annotated[
    str | None, typer.Option(help="The name of the run's folder; default: the suite and the time")
]
PresetOption = Annotated[str, typer.Option(help="smoke, quick, standard or publish", autocompletion=complete.presets)]
EnvOption = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="NAME=VALUE", help="Hand an environment variable to all arms; may be repeated"),
]
RuleOption = Annotated[
    str | None,
    typer.Option(
        help="The rule for latencies: at-rest, where it is the more certain one, or as-it-was; default: the run's own",
        autocompletion=complete.rules,
    ),
]
OutputsOption = Annotated[
    list[Path] | None, typer.Option(metavar="FILE", help="Write this file, in the format of its suffix; repeatable")
]
ThreadsOption = Annotated[int | None, typer.Option(help="The number of threads; default: one for each usable core")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="The model, if the file does not name it", autocompletion=complete.models),
]
ModelFileArgument = Annotated[Path, typer.Argument(help="A model file, or the folder of a training")]


@dataclass(frozen=True)
class Modes:
    """How a command writes: less of it, without decoration, or for other programs."""

    quiet: bool = False
    plain: bool = False
    json: bool = False

    def console(self, first_line: str = "") -> BrokenPipeSafeConsole:
        """Return the console; on a terminal the first line appears at once, as imports take a second."""
        from bench.console import BrokenPipeSafeConsole, say

        console = BrokenPipeSafeConsole(terse=self.quiet, plain=self.plain, json=self.json)
        if first_line and console.file.isatty():
            say(console, first_line, "dim")
        return console


MODE_HELP = {
    "quiet": "Print only the answer, and what went wrong",
    "plain": "Print without colours, progress bar and line breaks; columns are separated by tabs",
    "json": "Print the result as JSON on the standard output, and everything else on the standard error",
}


# Commands whose result other programs read.
JSON_COMMANDS = frozenset({
    "run", "report", "withdraw", "compare", "history", "convert", "verify", "list", "claims", "selftest", "doctor",
})  # fmt: skip


def register(command: Callable[..., None]) -> None:
    """Add a command by its name; its first parameter, the modes, becomes an option for each of them."""
    name = command.__name__.rstrip("_")

    @wraps(command)
    def call(*, quiet: bool, plain: bool, json: bool = False, **options: Any) -> None:
        command(Modes(quiet, plain, json), **options)

    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    modes = [
        Parameter(
            mode,
            Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option(f"--{mode}", help=text)],
        )
        for mode, text in MODE_HELP.items()
        if mode != "json" or name in JSON_COMMANDS
    ]
    parameters = [*own, *modes]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    app.command(name)(call)


def names(option: str, text: str | None, allowed: str = "names") -> tuple[str, ...]:
    """Return the names, or what else is allowed, in a list that is separated by commas."""
    listed = tuple(name.strip() for name in text.split(",")) if text else ()
    if not all(listed):
        raise UserError(f"{option} {text!r}: allowed: {allowed}, separated by commas")
    return listed


def thread_count(threads: int | None) -> int:
    from bench.machine.facts import usable_cores

    cores = usable_cores()
    if threads is not None and not 0 <= threads <= cores:
        raise UserError(f"--threads {threads}: allowed: 1 to {cores}, the cores this process may use, or 0 for all")
    return threads or cores
