"""Write a comparison for machines: JUnit XML, and the annotations and the summary of a GitHub job."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from bench.compare.changes import UNMATCHED
from bench.compare.comparison import alone_text, change_sentence, change_text, comparison_warnings, headlines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.analysis.run import Run
    from bench.compare.changes import ChangeRow, Comparison

# GitHub shows so many annotations of a kind for each step.
MOST_ANNOTATIONS = 10
# What XML 1.0 can't hold, even escaped.
NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(comparisons: Sequence[Comparison], names: Mapping[Run, str]) -> str:
    """Return JUnit XML: a suite for each comparison and a case for each row; regressions are its failures."""
    root = ET.Element("testsuites", name="bench compare")
    for comparison in comparisons:
        suite = ET.SubElement(root, "testsuite")
        for row in comparison.rows:
            _test_case(suite, row, names[comparison.after])
        counts = {
            "name": f"{names[comparison.after]} compared with {names[comparison.before]}",
            "tests": len(comparison.rows),
            "failures": len(comparison.regressions),
            "errors": 0,
            "skipped": len(suite.findall("*/skipped")),
        }
        suite.attrib.update({name: _xml(str(value)) for name, value in counts.items()})
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _test_case(suite: ET.Element, row: ChangeRow, after: str) -> None:
    case = ET.SubElement(suite, "testcase", classname=_xml(row.case.id), name=_xml(row.arm.id))
    if row.regression:
        ET.SubElement(case, "failure", type="regression", message=_xml(change_sentence(row, after)))
    elif row.verdict.word == UNMATCHED or not row.verdict.is_sound:
        ET.SubElement(case, "skipped", message=_xml(f"{row.verdict.word}: {row.verdict.reason}"))
    text = f"{row.verdict.word} {row.verdict.reason}; net {change_text(row.net)}, alone {alone_text(row.alone)}"
    ET.SubElement(case, "system-out").text = _xml(text)


def _xml(text: str) -> str:
    return NOT_XML.sub("?", text)


def github_annotations(
    comparisons: Sequence[Comparison], names: Mapping[Run, str], threshold: float | None
) -> Iterator[str]:
    """Yield the lines that GitHub turns into annotations of a job."""
    errors = [(each, row) for each in comparisons for row in each.regressions]
    for comparison, row in errors[: MOST_ANNOTATIONS - 1]:
        yield _annotation("error", f"{row.arm.id} is slower", change_sentence(row, names[comparison.after]))
    if len(errors) >= MOST_ANNOTATIONS:
        yield _annotation("error", "more regressions", f"{len(errors) - MOST_ANNOTATIONS + 1} more; see the summary")
    warnings = [line for comparison in comparisons for line in comparison_warnings(comparison, names)]
    for line in warnings[:MOST_ANNOTATIONS]:
        yield _annotation("warning", "bench compare", line)
    if not errors:
        for line in list(headlines(comparisons, names, threshold))[:MOST_ANNOTATIONS]:
            yield _annotation("notice", "bench compare", line)


def _annotation(kind: str, title: str, message: str) -> str:
    return f"::{kind} title={_escaped(title, ':,')}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    """Return text that can't end its line, its property or its command."""
    for character in ("%", "\r", "\n", *more):
        text = text.replace(character, f"%{ord(character):02X}")
    return text
