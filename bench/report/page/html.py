"""Write a document as one HTML file that needs no network, and no script to be read."""

from __future__ import annotations

import re
from base64 import b64encode
from functools import partial
from hashlib import sha256
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report.document import plots_of, sections_of
from bench.report.plots.svg import NARROW, WIDE, plot_rules, standalone, variables
from models.texts import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.report.document import Document
    from bench.report.plots.panels import Drawing

HERE = Path(__file__).parent
LONGEST_REASON = 200


def to_html(document: Document, plots: Mapping[str, Drawing]) -> str:
    """Return the page; `plots` are those that the document names."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        # The style, the script and the drawings are Markup.
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The drawings escape their texts; style and script are files of ours.
    drawn = {
        stem: Markup("".join(plots[stem](plot.alt, width) for width in (WIDE, NARROW)))  # noqa: S704
        for plot in plots_of(document)
        for stem in (plot.stem, plot.other_stem)
        if stem in plots
    }
    style = Markup(variables() + plot_rules() + "\n" + (HERE / "style.css").read_text(encoding="utf-8"))  # noqa: S704
    script = Markup((HERE / "page.js").read_text(encoding="utf-8"))  # noqa: S704
    anchors = _anchors(document)
    return environment.get_template("page.html").render(
        document=document,
        plots=drawn,
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        kind=lambda block: type(block).__name__,
        parts=lambda text: (text,) if isinstance(text, str) else text,
        anchor=lambda section: anchors[id(section)],
        number=partial(next, (f"table-{number}" for number in count(1))),
    )


def plot_files(document: Document, plots: Mapping[str, Drawing]) -> dict[str, str]:
    """Return {file name: SVG} of the plots that a document names."""
    return {f"{plot.stem}.svg": standalone(plots[plot.stem](plot.alt, WIDE)) for plot in plots_of(document)}


def drawable(plots: Mapping[str, Drawing]) -> tuple[dict[str, Drawing], list[str]]:
    """Return the plots that can be drawn, and a line for each of the others: no plot may cost a report its tables."""
    drawings, missing = {}, []
    for stem, draw in plots.items():
        try:
            for width in (WIDE, NARROW):
                draw("", width)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a plot, the tables are not
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
            missing.append(f"The plot {stem} could not be drawn: {reason}")
        else:
            drawings[stem] = draw
    return drawings, missing


def _hash(text: str) -> str:
    """Return what a Content-Security-Policy calls an inline style or script by."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _anchors(document: Document) -> dict[int, str]:
    """Return a unique anchor for each section, by identity."""
    anchors, used = dict[int, str](), {"content"}

    for section in sections_of(document):
        base = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        names = chain([base], (f"{base}-{number}" for number in count(2)))
        name = next(name for name in names if name not in used)
        used.add(name)
        anchors[id(section)] = name
    return anchors
