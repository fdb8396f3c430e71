"""A report as data. Sections fill it once; the writers turn it into Markdown, HTML, console text and CSV."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

T = TypeVar("T")


@dataclass(frozen=True)
class Code:
    """A piece of text that is a command, a variable or a path."""

    text: str


@dataclass(frozen=True)
class Strong:
    """A word that is explained, or that names what follows."""

    text: str


Text: TypeAlias = str | tuple[str | Code | Strong, ...]


@dataclass(frozen=True)
class Cell:
    """The text of a cell; `style` names its style, such as a verdict's word; `note` is a footnote of the table.

    `detail` follows the text in parentheses. A `struck` text was measured, but must not be used.
    """

    text: str
    style: str = ""
    note: str = ""
    struck: bool = False
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """The cells of a row; `emphasis` is "primary", "replica" or empty.

    `facets` are what a reader can filter by, for instance {"stack": "ipex"}.
    """

    cells: tuple[Cell, ...]
    emphasis: str = ""
    facets: Mapping[str, str] = field(default_factory=dict)


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

    @property
    def notes(self) -> list[str]:
        """Return the footnotes, each once; a cell's is known by its place in this list."""
        return list(dict.fromkeys(cell.note for row in self.rows for cell in row.cells if cell.note))


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
    """A plot, by the name of its file without the suffix, and a description for readers who can't see it.

    The caption says how to read it. `other_scale` names a scale that a page can show the plot on instead.
    """

    stem: str
    alt: str
    caption: str = ""
    other_scale: str = ""

    @property
    def other_stem(self) -> str:
        return f"{self.stem}-{self.other_scale}"


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Element, ...]


@dataclass(frozen=True)
class Card:
    """A section with a verdict: `badge` is its word or words, `style` its style, such as a verdict's word."""

    title: str
    badge: str
    style: str
    blocks: tuple[Element, ...]


@dataclass(frozen=True)
class Cards:
    """Cards side by side, where the format has the room."""

    cards: tuple[Card, ...]


Element: TypeAlias = "Table | Paragraph | Bullets | Plot | Section | Cards"


@dataclass(frozen=True)
class Document:
    """A report: what the reader must know first, then sections."""

    title: str
    lead: str
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]


def sections_of(document: Document) -> Iterator[Section]:
    """Yield the sections of a document, each before those inside of it."""
    return (block for block in _blocks_in(document.sections) if isinstance(block, Section))


def plots_of(document: Document) -> Iterator[Plot]:
    return (block for block in _blocks_in(document.sections) if isinstance(block, Plot))


def _blocks_in(blocks: Iterable[Element]) -> Iterator[Element]:
    for block in blocks:
        yield block
        if isinstance(block, Section):
            yield from _blocks_in(block.blocks)


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


def with_drawn_plots(section: Section, drawn: AbstractSet[str]) -> Section:
    """Return the section without plots that were not drawn, and without sections that held only those."""
    blocks: list[Element] = []
    for block in section.blocks:
        if isinstance(block, Section):
            inner = with_drawn_plots(block, drawn)
            blocks += [inner] if inner.blocks else []
        elif not isinstance(block, Plot) or block.stem in drawn:
            blocks.append(block)
    return Section(section.title, tuple(blocks))


def table(
    rows: Iterable[T],
    columns: Iterable[Column[T]],
    emphasis: Callable[[T], str] = lambda _: "",
    title: str = "",
    folded: str = "",
    facets: Callable[[T], Mapping[str, str]] = lambda _: {},
) -> Table:
    """Return the table of the columns that have a title."""
    shown = [column for column in columns if column.title]

    def cell(column: Column[T], row: T) -> Cell:
        content = column.show(column.value(row))
        return content if isinstance(content, Cell) else Cell(content)

    return Table(
        headings=tuple(Heading(column.title, column.numeric) for column in shown),
        rows=tuple(Row(tuple(cell(column, row) for column in shown), emphasis(row), facets(row)) for row in rows),
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
