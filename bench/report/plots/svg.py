"""Draw SVG with real text: elements, scales with ticks, and colours for light and dark.

Colours are classes. A file of its own carries their rules; the page has them once for all of its plots.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from html import escape
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

from models.texts import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.suite.arms import Arm

# By name: the colour on a light background, and on a dark one. Each has a contrast of at least 4.5 to 1 as text. The
# series are told apart by people with any colour vision, after Okabe & Ito (2008); markers tell them apart as well.
COLOURS = {
    "paper": ("#ffffff", "#14181d"),
    "raised": ("#fcfcfd", "#1b2027"),
    "ink": ("#1b2128", "#e4e8ec"),
    "muted": ("#56616d", "#a3adb8"),
    "line": ("#e3e6ea", "#2c333b"),
    "strong": ("#b9c0c8", "#505a65"),
    "soft": ("#f4f5f7", "#20262d"),
    "link": ("#0b5cad", "#7bb8f5"),
    "warn": ("#c98a00", "#e0a93a"),
    "warn-back": ("#fff8e6", "#2b2415"),
    "band": ("#d9dde2", "#39414a"),
    "FASTER": ("#00705a", "#45c9a4"),
    "SLOWER": ("#b04200", "#ff9a5c"),
    "EQUIVALENT": ("#0b5cad", "#7bb8f5"),
    "UNRESOLVED": ("#5c6773", "#a3adb8"),
    "WITHHELD": ("#8f2f74", "#e693cb"),
    "s0": ("#0069a8", "#5ab0ee"),
    "s1": ("#b25000", "#f0995a"),
    "s2": ("#007a5e", "#3fc79d"),
    "s3": ("#a8407f", "#e48fc3"),
    "s4": ("#8a6a00", "#d9b440"),
    "s5": ("#545e69", "#b6c0ca"),
    "s6": ("#6a4fc0", "#b09cf5"),
    "s7": ("#1b2128", "#e4e8ec"),
}
SERIES = 8
SHAPES = ("circle", "square", "triangle", "diamond")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
FONT_SIZE = 12
# Titles have 13 pixels and are bold, which is as wide as this size.
BOLD_SIZE = 14.5
# Widths of the two versions of a plot in pixels: for a screen or paper, and for a phone.
WIDE, NARROW = 1000, 400
# The least distance between two labels of an axis, in pixels.
LABEL_GAP = 12
# A log axis over at most this ratio has ticks at equal distances of the value.
SHORT_SPAN = 4.0
# The least span of a log axis, and from where on digits of numbers are grouped.
LEAST_SPAN = 1.01
GROUPED = 1_000
NARROW_CHARACTERS, WIDE_CHARACTERS = frozenset("ijl.,:;'|!()[]/ftrI1 "), frozenset("mwMW@%µ—")


def plot_rules() -> str:
    """Return the rules of the plots' classes, with variables for the colours."""
    names = ["FASTER", "SLOWER", "EQUIVALENT", "UNRESOLVED", "WITHHELD", *(f"s{index}" for index in range(SERIES))]
    marks = "".join(f".m-{name}{{fill:var(--{name});stroke:var(--{name})}}" for name in names)
    texts = "".join(f".t-{name}{{fill:var(--{name})}}" for name in [*names, "ink", "muted"])
    fills = "".join(f".f-{name}{{fill:var(--{name})}}" for name in ("paper", "soft", "band", "raised"))
    lines = ".grid{stroke:var(--line)}.axis{stroke:var(--strong)}.one{stroke:var(--ink)}"
    # A withheld ratio was measured, but must not be used.
    lines += ".t-WITHHELD{text-decoration:line-through}"
    lines += ".halo{stroke:var(--paper);stroke-width:4px;stroke-linejoin:round;paint-order:stroke}"
    return f"{marks}{texts}{fills}{lines}"


def variables() -> str:
    """Return the rules that give each colour's variable its value, in light and in dark."""
    light, dark = (";".join(f"--{name}:{pair[mode]}" for name, pair in COLOURS.items()) for mode in (0, 1))
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def standalone(svg: str) -> str:
    """Return a plot as a file of its own: with its rules, without variables, which not every program knows."""

    def rules(mode: int) -> str:
        return re.sub(r"var\(--([^)]+)\)", lambda match: COLOURS[match[1]][mode], plot_rules())

    style = f"<style>{rules(0)}@media (prefers-color-scheme:dark){{{rules(1)}}}</style>"
    paper = '<rect width="100%" height="100%" class="f-paper"/>'
    start, end, rest = svg.partition(">")
    return f"{start}{end}{style}{paper}{rest}\n"


