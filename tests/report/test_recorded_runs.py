"""Reports of recorded runs: which sections and sentences they have."""

import csv
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from bench.analysis.attribution import attributions
from bench.records import Check, Failure
from bench.report.run_report import write_report
from bench.report.text import attribution_sentence
from tests.analysis.recorded_run import CASE, COMPILE, EAGER, IPEX, JIT, inference_run, ladder_info, training_run

LADDER = [("as it is", EAGER), ("compile", COMPILE), ("extension", JIT)]


@pytest.fixture
def builder(tmp_path):
    return inference_run(tmp_path / "run")


def arms(builder) -> dict[str, dict[str, str]]:
    """Write the report and return the rows of arms.csv by arm."""
    folder = builder.write()
    write_report(folder, Console(file=StringIO()))
    with (folder / "arms.csv").open() as stream:
        return {row["arm"]: row for row in csv.DictReader(stream)}


def ladder(builder):
    (attribution,) = attributions(builder.describe(ladders=(ladder_info("ladder", LADDER),)).read())
    return attribution


def test_a_ladder_is_summed_up_with_the_share_of_the_extension(builder) -> None:
    sentence = attribution_sentence(ladder(builder))
    assert "1.34" in sentence
    assert "42% of the gain" in sentence


def test_without_a_gain_nothing_is_attributed(tmp_path) -> None:
    flat = inference_run(tmp_path / "run", eager=1e5, aa=1e5, compiled=1e5, jit=1e5)
    assert "no gain to attribute" in attribution_sentence(ladder(flat))


def test_an_arm_that_was_skipped_is_a_row_with_its_reason(builder) -> None:
    builder.remove(lambda record: getattr(record, "arm", "") == JIT.id)
    builder.records.append(Failure(JIT.id, CASE.id, None, "does not exist", skipped=True))
    row = arms(builder)[JIT.id]
    assert (row["status"], row["reason"], row["latency_us"]) == ("skipped", "does not exist", "")


def test_processes_without_a_steady_state_are_counted(builder) -> None:
    builder.records.append(Check(JIT.id, CASE.id, 1, 10, "x", 0.0, (1, 2, 3), steady=False))
    assert arms(builder)[JIT.id]["blocks_without_steady_state"] == "1"


def test_an_arm_that_diverged_is_a_row_with_its_reason(tmp_path) -> None:
    builder = training_run(tmp_path / "run").remove(lambda record: record.arm == IPEX.id)
    builder.records.append(Failure(IPEX.id, builder.info.cases[0].id, 1, "diverged: the loss of step 4 of 938 is nan"))
    rows = arms(builder)
    assert [row["peak_memory_bytes"] for row in rows.values()] == ["7", "7", ""]
    assert (rows[IPEX.id]["status"], "diverged" in rows[IPEX.id]["reason"]) == ("failed", True)


def test_the_report_of_a_training_run_omits_what_was_not_measured(tmp_path) -> None:
    folder = training_run(tmp_path / "run").write()
    write_report(folder, Console(file=StringIO()))
    assert {path.name for path in (folder / "plots").iterdir()} == {"speedups.svg", "training.svg", "blocks.svg"}
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "run.json", "journal.jsonl", "arms.csv", "speedups.csv", "training.csv", "report.md", "report.html",
    }  # fmt: skip
    text = (folder / "report.md").read_text()
    # A blank line in between would end the table.
    assert "|---|\n| pytorch train | 6.01 |" in text
    assert "| ipex train | 4.00 | 8.01 |" in text
    assert text.count("| reference |") == 1
    assert "within seed noise" in text
    assert "Cost to the user" not in text
    assert "latency" not in text.partition("## How it was measured")[0].lower()
    assert "a warm-up epoch and one timed epoch" in text
    assert "| 1.00 % |" in text


def test_a_sweep_has_a_table_a_plot_and_a_section(tmp_path) -> None:
    builder, cases = inference_run(tmp_path / "run"), [replace(CASE, batch_size=size) for size in (1, 2, 4)]
    records = [record for record in builder.records if hasattr(record, "case")]
    builder.records += [replace(record, case=case.id) for case in cases[1:] for record in records]
    builder.describe(cases=tuple(cases), lineups={case.id: builder.info.lineups[CASE.id] for case in cases})
    folder = builder.write()
    write_report(folder, Console(file=StringIO()))
    with (folder / "scaling.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["batch_size"] for row in rows if row["over"] == "batch_size"} == {"1", "2", "4"}
    assert all(float(row["images_per_s"]) > 0 for row in rows)
    assert "images/s (log scale)" in (folder / "plots" / "scaling.svg").read_text()
    for page in ("report.md", "report.html"):
        assert "By batch size" in (folder / page).read_text()
