"""A report as data. Sections fill it once; the writers turn it into Markdown, HTML, console text and CSV."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

LONGEST_REASON = 200


@dataclass(frozen=True)
class Code:
    """A piece of text that is a command, a variable or a path."""

    text: str


Text: TypeAlias = str | tuple[str | Code, ...]


@dataclass(frozen=True)
class Cell:
    """The text of a cell; `style` names its style, such as a verdict's word; `note` is appended to the text."""

    text: str
    style: str = ""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """The cells of a row; `emphasis` is "primary", "replica" or empty."""

    cells: tuple[Cell, ...]
    emphasis: str = ""


@dataclass(frozen=True)
class Heading:
    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table. `folded` is the title of a long one that is collapsed where the format allows it."""

    headings: tuple[Heading, ...]
    rows: tuple[Row, ...]
    title: str = ""
    folded: str = ""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `muted` for explanations, `warning` for what went wrong."""

    text: Text
    style: str = ""


@dataclass(frozen=True)
class Bullets:
    items: tuple[Text, ...]


@dataclass(frozen=True)
class Plot:
    """A plot, by the name of its file without the suffix, and a description for readers who can't see it."""

    stem: str
    alt: str


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Element, ...]


Element: TypeAlias = "Table | Paragraph | Bullets | Plot | Section"


@dataclass(frozen=True)
class Document:
    """A report: what the reader must know first, then sections."""

    title: str
    lead: str
    warnings: tuple[str, ...]
    headlines: tuple[str, ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Column(Generic[T]):
    """One value of a row object: a column of a CSV file, of the report's tables, or of both.

    `key` is its name in the CSV file and `title` that in the tables; one that is empty does not appear there. `show`
    turns the value into a cell. The console shows `brief` columns, by `show_brief` if there is one. `group` separates
    the tables of one row object.
    """

    key: str
    value: Callable[[T], Any]
    title: str = ""
    show: Callable[[Any], str | Cell] = str
    numeric: bool = True
    brief: bool = False
    show_brief: Callable[[Any], str | Cell] | None = None
    group: str = ""


@dataclass(frozen=True)
class Drawn:
    """Plots as SVG by file name, and why others could not be drawn."""

    svgs: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """Return a line for each plot that is missing."""
        return [f"The plot {name} could not be drawn: {reason}" for name, reason in self.failures.items()]


def failure(error: Exception) -> str:
    """Return an error in one line of readable length."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]


def drawn_by(draw: Callable[[], Drawn]) -> Drawn:
    """Return what a function draws; nothing if Matplotlib, which the function imports, does not work at all."""
    try:
        return draw()
    except Exception as error:  # noqa: BLE001 - a personal configuration can let the import fail in any way
        return Drawn(failures={"of every figure": failure(error)})


def with_drawn_plots(section: Section, drawn: Drawn) -> Section:
    """Return a section without the plots that were not drawn."""
    blocks = [block for block in section.blocks if not isinstance(block, Plot) or f"{block.stem}.svg" in drawn.svgs]
    return Section(section.title, tuple(blocks))


def table(
    rows: Iterable[T],
    columns: Iterable[Column[T]],
    emphasis: Callable[[T], str] = lambda _: "",
    title: str = "",
    folded: str = "",
) -> Table:
    """Return the table of the columns that have a title."""
    shown = [column for column in columns if column.title]

    def cell(column: Column[T], row: T) -> Cell:
        content = column.show(column.value(row))
        return content if isinstance(content, Cell) else Cell(content)

    return Table(
        headings=tuple(Heading(column.title, column.numeric) for column in shown),
        rows=tuple(Row(tuple(cell(column, row) for column in shown), emphasis(row)) for row in rows),
        title=title,
        folded=folded,
    )


def brief_table(
    rows: Iterable[T], columns: Iterable[Column[T]], emphasis: Callable[[T], str] = lambda _: "", title: str = ""
) -> Table:
    """Return the table for the console."""
    brief = [replace(column, show=column.show_brief or column.show) for column in columns if column.brief]
    return table(rows, brief, emphasis, title)


def text_table(titles: Iterable[str], rows: Iterable[Iterable[str]], folded: str = "") -> Table:
    headings = tuple(Heading(title) for title in titles)
    return Table(headings, tuple(Row(tuple(map(Cell, row))) for row in rows), folded=folded)