def clean(text: str) -> str:
    """Return text for SVG: escaped, and without control characters, which XML forbids."""
    return escape(printable(text))


def at(value: float) -> str:
    """Return a coordinate with one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def text_width(text: str, size: float = FONT_SIZE) -> float:
    """Estimate the width of a text in the fonts of `FONT`, rather too wide than too narrow."""
    widths = (
        0.36 if letter in NARROW_CHARACTERS else 0.9 if letter in WIDE_CHARACTERS else 0.7 if letter.isupper() else 0.58
        for letter in text
    )
    return size * sum(widths)


def shortened(text: str, width: float, size: float = FONT_SIZE) -> str:
    if text_width(text, size) <= width:
        return text
    while text and text_width(f"{text}…", size) > width:
        text = text[:-1]
    return f"{text}…"


def label(
    x: float,
    y: float,
    text: str,
    css: str = "t-ink",
    *,
    anchor: str = "start",
    size: float = FONT_SIZE,
    bold: bool = False,
    halo: bool = False,
) -> str:
    """Return a text; one with a halo stays legible where a line crosses it."""
    css = f"{css} halo" if halo else css
    extra = (f' text-anchor="{anchor}"' if anchor != "start" else "") + (' font-weight="600"' if bold else "")
    extra += f' font-size="{size:g}"' if size != FONT_SIZE else ""
    return f'<text x="{at(x)}" y="{at(y)}" class="{css}"{extra}>{clean(text)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str = "", width: float = 1, dash: str = "") -> str:
    extra = (f' class="{css}"' if css else "") + (f' stroke-dasharray="{dash}"' if dash else "")
    return f'<line x1="{at(x1)}" y1="{at(y1)}" x2="{at(x2)}" y2="{at(y2)}" stroke-width="{width:g}"{extra}/>'


def rect(x: float, y: float, width: float, height: float, css: str, extra: str = "") -> str:
    size = f'width="{at(max(0, width))}" height="{at(max(0, height))}"'
    return f'<rect x="{at(x)}" y="{at(y)}" {size} class="{css}"{extra}/>'


def path(points: Iterable[tuple[float, float]], css: str = "", extra: str = 'fill="none"', width: float = 1.6) -> str:
    places = "L".join(f"{at(x)} {at(y)}" for x, y in points)
    return f'<path d="M{places}" {extra} stroke-width="{width:g}"' + (f' class="{css}"/>' if css else "/>")


def mark(shape: str, x: float, y: float, size: float = 4.5, title: str = "", extra: str = "") -> str:
    """Return a marker, nothing for the shape "none"; the pointer shows its title."""
    if shape == "none":
        return ""
    inner = f"<title>{clean(title)}</title>" if title else ""
    if shape == "circle":
        return f'<circle cx="{at(x)}" cy="{at(y)}" r="{size:g}"{extra}>{inner}</circle>'
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "triangle": [(0, -1.2), (1.1, 0.9), (-1.1, 0.9)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
    }[shape]
    places = " ".join(f"{at(x + size * dx)},{at(y + size * dy)}" for dx, dy in corners)
    return f'<polygon points="{places}"{extra}>{inner}</polygon>'


def cross(x: float, y: float, size: float) -> str:
    return line(x - size, y - size, x + size, y + size, width=2) + line(x - size, y + size, x + size, y - size, width=2)


def group(content: str, css: str = "", *, series: str = "", title: str = "", extra: str = "") -> str:
    """Return a group; one with a series is isolated by a click on the legend."""
    attributes = (f' class="{css}"' if css else "") + (f' data-series="{clean(series)}"' if series else "") + extra
    inner = f"<title>{clean(title)}</title>" if title else ""
    return f"<g{attributes}>{inner}{content}</g>"


def svg(name: str, alt: str, width: float, height: float, content: str) -> str:
    """Return a plot without the rules of its colours."""
    kind = "narrow" if width == NARROW else "wide"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {at(width)} {at(height)}" width="{at(width)}" '
        f'height="{at(height)}" class="{kind}" role="img" aria-label="{clean(alt)}" data-name="{clean(name)}" '
        f'font-family="{FONT}" font-size="{FONT_SIZE}"><title>{clean(alt)}</title>{content}</svg>'
    )


def colour(index: int) -> str:
    return f"s{index % SERIES}"


def shape_of(precision: str, precisions: Sequence[str]) -> str:
    return SHAPES[precisions.index(precision) % len(SHAPES)]


def stack_colours(arms: Iterable[Arm]) -> dict[str, str]:
    """Return the colour of each stack, the same in all plots of a run."""
    return {stack: colour(index) for index, stack in enumerate(dict.fromkeys(arm.stack for arm in arms))}


def tick_text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= GROUPED else f"{value:.10g}"


@dataclass(frozen=True)
class Scale:
    """From values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, *, vertical: bool = False) -> list[float]:
        """Return values for the axis, with room for their labels; 1 is always one of a log axis."""
        kept: list[float] = []
        candidates = _log_values(self.low, self.high) if self.log else _even_values(self.low, self.high, 6)
        for value in sorted(candidates, key=lambda value: (not (self.log and value == 1), _roundness(value))):
            room = [
                LABEL_GAP
                + (FONT_SIZE if vertical else (text_width(tick_text(value)) + text_width(tick_text(other))) / 2)
                for other in kept
            ]
            if all(abs(self(value) - self(other)) >= gap for other, gap in zip(kept, room, strict=True)):
                kept.append(value)
        return sorted(kept)


