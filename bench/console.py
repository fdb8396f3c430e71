"""Write to the console: lines, and the progress of long work.

Nothing is drawn while an arm is measured: there is no refresh thread; only `Steps.step`, between measurements, draws.
"""

from __future__ import annotations

import os
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.clock import now_ns
from models.texts import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

WARNING = "yellow"
# From this many seconds on, a duration is given in minutes, from this many minutes on, in hours.
MAX_COUNT = 90
# The fraction of the work after which the remaining time is estimated.
MIN_DONE = 0.05
# Sums of weights are rounded.
NEARLY_ALL = 1 - 1e-9


class BrokenPipeSafeConsole(Console):
    """A console that stays silent once its reader is gone, so that the work continues.

    A `terse` one prints only what `say_anyway` says. A `plain` one has neither colours nor a bar, and its lines are not
    broken. With `json` it writes to the standard error, as the standard output is for the result.
    """

    def __init__(self, *, terse: bool = False, plain: bool = False, json: bool = False) -> None:
        super().__init__(quiet=terse, stderr=json, color_system=None if plain else "auto")
        self.terse, self.plain, self.json = terse, plain, json

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def is_plain(console: Console) -> bool:
    return isinstance(console, BrokenPipeSafeConsole) and console.plain


def wants_json(console: Console) -> bool:
    return isinstance(console, BrokenPipeSafeConsole) and console.json


def is_watched(console: Console) -> bool:
    """Return whether progress can be drawn: on a terminal that can move its cursor, not in CI.

    Where colours are forced, Rich takes a file or a pipe for a terminal.
    """
    in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    silent = console.quiet or is_plain(console)
    return console.is_interactive and console.file.isatty() and not in_ci and not silent


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is, without markup or highlighting; a terminal's lines end between words."""
    text = printable(text)
    if console.file.isatty() and not is_plain(console):
        text = wrapped(text, console.width)
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def say_anyway(console: Console, text: str, style: str | None = None) -> None:
    """Print a line that a terse console prints as well: the result, or what went wrong."""
    silent, console.quiet = console.quiet, False
    try:
        say(console, text, style)
    finally:
        # A broken pipe has made it quiet as well.
        console.quiet = console.quiet or silent


def write_lines(console: Console, text: str) -> None:
    """Write lines as they are: Rich would expand tabs, and is slow with long texts."""
    if console.quiet:
        return
    try:
        console.file.write(f"{text}\n")
        console.file.flush()
    except BrokenPipeError:
        console.on_broken_pipe()


def wrapped(text: str, width: int) -> str:
    """Return text in lines of this width; a word that is longer, such as a path, stays whole."""
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


class Steps:
    """The progress of work in steps of several kinds, of known weight, such as their expected seconds."""

    def __init__(
        self, console: Console, totals: Mapping[str, float], bar: Progress | None, *, may_end: bool = False
    ) -> None:
        """Begin; `totals` are the weights of all steps of each kind. The work `may_end` before all of them."""
        self._console, self._totals, self._bar = console, totals, bar
        self._left = "up to about" if may_end else "about"
        self._ended_ns = now_ns()
        # The seconds and the weight of each step that has ended, by kind.
        self._ended: dict[str, list[tuple[float, float]]] = {kind: [] for kind in totals}
        self._total = sum(totals.values())
        self._task = bar.add_task("", total=self._total, left="") if bar else None

    def step(self, weight: float, what: str, kind: str = "") -> None:
        now = now_ns()
        self._ended[kind].append(((now - self._ended_ns) / 1e9, weight))
        self._ended_ns = now
        done = sum(weight for steps in self._ended.values() for _, weight in steps)
        estimated = MIN_DONE * self._total < done < NEARLY_ALL * self._total
        left = f"{self._left} {duration(max(1.0, self._seconds_left()))} left" if estimated else ""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, description=what, left=left)
            self._bar.refresh()
        else:
            share = f"[{done / (self._total or 1):4.0%}] {what}"
            say(self._console, f"{share}, {left}" if left else share)

    def _seconds_left(self) -> float:
        """Estimate the remaining time of each kind from the later half of its steps, or else from all other kinds."""
        later = {kind: steps[len(steps) // 2 :] for kind, steps in self._ended.items()}
        every = [step for steps in later.values() for step in steps]
        left = {kind: total - sum(weight for _, weight in self._ended[kind]) for kind, total in self._totals.items()}
        return sum(max(0.0, left[kind]) * _seconds_per_weight(steps or every) for kind, steps in later.items())


def _seconds_per_weight(steps: Sequence[tuple[float, float]]) -> float:
    return sum(seconds for seconds, _ in steps) / (sum(weight for _, weight in steps) or 1)


@contextmanager
def steps(console: Console, totals: Mapping[str, float], *, may_end: bool = False) -> Iterator[Steps]:
    """Show the progress of work with these weights of its kinds: a bar for somebody who watches, else lines."""
    if not is_watched(console):
        yield Steps(console, totals, None, may_end=may_end)
        return
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, auto_refresh=False) as bar:
        yield Steps(console, totals, bar, may_end=may_end)


def duration(seconds: float) -> str:
    """Return `42 s`, `3 min` or `1 h 20 min`."""
    if seconds < MAX_COUNT:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < MAX_COUNT else f"{minutes // 60} h {minutes % 60} min"
