"""One small document with every kind of block, in every format."""

import io
import re

from rich.console import Console

from bench.report.document import (
    Bullets,
    Cell,
    Code,
    Document,
    Heading,
    Paragraph,
    Plot,
    Row,
    Section,
    Table,
    text_table,
)
from bench.report.writers import print_table, section_to_markdown, to_html, to_markdown
from tests.report.pages import PageParser, read_html, read_markdown

SVG = '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><g id="a"/><use xlink:href="#a"/></svg>'
TABLE = Table(
    (Heading("Arm"), Heading("Speedup, x", numeric=True), Heading("Verdict")),
    (
        Row((Cell("ipex | jit"), Cell("1.23"), Cell("FASTER", "FASTER")), "primary"),
        Row((Cell("eager (A/A)"), Cell("1.00"), Cell("UNRESOLVED", "UNRESOLVED", "too <few>")), "replica"),
        Row((Cell("compile"), Cell("-"), Cell(""))),
    ),
    title="cnn, latency",
)
DOCUMENT = Document(
    title="A *title*",
    lead="The lead,\n   on two lines.",
    warnings=("SYNTHETIC DATA",),
    headlines=("ipex is faster.",),
    sections=(
        Section(
            "First",
            (
                Paragraph("An explanation."),
                Paragraph(("Run ", Code("a_b `c`"), ", then ", Code("x<y"), "."), "warning"),
                Section("Inner", (TABLE, Plot("bars", "Bars [of] all"))),
            ),
        ),
        Section("Second", (Bullets(("one", ("two ", Code("2")))), text_table(("P",), [("v",)], folded="All of them"))),
    ),
)
MARKDOWN = r"""# A \*title\*

The lead, on two lines.

> **SYNTHETIC DATA**

**ipex is faster.**

## First

An explanation.

> Run `` a_b `c` ``, then `x<y`.

### Inner

| Arm | Speedup, x | Verdict |
|---|--:|---|
| **ipex \| jit** | 1.23 | FASTER |
| eager (A/A) | 1.00 | UNRESOLVED: too \<few\> |
| compile | - |  |

![Bars \[of\] all](plots/bars.svg)

## Second

- one
- two `2`

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
 compile               -
"""


def test_markdown() -> None:
    assert to_markdown(DOCUMENT) == MARKDOWN


def test_a_section_by_itself_is_a_page() -> None:
    section = Section("T", (Paragraph("p"), text_table(("a", "b"), [("1", "2")])))
    assert section_to_markdown(section) == "# T\n\np\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"


def test_html_has_the_structure_of_the_document() -> None:
    page = to_html(DOCUMENT, {"bars.svg": SVG})
    assert read_html(page) == read_markdown(MARKDOWN)
    assert '<p class="warning">SYNTHETIC DATA</p>' in page
    assert '<p class="headline">ipex is faster.</p>' in page
    assert '<p class="warning">Run <code>a_b `c`</code>, then <code>x&lt;y</code>.</p>' in page
    assert '<th scope="col">Arm</th><th scope="col" class="n">Speedup, x</th>' in page
    assert '<tr class="primary"><td>ipex | jit</td><td class="n">1.23</td>' in page
    assert '<tr class="replica"><td>eager (A/A)</td>' in page
    assert '<span class="v FASTER">FASTER</span>' in page
    assert '<span class="note">: too &lt;few&gt;</span>' in page
    assert "<details><summary>All of them</summary>" in page


def test_html_is_self_contained_and_plots_do_not_share_ids() -> None:
    page = to_html(DOCUMENT, {"bars.svg": SVG})
    assert '<g id="bars-a"/><use xlink:href="#bars-a"/>' in page
    assert "<?xml" not in page
    assert not re.search(r'(src|href)="(?!#)', page)
    parser = PageParser()
    parser.feed(page)
    assert not parser.tags & {"script", "link", "img", "iframe"}


def test_hostile_text_in_every_field_of_html_is_text() -> None:
    hostile = '"><script>x</script><img onerror="y">'
    table = Table((Heading(hostile),), (Row((Cell(hostile, "FAILED", hostile),)),), title=hostile, folded=hostile)
    blocks = (Paragraph((hostile, Code(hostile))), Bullets((hostile,)), table, Plot("p", hostile))
    page = to_html(Document(hostile, hostile, (hostile,), (hostile,), (Section(hostile, blocks),)), {"p.svg": SVG})
    parser = PageParser()
    parser.feed(page)
    assert not parser.tags & {"script", "img"}
    assert parser.blocks.count(("plot", hostile)) == 1
    assert ("table", [[hostile], [f"{hostile}: {hostile}"]]) in parser.blocks
    assert sum(content == hostile for kind, content in parser.blocks if kind in ("text", "h1", "h2")) == 6


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
