"""The kinds of panels that plots are made of: rows along one axis, points and lines in a plane, matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from bench.report.plots.svg import (
    BOLD_SIZE,
    FONT_SIZE,
    NARROW,
    Scale,
    at,
    cross,
    group,
    label,
    line,
    mark,
    path,
    rect,
    shortened,
    spread,
    svg,
    text_width,
    tick_text,
    uncrossed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Draws a plot with a description, in a width in pixels.
Drawing: TypeAlias = "Callable[[str, float], str]"

# More rows in a panel would be illegible; the tables show all of them.
MOST_ROWS = 60
TITLE, AXIS = 30, 40
ROW, NARROW_ROW, NARROW_MARKS = 30, 38, 10
DETAIL, DETAIL_LINE, TITLE_LINE = 10, 12, 14
# The widest that the labels of rows may be, as a share of the panel.
MOST_LABEL = 0.38
LEGEND_ROW = 20
SMALL_TEXT = 11
# A line from a point to its name, lighter than what it belongs to.
LEADER = 'fill="none" stroke-opacity=".35"'


@dataclass(frozen=True)
class Panel:
    height: float
    content: str


@dataclass(frozen=True)
class PlotRow:
    """A row: a label with a detail, marks on the axis, and a text at the right end.

    `draw` gets the axis and the height of the row's middle. The pointer shows `tip`.
    """

    label: str
    detail: str
    draw: Callable[[Scale, float], str]
    text: str = ""
    text_css: str = "t-ink"
    series: str = ""
    tip: str = ""


@dataclass(frozen=True)
class Axis:
    """An axis: what it shows, with unit and direction; `reference` is a value with a line across the panel."""

    title: str
    log: bool = False
    reference: float | None = None
    band: tuple[float, float] | None = None
    ticks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Series:
    """Points of one kind, (x, y, tip), joined by a line if `joined`; `name` is in the legend, or beside the points.

    `key` is the entry of the legend that isolates them, if not the name. `withheld` are the indices of points that must
    not be used: they are crossed out.
    """

    name: str
    css: str
    shape: str
    points: tuple[tuple[float, float, str], ...]
    joined: bool = True
    dash: str = ""
    key: str = ""
    withheld: tuple[int, ...] = ()


def is_narrow(width: float) -> bool:
    return width <= NARROW


def row_panel(
    title: str, rows: Sequence[PlotRow], axis: Axis, limits: Scale, width: float, alike: Sequence[PlotRow] = ()
) -> Panel:
    """Draw rows along one axis; `limits` has the bounds of its values. In narrow panels labels are above the marks.

    `alike` are the rows of all panels whose columns are to be equally wide.
    """
    narrow = is_narrow(width)
    labels = max(max(text_width(row.label), text_width(row.detail, DETAIL)) for row in alike or rows) + 14
    left = 4.0 if narrow else min(labels, MOST_LABEL * width)
    texts = max(text_width(row.text, SMALL_TEXT) for row in alike or rows)
    right = width - (8 if narrow or not texts else texts + 14)
    height = (NARROW_ROW + DETAIL_LINE * any(row.detail for row in rows)) if narrow else ROW
    top = TITLE if title else 8
    bottom = top + height * len(rows)
    middles = [top + height * (index + 1) - (NARROW_MARKS if narrow else height / 2) for index in range(len(rows))]
    # Lines across the panel must not cross the labels, which narrow panels have between the rows of marks.
    spans = [(middle - NARROW_MARKS, middle + NARROW_MARKS) for middle in middles] if narrow else [(top, bottom)]
    place = Scale(limits.low, limits.high, left + 6, right - 6, limits.log)
    parts = [label(0, 17, shortened(title, width, BOLD_SIZE), size=13, bold=True)] if title else []
    for start, end in spans:
        if axis.band:
            low, high = (min(max(value, limits.low), limits.high) for value in axis.band)
            parts.append(rect(place(low), start, place(high) - place(low), end - start, "f-band", ' opacity=".55"'))
        parts += [line(place(tick), start, place(tick), end, "grid") for tick in place.ticks()]
        if axis.reference is not None and limits.low <= axis.reference <= limits.high:
            parts.append(line(place(axis.reference), start, place(axis.reference), end, "one", 1.2))
    for tick in place.ticks():
        parts.append(label(place(tick), bottom + 15, tick_text(tick), "t-muted tx", anchor="middle", size=SMALL_TEXT))
    for row, middle in zip(rows, middles, strict=True):
        # A row answers the pointer wherever it is.
        area = rect(0, middle - height / 2, width, height, "", ' fill="none" pointer-events="all"')
        texts_of_row = _narrow_labels(row, middle, height, width) if narrow else _labels(row, middle, left, width)
        parts.append(group(area + texts_of_row + row.draw(place, middle), series=row.series, title=row.tip))
    parts.append(_title_below(axis.title, (left + right) / 2, bottom + 33, width))
    content = group("".join(parts), "panel", extra=_area(left, top, right, bottom) + _axis("x", place))
    return Panel(bottom + AXIS + (TITLE_LINE if narrow else 0), content)


def _area(left: float, top: float, right: float, bottom: float) -> str:
    """Return the attribute by which the page's script knows where a panel has its marks."""
    return f' data-area="{" ".join(map(at, (left, top, right, bottom)))}"'


