"""Tell the user how far the work is: a bar on a terminal, plain lines elsewhere.

Nothing is drawn while an arm is measured: there is no refreshing thread, only `step` between measurements draws.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.clock import now_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console


FEW = 90  # seconds or minutes that are not yet written as minutes or hours
EARLY = 0.05  # the share of the work that has to be done before it tells how long the rest will take


class Steps:
    """Work of known weight, done step by step; weights are in any unit, for instance expected seconds."""

    def __init__(self, console: Console, total: float, bar: Progress | None) -> None:
        self._console, self._total, self._bar = console, total, bar
        self._done = 0.0
        self._past: list[tuple[int, float]] = []
        self._task = bar.add_task("", total=total, left="") if bar else None

    def step(self, weight: float, what: str) -> None:
        """Say that `what` of `weight` is done."""
        self._done += weight
        left = self._left()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, description=what, left=left)
            self._bar.refresh()
        else:
            self._console.print(
                ", ".join(filter(None, [f"[{self._done / (self._total or 1):4.0%}] {what}", left])),
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def _left(self) -> str:
        """Say how long the rest takes at the rate of the later half of the time; nothing as long as little is done.

        Time counts from the end of the first step, which may be unlike all others.
        """
        now = now_ns()
        self._past.append((now, self._done))
        middle = (self._past[0][0] + now) // 2
        earlier = [each for each in self._past if each[0] <= middle and each[1] < self._done]
        if not earlier or self._done <= EARLY * self._total:
            return ""
        since, before = earlier[-1]
        rest = max(0.0, self._total - self._done) / (self._done - before)
        return f"about {duration((now - since) / 1e9 * rest)} left"


@contextmanager
def steps(console: Console, total: float) -> Iterator[Steps]:
    """Show progress through work of `total` weight."""
    if not console.is_terminal:
        yield Steps(console, total, None)
        return
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, TextColumn("{task.description}"), console=console, auto_refresh=False) as bar:
        yield Steps(console, total, bar)


def duration(seconds: float) -> str:
    """Return `42 s`, `3 min` or `1 h 20 min`."""
    if seconds < FEW:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < FEW else f"{minutes // 60} h {minutes % 60} min"
