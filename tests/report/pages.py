"""Read the two pages of a report back: headings, tables, lists and paragraphs, without their markup."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br"}
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
TEXTS = ("h1", "h2", "h3", "h4", "p", "li", "td", "th", "summary", "figcaption")


class PageParser(HTMLParser):
    """Collect (kind, content) of a page outside of its plots; a table's content is its rows of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.tags, self._text, self._rows = [], set(), None, []
        self.open, self._note = [], 0

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "svg" and dict(attrs)["class"] == "wide" and "template" not in self.open:
            self.blocks.append(("plot", dict(attrs)["aria-label"]))
        if self._skipped(tag):
            return
        if tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag == "ol":
            self._note = 0
        elif tag == "s":
            self._text += "~~"
        elif tag in TEXTS:
            self._text = ""
            if tag == "li" and "ol" in self.open:
                self._note += 1
                self._text = str(self._note).translate(SUPERSCRIPTS) + " "

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag
        if self._skipped(tag):
            return
        if tag in ("td", "th"):
            self._rows[-1].append(clean(self._text))
        elif tag == "table":
            self.blocks.append(("table", self._rows))
        elif tag == "s":
            self._text += "~~"
        elif tag in TEXTS:
            self.blocks.append((tag if tag[0] == "h" else "text", clean(self._text)))
            self._text = None

    def handle_data(self, data) -> None:
        if self._text is not None and not self._skipped():
            self._text += data.translate(SUPERSCRIPTS) if "sup" in self.open else data

    def _skipped(self, tag=None) -> bool:
        return bool({"svg", "head", "nav", "script"} & {*self.open, tag})


def clean(text: str) -> str:
    return " ".join(text.split())


def read_html(page: str) -> list:
    parser = PageParser()
    parser.feed(page)
    assert parser.open == []
    return parser.blocks


def read_markdown(page: str) -> list:
    """Return the blocks of a page in the subset of Markdown that reports use."""
    blocks = []
    for paragraph in page.strip().split("\n\n"):
        lines = paragraph.split("\n")
        if heading := re.fullmatch(r"(#{1,4}) (.*)", paragraph):
            blocks.append((f"h{len(heading[1])}", unmarked(heading[2])))
        elif plot := re.fullmatch(r"!\[(.*)\]\(plots/[a-z-]+\.svg\)", paragraph):
            blocks.append(("plot", unmarked(plot[1])))
        elif lines[0].startswith("| "):
            cells = [re.split(r" ?(?<!\\)\| ?", line)[1:-1] for line in (lines[0], *lines[2:])]
            assert {len(row) for row in cells} == {lines[1].count("|") - 1}
            blocks.append(("table", [[unmarked(cell) for cell in row] for row in cells]))
        else:
            assert len(lines) == 1 or all(line.startswith("- ") for line in lines)
            blocks += [("text", unmarked(re.sub(r"^(- |> )", "", line))) for line in lines]
    return blocks


CODE = r"(?P<fence>`+)(?P<space> ?)(?P<code>.*?)(?P=space)(?P=fence)(?!`)"


def unmarked(text: str) -> str:
    return clean(re.sub(rf"\\(?P<plain>.)|{CODE}|\*\*", lambda match: match["plain"] or match["code"] or "", text))


def outside_code(page: str) -> str:
    return re.sub(rf"(?P<escaped>\\.)|{CODE}", lambda match: match["escaped"] or "", page)