def _axis(name: str, place: Scale) -> str:
    """Return the attribute by which the page's script knows an axis: its places, their values, 1 if it is log."""
    values = f"{place.low:.6g} {place.high:.6g} {int(place.log)}"
    return f' data-{name}="{at(place.start)} {at(place.end)} {values}"'


def _labels(row: PlotRow, middle: float, left: float, width: float) -> str:
    own = label(0, middle + (-1 if row.detail else 4), shortened(row.label, left))
    own += label(0, middle + 11, shortened(row.detail, left, DETAIL), "t-muted", size=DETAIL) if row.detail else ""
    return own + (label(width, middle + 4, row.text, row.text_css, anchor="end", size=SMALL_TEXT) if row.text else "")


def _narrow_labels(row: PlotRow, middle: float, height: float, width: float) -> str:
    y = middle + NARROW_MARKS - height + FONT_SIZE
    own = label(0, y, shortened(row.label, width - text_width(row.text, SMALL_TEXT) - 8))
    own += label(0, y + DETAIL_LINE, shortened(row.detail, width, DETAIL), "t-muted", size=DETAIL) if row.detail else ""
    return own + (label(width, y, row.text, row.text_css, anchor="end", size=SMALL_TEXT) if row.text else "")


def _title_below(text: str, middle: float, y: float, width: float) -> str:
    """Write the title of an axis, in two lines if one is too short for it."""
    lines = text.split("; ", 1) if text_width(text, SMALL_TEXT) > width else [text]
    written = ""
    for number, content in enumerate(lines):
        shown = shortened(content, width, SMALL_TEXT)
        half = text_width(shown, SMALL_TEXT) / 2
        x = max(half, min(middle, width - half))
        written += label(x, y + number * TITLE_LINE, shown, "t-muted", anchor="middle", size=SMALL_TEXT)
    return written


