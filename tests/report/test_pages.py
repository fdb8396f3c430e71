"""Both pages of a report have the same content."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from bench.records import Failure, Proof
from bench.report.run_report import write_report
from tests.analysis.recorded_run import CASE, COMPILE, EAGER, JIT, inference_run, ladder_info, training_run
from tests.report.pages import outside_code, read_html, read_markdown

HOSTILE = '<script>alert(1)</script> | *b* `c` [d](http://e) \\ _f_ & "g" {{ 1 + 1 }}'


def report(builder) -> tuple[str, str]:
    """Write a report; return its Markdown and its HTML."""
    folder = builder.write()
    write_report(folder, Console(file=io.StringIO(), width=80))
    return (folder / "report.md").read_text(), (folder / "report.html").read_text()


def with_ladder(folder):
    ladder = ladder_info("ladder", [("as it is", EAGER), ("compile", COMPILE), ("extension", JIT)])
    return inference_run(folder).describe(
        ladders=(ladder,), settings={"bound": {"OMP_NUM_THREADS": "2"}}, git_commit="abc123"
    )


@pytest.mark.parametrize("make", [with_ladder, training_run])
def test_both_pages_have_the_same_sections_tables_sentences_and_plots(tmp_path, make) -> None:
    markdown, page = report(make(tmp_path / "run"))
    blocks = read_markdown(markdown)
    assert blocks == read_html(page)
    assert {kind for kind, _ in blocks} == {"h1", "h2", "h3", "text", "table", "plot"}


def test_both_pages_name_the_command_and_the_commit(tmp_path) -> None:
    markdown, page = report(with_ladder(tmp_path / "run"))
    for blocks in (read_markdown(markdown), read_html(page)):
        assert ("text", "This run: bench run, commit abc123. --seed 1 repeats its schedule.") in blocks


def test_sections_are_in_the_order_of_a_reader_s_questions(tmp_path) -> None:
    markdown, _ = report(with_ladder(tmp_path / "run"))
    assert [title for kind, title in read_markdown(markdown) if kind == "h2"] == [
        "Is it worth it here?", "Words", "Speedups", "Absolute times", "Where the gain comes from", "Distributions",
        "Confusion matrices", "Published claims", "Costs", "Checks", "What ran", "How it was measured", "Machine",
        "Versions", "Commands",
    ]  # fmt: skip


def test_hostile_text_is_shown_as_text_in_every_place(tmp_path) -> None:
    builder = with_ladder(tmp_path / "run")
    info = builder.info
    builder.describe(
        suite=type(info.suite)(HOSTILE, HOSTILE),
        machine=type(info.machine)(HOSTILE, 2, 2),
        settings={HOSTILE: {HOSTILE: HOSTILE}},
        missing={HOSTILE: HOSTILE},
        mismatches={"ipex vanilla": {HOSTILE: (HOSTILE, HOSTILE)}},
        command=("bench", HOSTILE),
        git_commit=HOSTILE,
        advice=(HOSTILE,),
        started=HOSTILE,
        ladders=(ladder_info(HOSTILE, [(HOSTILE, EAGER), (HOSTILE, JIT)]),),
    )
    builder.records.append(Failure(JIT.id, CASE.id, 1, HOSTILE))
    markdown, page = report(builder)
    blocks = read_html(page)
    assert read_markdown(markdown) == blocks
    assert ("h1", f"{HOSTILE}: {HOSTILE}") in blocks
    assert page.count("<script>") == 1
    assert not re.search(r"(?<!\\)[<>]", outside_code(markdown).replace("\n> ", "\n"))
    texts = [content for kind, content in blocks if kind == "text"]
    assert f"{HOSTILE} was not measured: {HOSTILE}" in texts
    assert f"This run: bench {HOSTILE}, commit {HOSTILE}. --seed 1 repeats its schedule." in texts


def test_the_report_of_a_training_has_its_table_and_omits_what_was_not_measured(tmp_path) -> None:
    builder = training_run(tmp_path / "run")
    text, _ = report(builder)
    assert {path.name for path in (builder.folder / "plots").iterdir()} == {
        "summary.svg",
        "speedups.svg",
        "training.svg",
        "blocks.svg",
    }
    assert {path.name for path in builder.folder.iterdir() if path.is_file()} == {
        "run.json", "journal.jsonl", "arms.csv", "speedups.csv", "training.csv", "report.md", "report.html",
    }  # fmt: skip
    # Rows must follow the line that makes a table.
    assert "|--:|\n| pytorch train | 6.01 |" in text
    assert "| ipex train | 4.00 | 8.01 |" in text
    assert text.count("| reference |") == 1
    assert "within seed noise" in text
    assert "## Costs" not in text
    assert "latency" not in text.partition("## How it was measured")[0].lower()
    assert "a warm-up epoch and one timed epoch" in text
    assert "| 1.00 % |" in text


def test_the_fastest_arm_may_classify_every_image_wrongly(tmp_path) -> None:
    wrong = replace(JIT, precision="int8")
    builder = inference_run(tmp_path / "run").replace_arm(JIT, wrong)
    builder.change(Proof, lambda record: record.arm == wrong.id, labels="2" * 10, accuracy=0.0)
    markdown, _ = report(builder)
    assert "tradeoffs.svg" in markdown
    assert "accuracy 0.00% is less than 99% of fp32's" in markdown
