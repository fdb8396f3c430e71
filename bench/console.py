"""Write to the console: lines, and the progress of long work.

Nothing is drawn while an arm is measured: there is no refresh thread; only `Steps.step`, between measurements, draws.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.clock import now_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

WARNING = "yellow"
# From this many seconds on, a duration is given in minutes, from this many minutes on, in hours.
MAX_COUNT = 90
# The fraction of the work after which the remaining time is estimated.
MIN_DONE = 0.05


class BrokenPipeSafeConsole(Console):
    """A console that stays silent once its reader is gone, so that the work continues."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is: no markup, highlighting or wrapping."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class Steps:
    """The progress of work in steps of known weight, such as their expected seconds."""

    def __init__(self, console: Console, total: float, bar: Progress | None) -> None:
        self._console, self._total, self._bar = console, total, bar
        self._done = 0.0
        self._past: list[tuple[int, float]] = []
        self._task = bar.add_task("", total=total, left="") if bar else None

    def step(self, weight: float, what: str) -> None:
        self._done += weight
        left = self._time_left()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, description=what, left=left)
            self._bar.refresh()
        else:
            share = f"[{self._done / (self._total or 1):4.0%}] {what}"
            say(self._console, f"{share}, {left}" if left else share)

    def _time_left(self) -> str:
        """Estimate the remaining time from the rate in the later half of the time; empty while little is done."""
        now = now_ns()
        self._past.append((now, self._done))
        # Time counts from the end of the first step, which may differ from all others.
        middle = (self._past[0][0] + now) // 2
        earlier = [(time, done) for time, done in self._past if time <= middle and done < self._done]
        if not earlier or self._done <= MIN_DONE * self._total:
            return ""
        since, before = earlier[-1]
        left = max(0.0, self._total - self._done) / (self._done - before)
        return f"about {duration((now - since) / 1e9 * left)} left"


@contextmanager
def steps(console: Console, total: float) -> Iterator[Steps]:
    """Show the progress of work with this total weight: a bar on a terminal, else lines."""
    if not console.is_terminal:
        yield Steps(console, total, None)
        return
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, auto_refresh=False) as bar:
        yield Steps(console, total, bar)


def duration(seconds: float) -> str:
    """Return `42 s`, `3 min` or `1 h 20 min`."""
    if seconds < MAX_COUNT:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < MAX_COUNT else f"{minutes // 60} h {minutes % 60} min"
