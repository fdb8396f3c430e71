"""The page of a document."""

import base64
import hashlib
import re
from xml.dom.minidom import parseString

from bench.report.document import (
    Bullets,
    Card,
    Cards,
    Cell,
    Code,
    Document,
    Heading,
    Paragraph,
    Plot,
    Row,
    Section,
    Table,
)
from bench.report.page.html import plot_files, to_html
from bench.report.writers import to_markdown
from tests.report.pages import PageParser, read_html, read_markdown
from tests.report.small_document import DOCUMENT, drawing


def page_of(document: Document) -> str:
    return to_html(document, {"bars": drawing})


def test_the_page_has_the_structure_of_the_document() -> None:
    page = page_of(DOCUMENT)
    assert read_html(page) == read_markdown(to_markdown(DOCUMENT))
    assert '<p class="warning">SYNTHETIC DATA</p>' in page
    assert '<p class="answer">Yes.</p>' in page
    assert '<h3>IPEX: <span class="badge">worth it</span></h3>' in page
    assert '<p class="warning">Run <code>a_b `c`</code>, then <code>x&lt;y</code>.</p>' in page
    assert '<th scope="col">Arm</th><th scope="col" class="n">Speedup, x</th>' in page
    assert '<tr class="primary"><th scope="row">ipex | jit</th><td class="n">1.23</td>' in page
    assert '<tr data-stack="a &amp; b"><th scope="row">compile</th><td class="n"><s>9.9</s></td>' in page
    assert '<span class="v FASTER">FASTER</span>' in page
    assert '<li id="table-1-1">too &lt;few&gt;</li>' in page
    assert "<details><summary>All of them</summary>" in page
    assert "<figcaption>Right is *better*.</figcaption>" in page


def test_contents_link_to_every_section() -> None:
    page = page_of(Document("t", "l", (), (Section("Same!", ()), Section("same", ()), Section("µ", ()))))
    assert re.findall(r'<li><a href="#([^"]+)">', page) == re.findall(r'<section id="([^"]+)">', page)
    assert re.findall(r'<section id="([^"]+)">', page) == ["same", "same-2", "section"]


def test_the_page_is_one_file_and_its_policy_allows_its_own_style_and_script_only() -> None:
    page = page_of(DOCUMENT)
    assert not re.search(r'(src|href)="(?!#)', page)
    assert 'style="' not in page
    for kind in ("style", "script"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in page
    assert "default-src 'none'; " in page


def test_a_plot_is_drawn_for_wide_and_for_narrow_screens_and_as_a_file() -> None:
    page = page_of(DOCUMENT)
    assert re.findall(r'<svg [^>]*class="(\w+)"', page) == ["wide", "narrow"]
    files = plot_files(DOCUMENT, {"bars": drawing})
    assert list(files) == ["bars.svg"]
    assert parseString(files["bars.svg"]).documentElement.getAttribute("aria-label") == "Bars [of] all"
    assert "var(" not in files["bars.svg"]


def test_hostile_text_in_every_field_is_text() -> None:
    hostile = '"></style></script><script>x</script><img onerror="y">'
    cell = Cell(hostile, hostile, hostile, detail=hostile)
    table = Table((Heading(hostile),), (Row((cell,), facets={"stack": hostile}),), title=hostile, folded=hostile)
    card = Card(hostile, hostile, hostile, (Paragraph(hostile, hostile),))
    blocks = (
        Paragraph((hostile, Code(hostile))),
        Bullets((hostile,)),
        table,
        Plot("bars", hostile, hostile),
        Cards((card,)),
    )
    page = page_of(Document(hostile, hostile, (hostile,), (Section(hostile, blocks),)))
    parser = PageParser()
    parser.feed(page)
    assert "img" not in parser.tags
    assert page.count("<script>") == page.count("<style>") == 1
    assert parser.blocks.count(("plot", hostile)) == 1
    assert ("table", [[hostile], [f"{hostile} ({hostile}) ¹"]]) in parser.blocks
    assert sum(content == hostile for _, content in parser.blocks) == 9