def scale(values: Iterable[float], start: float, end: float, *, log: bool = False, margin: float = 0.05) -> Scale:
    """Return a scale for these values with a margin; a single value gets room on both sides."""
    low, high = min(known := list(values)), max(known)
    if log:
        low, high = (low / 1.1, high * 1.1) if high / low < LEAST_SPAN else (low, high)
        room = (high / low) ** margin
        return Scale(low / room, high * room, start, end, log=True)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    return Scale(low - margin * (high - low), high + margin * (high - low), start, end)


def from_zero(values: Iterable[float]) -> Scale:
    """Return a linear scale from 0 to these values, with a margin at their end."""
    return Scale(0, 1.03 * max(values), 0, 1)


def _log_values(low: float, high: float) -> list[float]:
    if high / low <= SHORT_SPAN:
        return _even_values(low, high, 8)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**power for power in powers for factor in (1, 2, 3, 5)]
    return [float(f"{value:.6g}") for value in values if low <= value <= high]


def _even_values(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(step for step in (1, 2, 5, 10) if step * magnitude >= rough * 0.999) * magnitude
    return [float(f"{index * step:.10g}") for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _roundness(value: float) -> tuple[int, float]:
    """Return a key by which round numbers come first."""
    digits = len(f"{value:.10g}".strip("0").replace(".", "").replace("-", ""))
    leading = f"{value:e}"[0] if value >= 0 else "1"
    return digits, {"1": 0, "5": 1, "2": 2, "0": 0}.get(leading, 3)


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return these places moved apart by at least `gap`, within the bounds as far as there is room."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = [places[index] for index in order]
    for index in range(1, len(moved)):
        moved[index] = max(moved[index], moved[index - 1] + gap)
    if moved and moved[-1] > high:
        moved[-1] = high
        for one, other in pairwise(reversed(range(len(moved)))):
            moved[other] = min(moved[other], moved[one] - gap)
    if moved and moved[0] < low:
        moved = [max(place, low + index * gap) for index, place in enumerate(moved)]
    result = [0.0] * len(places)
    for place, index in zip(moved, order, strict=True):
        result[index] = place
    return result


def uncrossed(points: Sequence[tuple[float, float]], heights: Sequence[float], right: float) -> list[float]:
    """Return these heights in an order in which lines from the points to them, at the x `right`, do not cross.

    Two heights whose lines cross are exchanged, which makes both lines together shorter. So it comes to an end.
    """
    result = list(heights)
    for _ in points:
        for one, other in combinations(range(len(points)), 2):
            left, near = sorted((one, other), key=lambda index: points[index][0])
            (x, y), (near_x, near_y) = points[left], points[near]
            above = y + (result[left] - y) * (near_x - x) / (right - x) - near_y
            if above * (result[left] - result[near]) < 0:
                result[one], result[other] = result[other], result[one]
    return result