def plane_panel(
    title: str, series: Sequence[Series], axes: tuple[Axis, Axis], limits: tuple[Scale, Scale], width: float,
    height: float = 260, *, named: bool = False, under: Callable[[Scale, Scale], str] | None = None,
) -> Panel:  # fmt: skip
    """Draw points and lines; `named` ones have their names beside them, in a column at the right."""
    x, y = axes
    ticks_y = Scale(limits[1].low, limits[1].high, height, 0, limits[1].log).ticks(vertical=True)
    left = max((text_width(tick_text(tick), SMALL_TEXT) for tick in y.ticks or ticks_y), default=0) + 12
    names = max(text_width(one.name, SMALL_TEXT) for one in series) + 22 if named and series else 8
    top, bottom, right = TITLE + 18, TITLE + 18 + height, width - min(names, 0.42 * width)
    across = Scale(limits[0].low, limits[0].high, left + 6, right - 6, limits[0].log)
    up = Scale(limits[1].low, limits[1].high, bottom - 4, top + 4, limits[1].log)
    parts = [label(0, 17, shortened(title, width, BOLD_SIZE), size=13, bold=True)]
    parts.append(label(0, TITLE + 8, shortened(f"↑ {y.title}", width, SMALL_TEXT), "t-muted", size=SMALL_TEXT))
    for tick in y.ticks or up.ticks(vertical=True):
        parts.append(line(left, up(tick), right, up(tick), "grid"))
        parts.append(label(left - 6, up(tick) + 4, tick_text(tick), "t-muted ty", anchor="end", size=SMALL_TEXT))
    for tick in x.ticks or across.ticks():
        parts.append(line(across(tick), top, across(tick), bottom, "grid"))
        parts.append(label(across(tick), bottom + 15, tick_text(tick), "t-muted tx", anchor="middle", size=SMALL_TEXT))
    if x.reference is not None and across.low <= x.reference <= across.high:
        parts.append(line(across(x.reference), top, across(x.reference), bottom, "one"))
    if y.reference is not None and up.low <= y.reference <= up.high:
        parts.append(line(left, up(y.reference), right, up(y.reference), "one", 1, "2 3"))
    parts.append(line(left, bottom, right, bottom, "axis"))
    if under:
        parts.append(under(across, up))
    for one in series:
        places = [(across(a), up(b)) for a, b, _ in one.points]
        drawn = path(places, extra=f'fill="none"{_dash(one.dash)}') if one.joined and len(places) > 1 else ""
        drawn += "".join(mark(one.shape, a, b, 4, tip) for (a, b), (_, _, tip) in zip(places, one.points, strict=True))
        parts.append(group(drawn, f"m-{one.css}", series=one.key or one.name))
        if crosses := "".join(cross(*places[index], 7) for index in one.withheld):
            parts.append(group(crosses, "m-WITHHELD", series=one.key or one.name))
    if named:
        parts.append(_names(series, across, up, right, (top + 6, bottom - 2)))
    parts.append(_title_below(x.title, (left + right) / 2, bottom + 33, width))
    axes_of_panel = _area(left, top, right, bottom) + _axis("x", across) + _axis("y", up)
    content = group("".join(parts), "panel", extra=axes_of_panel)
    return Panel(bottom + AXIS + (TITLE_LINE if is_narrow(width) else 0), content)


def _dash(dash: str) -> str:
    return f' stroke-dasharray="{dash}"' if dash else ""


def _names(series: Sequence[Series], across: Scale, up: Scale, right: float, bounds: tuple[float, float]) -> str:
    """Write the name of each series at the right, with a thin line to its last point."""
    ends = [(across(one.points[-1][0]), up(one.points[-1][1])) for one in series]
    heights = uncrossed(ends, spread([y for _, y in ends], FONT_SIZE + 2, *bounds), right)
    parts = []
    for one, (x, y), height in zip(series, ends, heights, strict=True):
        leader = group(
            path([(x + 6, y), (right - 2, height), (right + 8, height)], extra=LEADER, width=1), f"m-{one.css} leader"
        )
        name = label(right + 12, height + 4, one.name, f"t-{one.css}", size=SMALL_TEXT)
        parts.append(group(leader + name, series=one.key or one.name))
    return "".join(parts)


def legend(entries: Sequence[tuple[str, str, str]], width: float) -> Panel:
    """Draw a legend of (name, colour, shape), in as many lines as it needs; a click on an entry isolates its series."""
    x, y, parts = 0.0, 14.0, list[str]()
    for name, css, shape in entries:
        name_width = text_width(name) + 30
        if x and x + name_width > width:
            x, y = 0.0, y + LEGEND_ROW
        area = rect(x, y - 13, name_width - 6, 18, "", ' fill="none" pointer-events="all"')
        symbol = group(mark(shape, x + 8, y - 4, 4.5), f"m-{css}")
        parts.append(group(area + symbol + label(x + 18, y, name), "key", series=name))
        x += name_width
    return Panel(y + 12, "".join(parts))


def arranged(name: str, alt: str, panels: Sequence[Panel], width: float, columns: int = 1) -> str:
    """Return a plot of panels one below the other, or in columns of equal width from left to right."""
    gap, parts, y = 28.0, list[str](), 4.0
    for start in range(0, len(panels), columns):
        row = panels[start : start + columns]
        for index, panel in enumerate(row):
            x = index * (width + gap) / columns
            parts.append(f'<g transform="translate({at(x)} {at(y)})">{panel.content}</g>')
        y += max(panel.height for panel in row) + 10
    return svg(name, alt, width, y, "".join(parts))


def column_width(width: float, columns: int) -> float:
    return (width + 28.0) / columns - 28.0


def headed(first: Panel, panels: Sequence[Panel], columns: int) -> list[Panel]:
    """Return the panels with one before them in a row of its own."""
    return [first, *[Panel(0, "")] * (columns - 1), *panels]
