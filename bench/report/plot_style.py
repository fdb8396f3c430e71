"""What the plots have in common: style, colours, lines, axes."""

from __future__ import annotations

from io import StringIO
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.ticker import AutoLocator, FuncFormatter, Locator, NullFormatter

from backends.protocol import PRECISIONS
from bench.report.document import Drawn, failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.figure import Figure

    from bench.suite.arms import Arm

# Okabe & Ito (2008): distinguishable with any colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
LINES = ("-", "--", ":", "-.")
# The next marker is used once all colours are.
MARKERS = "os^D"
LEGEND: Any = {"frameon": False, "fontsize": 7.5, "loc": "center left", "bbox_to_anchor": (1, 0.5)}
STYLE: Any = {
    # A `$` in a name is a dollar, and no other program is needed to draw text.
    "text.parse_math": False,
    "text.usetex": False,
    # The same journal gives the same file.
    "svg.hashsalt": "bench",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "sans-serif"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "figure.constrained_layout.use": True,
}


def draw_all(plots: Mapping[str, Callable[[], Figure | None]]) -> Drawn:
    """Draw plots by file name, whatever the user's own style of Matplotlib is; leave out those without a figure."""
    drawn = Drawn()
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        for name, make in plots.items():
            try:
                if figure := make():
                    drawn.svgs[name] = svg_of(figure)
            except Exception as error:  # noqa: BLE001 - no plot is worth a report
                drawn.failures[name] = failure(error)
    return drawn


def svg_of(figure: Figure) -> str:
    stream = StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def panel_height(least: float, legend_entries: int) -> float:
    """Return the height of a panel in inches, with room for a legend of one entry per line."""
    return max(least, 0.8 + 0.16 * legend_entries)


def styles() -> Iterator[tuple[str, str]]:
    """Yield lines and colours, no two alike until all are used."""
    return cycle(product(LINES, COLOURS))


def marker_and_colour(arm: Arm, arms: Sequence[Arm]) -> tuple[str, str]:
    """Return the marker of an arm's precision, and the colour of its stack among those of `arms`."""
    stacks = list(dict.fromkeys(other.stack for other in arms))
    marker = MARKERS[PRECISIONS.index(arm.precision) % len(MARKERS)]
    return marker, COLOURS[stacks.index(arm.stack) % len(COLOURS)]


def log_ratio_axis(axis: Any) -> None:
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    plain_log_axis(axis, AutoLocator())


def plain_log_axis(axis: Any, ticks: Locator) -> None:
    """Write 0.5, 1, 2 instead of powers of ten."""
    axis.set_major_locator(ticks)
    plain_numbers(axis)


def plain_numbers(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
