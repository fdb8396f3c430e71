"""The command line: turn options into types, make one call, and turn errors into one line and an exit status."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from typer.exceptions import TyperException

from bench.cli import machines, measuring, modelling, reading
from bench.cli.complete import quicken
from bench.cli.machines import fleet_app
from bench.cli.options import app, register
from models.errors import UserError, remedy_of
from models.texts import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

# What Typer returns after Ctrl-C.
SHELL_INTERRUPTED = 130
LONGEST_MESSAGE = 4000

# In the order of `bench --help`.
for command in (
    measuring.run, reading.report, reading.compare, reading.history, reading.convert, reading.verify, reading.withdraw,
    modelling.list_, modelling.models, modelling.train, modelling.tune, modelling.evaluate, modelling.export,
    modelling.import_, measuring.claims, measuring.selftest, measuring.doctor, machines.bundle,
):  # fmt: skip
    register(command)
app.add_typer(fleet_app, name="fleet")


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
            quicken()
            arguments = sys.argv[1:]
            status = app(
                [*arguments, "--help"] if arguments in ([], ["fleet"]) else arguments,
                prog_name="bench",
                standalone_mode=False,
            )
    except UserError as error:
        fail(str(error))
    except TyperException as error:
        reason = str(getattr(error, "format_message", error.__str__)()).removesuffix(".")
        fail(f"{reason}; see `bench --help`, or `bench COMMAND --help`")
    except OSError as error:
        fail(f"{error.filename or 'writing'}: {error.strerror or error}; {remedy_of(error)}, or name another folder")
    if status == SHELL_INTERRUPTED:
        fail("interrupted; finished work is kept, and the same command continues a training or a search", 1)
    sys.exit(status)
