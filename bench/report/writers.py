"""Write a document as Markdown, as one self-contained HTML file, and on the console; write columns as CSV."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bench.report.document import Bullets, Code, Paragraph, Plot, Section, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console

    from bench.report.document import Cell, Column, Document, Element, Text

T = TypeVar("T")

# What makes spreadsheets take a text for a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")

HERE = Path(__file__).parent
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
    """Return a value whose text no spreadsheet runs as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def to_markdown(document: Document) -> str:
    parts = [f"# {escape(document.title)}", escape(document.lead)]
    parts += [f"> **{escape(line)}**" for line in document.warnings]
    parts += [f"**{escape(line)}**" for line in document.headlines]
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
        case Plot(stem, alt):
            yield f"![{escape(alt)}](plots/{stem}.svg)"
        case Table():
            yield markdown_table(block)


def markdown_table(table: Table) -> str:
    lines = [
        "| " + " | ".join(escape(heading.title) for heading in table.headings) + " |",
        "|" + "|".join("--:" if heading.numeric else "---" for heading in table.headings) + "|",
    ]
    for row in table.rows:
        first, *others = [escape(f"{cell.text}: {cell.note}" if cell.note else cell.text) for cell in row.cells]
        cells = [f"**{first}**" if row.emphasis == "primary" else first, *others]
        if row.emphasis == "withdrawn":
            cells = [f"~~{cell}~~" if cell else "" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _markdown_text(text: Text) -> str:
    parts = (text,) if isinstance(text, str) else text
    return "".join(_code_span(part.text) if isinstance(part, Code) else escape(part) for part in parts)


def _code_span(text: str) -> str:
    """Return a code span on one line; its fence is longer than any run of backticks in the text."""
    text = re.sub(r"\s+", " ", text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def escape(text: str) -> str:
    """Return text on one line that can't break out of a Markdown table's cell, nor smuggle in HTML."""
    return re.sub(r"([|\\`*_\[\]<>])", r"\\\1", re.sub(r"\s+", " ", text))


def to_html(document: Document, plots: Mapping[str, str]) -> str:
    """Return the page; `plots` holds SVG by file name."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # We draw the plots; matplotlib has escaped their texts.
    inline = {name.removesuffix(".svg"): Markup(_unique_ids(name, svg)) for name, svg in plots.items()}  # noqa: S704
    style = Markup((HERE / "style.css").read_text(encoding="utf-8"))  # noqa: S704 - a file of ours
    kinds = {
        "kind": lambda block: type(block).__name__,
        "parts": lambda text: (text,) if isinstance(text, str) else text,
    }
    return environment.get_template("page.html").render(document=document, plots=inline, style=style, **kinds)


def _unique_ids(name: str, svg: str) -> str:
    """Return the SVG element with ids that no other plot of the page has."""
    stem = name.removesuffix(".svg")
    return re.sub(r'(id="|url\(#|xlink:href="#)', rf"\g<1>{stem}-", svg[svg.index("<svg") :])


def print_table(table: Table, console: Console, *, lines: bool = False) -> None:
    """Print a table, with `lines` between the rows if their texts are long."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

    rich = RichTable(
        title=RichText(table.title) if table.title else None,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_lines=lines,
    )
    for heading in table.headings:
        rich.add_column(RichText(heading.title), justify="right" if heading.numeric else "left")

    def text(cell: Cell) -> RichText:
        return RichText(cell.text, CONSOLE_STYLES.get(cell.style, ""))

    for row in table.rows:
        rich.add_row(*map(text, row.cells), style=CONSOLE_STYLES[row.emphasis])
    console.print(rich)
