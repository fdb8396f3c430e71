"""Markdown and console."""

import io

from rich.console import Console

from bench.report.document import Paragraph, Section, text_table
from bench.report.writers import print_table, section_to_markdown, to_markdown
from tests.report.small_document import DOCUMENT, TABLE

MARKDOWN = r"""# A \*title\*

The lead, on two lines.

> **SYNTHETIC DATA**

## Answer

Yes.

### IPEX: worth it

**F** x

## First

An explanation.

> Run `` a_b `c` ``, then `x<y`.

### Inner

| Arm | Speedup, x | Verdict |
|---|--:|---|
| **ipex \| jit** | 1.23 | FASTER |
| eager (A/A) | 1.00 | UNRESOLVED ¹ |
| compile | ~~9.9~~ |  |

- ¹ too \<few\>

![Bars \[of\] all](plots/bars.svg)

Right is \*better\*.

## Second

- one
- two `2`

**All of them**

| P |
|---|
| v |
"""
CONSOLE = """\
cnn, latency

 Arm          Speedup, x  Verdict
 ───────────────────────────────────
 ipex | jit         1.23  FASTER
 eager (A/A)        1.00  UNRESOLVED
 compile             9.9
"""


def test_markdown() -> None:
    assert to_markdown(DOCUMENT) == MARKDOWN


def test_a_section_by_itself_is_a_page() -> None:
    section = Section("T", (Paragraph("p"), text_table(("a", "b"), [("1", "2")])))
    assert section_to_markdown(section) == "# T\n\np\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"


def test_the_console_shows_text_unchanged_in_80_columns() -> None:
    stream = io.StringIO()
    print_table(TABLE, Console(file=stream, width=80))
    shown = "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines()) + "\n"
    assert shown == CONSOLE


def test_markup_of_the_console_is_text() -> None:
    stream = io.StringIO()
    print_table(text_table(("[red]h",), [("[bold]x[/bold]",)]), Console(file=stream, width=80))
    assert "[red]h" in stream.getvalue()
    assert "[bold]x[/bold]" in stream.getvalue()
