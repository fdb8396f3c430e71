"""Write a document as Markdown, and tables on the console; write columns as CSV."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from bench.console import is_plain, wants_json, write_lines
from bench.report.document import Bullets, Cards, Code, Paragraph, Plot, Section, Strong, Table
from models.texts import printable, without_formulas

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from bench.report.document import Cell, Column, Document, Element, Text

T = TypeVar("T")

CONSOLE_STYLES = {
    "FASTER": "bold green", "SLOWER": "bold red", "EQUIVALENT": "bold blue", "WITHHELD": "bold magenta",
    "PASS": "bold green", "FAIL": "bold red", "ok": "green", "!": "bold yellow", "reproduced": "green",
    "not reproduced": "red", "primary": "bold", "replica": "dim", "withdrawn": "strike dim", "": "",
}  # fmt: skip


def to_csv(rows: Sequence[T], columns: Sequence[Column[T]]) -> str:
    """Return the columns that have a key as CSV, or nothing if there are no rows."""
    import pandas as pd

    if not rows:
        return ""
    content = {column.key: [_defused(column.value(row)) for row in rows] for column in columns if column.key}
    return pd.DataFrame(content).to_csv(index=False, float_format="%.6g")


def _defused(value: object) -> object:
    return without_formulas(value) if isinstance(value, str) else value


def to_markdown(document: Document) -> str:
    parts = [f"# {escape(document.title)}", escape(document.lead)]
    parts += [f"> **{escape(line)}**" for line in document.warnings]
    for section in document.sections:
        parts += _markdown_blocks(section, 2)
    return "\n\n".join(parts) + "\n"


def section_to_markdown(section: Section) -> str:
    return "\n\n".join(_markdown_blocks(section, 1)) + "\n"


def _markdown_blocks(block: Element, level: int) -> Iterator[str]:
    match block:
        case Section(title, blocks):
            yield f"{'#' * level} {escape(title)}"
            for inner in blocks:
                yield from _markdown_blocks(inner, level + 1)
        case Paragraph(text, style):
            yield ("> " if style == "warning" else "") + _markdown_text(text)
        case Bullets(items):
            yield "\n".join(f"- {_markdown_text(item)}" for item in items)
        case Plot(stem, alt, caption):
            yield f"![{escape(alt)}](plots/{stem}.svg)"
            if caption:
                yield escape(caption)
        case Cards(cards):
            for card in cards:
                yield from _markdown_blocks(Section(f"{card.title}: {card.badge}", card.blocks), level)
        case Table():
            yield from _markdown_table_parts(block)


def markdown_table(table: Table) -> str:
    lines = [
        "| " + " | ".join(escape(heading.title) for heading in table.headings) + " |",
        "|" + "|".join("--:" if heading.numeric else "---" for heading in table.headings) + "|",
    ]
    notes = table.notes
    for row in table.rows:
        first, *others = [_markdown_cell(cell, notes) for cell in row.cells]
        cells = [f"**{first}**" if row.emphasis == "primary" else first, *others]
        if row.emphasis == "withdrawn":
            cells = [f"~~{cell}~~" if cell else "" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _markdown_table_parts(table: Table) -> Iterator[str]:
    """Yield the title of a table that other formats fold, the table, and its footnotes."""
    if table.folded:
        yield f"**{escape(table.folded)}**"
    yield markdown_table(table)
    if table.notes:
        yield "\n".join(f"- {superscript(number)} {escape(note)}" for number, note in enumerate(table.notes, 1))


def _markdown_cell(cell: Cell, notes: list[str]) -> str:
    text = f"~~{escape(cell.text)}~~" if cell.struck else escape(cell.text)
    text += f" ({escape(cell.detail)})" if cell.detail else ""
    return f"{text} {superscript(notes.index(cell.note) + 1)}" if cell.note else text


def superscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _markdown_text(text: Text) -> str:
    def markdown(part: str | Code | Strong) -> str:
        match part:
            case Code(content):
                return _code_span(content)
            case Strong(content):
                return f"**{escape(content)}**"
            case _:
                return escape(part)

    return "".join(map(markdown, (text,) if isinstance(text, str) else text))


def _code_span(text: str) -> str:
    """Return a code span on one line; its fence is longer than any run of backticks in the text."""
    text = re.sub(r"\s+", " ", printable(text))
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def escape(text: str) -> str:
    """Return text on one line that can't break out of a Markdown table's cell, nor smuggle in HTML or a link."""
    line = re.sub(r"\s+", " ", printable(text))
    # GitHub makes links of addresses, too.
    return re.sub(r"([|\\`*_\[\]<>~]|:(?=//)|(?<=\bwww)\.|&(?=#?\w+;))", r"\\\1", line)


def print_table(table: Table, console: Console, *, lines: bool = False) -> None:
    """Print a table, with `lines` between the rows if their texts are long.

    A plain console gets a line for each row, with tabs between the cells. With JSON the table is in the result.
    """
    if wants_json(console):
        return
    if is_plain(console):
        titles = [heading.title for heading in table.headings]
        rows = [[cell.text for cell in row.cells] for row in table.rows]
        for line in filter(any, [[table.title], titles, *rows]):
            write_lines(console, printable("\t".join(line)))
        write_lines(console, "")
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

    rich = RichTable(
        title=RichText(printable(table.title)) if table.title else None,
        title_justify="left",
        title_style="bold",
        show_header=any(heading.title for heading in table.headings),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_lines=lines,
    )
    for heading in table.headings:
        rich.add_column(RichText(heading.title), justify="right" if heading.numeric else "left", overflow="fold")

    def text(cell: Cell) -> RichText:
        return RichText(printable(cell.text), CONSOLE_STYLES.get(cell.style, ""))

    for row in table.rows:
        rich.add_row(*map(text, row.cells), style=CONSOLE_STYLES[row.emphasis])
    console.print(rich)
