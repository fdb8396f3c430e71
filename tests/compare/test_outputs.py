"""A comparison as Markdown, JUnit XML and GitHub annotations, with names that try to break out."""

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from bench.analysis.gates import FASTER, UNRESOLVED, Verdict
from bench.compare.changes import compare_runs
from bench.compare.comparison import comparison_document, headlines
from bench.compare.outputs import MOST_ANNOTATIONS, github_annotations, to_junit
from bench.records import Slice
from bench.report.writers import to_markdown
from bench.suite.arms import Arm
from tests.analysis.recorded_run import JIT, inference_run
from tests.report.pages import read_markdown

HOSTILE = Arm("ipex", "x\r\n::error::%0A | <b>\x01,:")
# As it is read from a file.
READ = Arm("ipex", "x\\r\n::error::%0A | <b>\\x01,:")


@pytest.fixture
def compared(tmp_path):
    """Return a comparison with one regression, of an arm with a hostile name, and the names of the runs."""
    before = inference_run(tmp_path / "one").replace_arm(JIT, HOSTILE).read()
    later = inference_run(tmp_path / "two", seed=8, jit=120_000).replace_arm(JIT, HOSTILE)
    after = later.describe(started="2026-02-01T00:00:00+00:00").read()
    return compare_runs(before, [after], 0.05), {before: "one", after: "two"}


def test_junit_has_a_case_for_each_arm_and_a_failure_for_each_regression(compared) -> None:
    suite = ET.fromstring(to_junit(*compared)).find("testsuite")
    assert suite.attrib == {
        "name": "two compared with one", "tests": "3", "failures": "1", "errors": "0", "skipped": "0",
    }  # fmt: skip
    failed = [case for case in suite if case.find("failure") is not None]
    assert [case.get("name") for case in failed] == [READ.id]
    assert "0.83" in failed[0].find("failure").get("message")
    assert {case.get("classname") for case in suite} == {"cnn-small/latency/b1"}


def test_an_arm_that_failed_is_a_skipped_case(tmp_path) -> None:
    before = inference_run(tmp_path / "one").read()
    later = inference_run(tmp_path / "two").describe(started="2026-02-01T00:00:00+00:00")
    after = later.remove(lambda record: isinstance(record, Slice) and record.arm == JIT.id).read()
    suite = ET.fromstring(to_junit(compare_runs(before, [after], 0.05), {before: "1", after: "2"})).find("testsuite")
    assert suite.get("skipped") == "1"
    assert suite.find("*/skipped").get("message").startswith("FAILED: after: ")


def test_annotations_stay_on_one_line_each_and_escape_what_github_reads(compared) -> None:
    lines = list(github_annotations(*compared, 0.05))
    assert [line.partition(" ")[0] for line in lines] == ["::error"]
    assert lines[0].startswith("::error title=ipex/x\\r%0A%3A%3Aerror%3A%3A%250A | <b>\\x01%2C%3A is slower::")
    assert not set("\r\n") & set(lines[0])


def test_without_a_regression_the_answer_is_a_notice(compared) -> None:
    comparisons, names = compared
    calm = [replace(each, rows=tuple(replace(row, regression=False) for row in each.rows)) for each in comparisons]
    (line,) = github_annotations(calm, names, 0.05)
    assert line == (
        "::notice title=bench compare::two: 0 regressions by more than 5 %25. Of 3 rows, 2 rule out one, 1 can't tell."
    )


def test_without_a_gate_the_answer_counts_what_is_not_known(compared) -> None:
    comparisons, names = compared
    words = (UNRESOLVED, UNRESOLVED, FASTER)
    found = zip(comparisons[0].rows, words, strict=True)
    calm = replace(comparisons[0], rows=tuple(replace(row, verdict=Verdict(word, "")) for row, word in found))
    assert list(headlines([calm], names, None)) == ["two: none of 3 rows is shown to be slower. 2 are unresolved."]


def test_no_more_annotations_than_github_shows(compared) -> None:
    comparisons, names = compared
    row = comparisons[0].regressions[0]
    lines = list(github_annotations([replace(comparisons[0], rows=(row,) * 30)], names, 0.05))
    assert len(lines) == MOST_ANNOTATIONS
    assert lines[-1].endswith("21 more; see the summary")


def test_the_page_says_what_became_slower_by_how_much_and_that_runs_are_not_interleaved(compared) -> None:
    page = to_markdown(comparison_document(*compared, 0.05))
    blocks = read_markdown(page)
    assert blocks[0] == ("h1", "two compared with one")
    texts = [text for kind, text in blocks if kind == "text"]
    assert any(text.startswith("REGRESSION: ipex x\\r ::error::%0A | <b>") for text in texts)
    assert any(text.startswith("The runs are not interleaved") for text in texts)
    assert any(text.startswith("Drift of the machine, as its controls show it: pytorch eager") for text in texts)
    ((heading, *body),) = [rows for kind, rows in blocks if kind == "table"]
    assert heading[:4] == ["Arm", "Latency, µs, before / after", "Alone", "Control"]
    assert [row[-2].split()[0].rstrip(":") for row in body] == ["UNCHANGED", "UNCHANGED", "REGRESSION"]
    assert "<b>" not in page.replace(r"\<b\>", "")
