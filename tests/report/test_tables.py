"""The tables of a run, as CSV files and on the console."""

import csv
import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from bench.analysis.latency import AS_IT_WAS, AT_REST
from bench.analysis.run import Run
from bench.analysis.speedups import speedups
from bench.records import Check, Failure
from bench.report.arm_table import arm_columns, arm_rows
from bench.report.document import Column, brief_table, table
from bench.report.run_report import closing, csv_files, write_report
from bench.report.tables import speedup_columns
from bench.report.writers import to_csv
from tests.analysis.recorded_run import CASE, IPEX, JIT, TRAINING_CASE, inference_run, training_run


def csv_rows(run, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_files(run, arm_rows(run))[name])))


def test_a_column_is_in_the_file_in_the_table_or_in_both() -> None:
    columns = [
        Column("name", lambda row: row, "Name", str.upper, numeric=False),
        Column("length", len),
        Column("", lambda row: row[0], "Initial"),
    ]
    assert to_csv(["ab", "c"], columns) == "name,length\nab,2\nc,1\n"
    shown = table(["ab", "c"], columns)
    assert [heading.title for heading in shown.headings] == ["Name", "Initial"]
    assert [[cell.text for cell in row.cells] for row in shown.rows] == [["AB", "a"], ["C", "c"]]


def test_a_file_without_rows_is_empty() -> None:
    assert to_csv([], [Column("name", str)]) == ""


def test_the_console_has_columns_of_its_own() -> None:
    columns = [
        Column("", lambda row: row, "Name", str.upper, brief=True),
        Column("", lambda row: row, "Shown", brief=True, show_brief=lambda row: f"{row}!"),
        Column("", lambda row: row, "Left out"),
    ]
    shown = brief_table(["ab"], columns, title="t")
    assert [heading.title for heading in shown.headings] == ["Name", "Shown"]
    assert [cell.text for cell in shown.rows[0].cells] == ["AB", "ab!"]


def test_the_verdicts_fit_a_console_of_80_columns(tmp_path) -> None:
    long = replace(JIT, variant="channels_last")
    run = inference_run(tmp_path / "run").replace_arm(JIT, long).read()
    stream = io.StringIO()
    closing(run, Console(file=stream, width=80))
    lines = [line for line in stream.getvalue().splitlines() if re.search("ipex channels_last +pytorch", line)]
    assert len(lines) == 2
    assert all(line.rstrip().endswith("FASTER") and len(line) <= 80 for line in lines)


@pytest.mark.parametrize(("rule", "other"), [(AT_REST, "As it was"), (AS_IT_WAS, "At rest")])
def test_the_ratio_by_the_other_rule_is_in_the_table_of_conditions(tmp_path, rule, other) -> None:
    run = Run(inference_run(tmp_path / "run").write(), rule)
    titles = [column.title for column in speedup_columns(run, run.cases[0]) if column.group == "conditions"]
    assert other in titles


def test_the_console_marks_unmatched_environments(tmp_path) -> None:
    run = inference_run(tmp_path / "run").describe(mismatches={"ipex vanilla": {"numpy": ("1", "2")}}).read()
    verdicts = brief_table(speedups(run), speedup_columns(run, CASE))
    assert {row.cells[0].text: row.cells[-1].text for row in verdicts.rows}["ipex jit"] == "FASTER, unmatched"


def test_processes_without_a_steady_state_are_counted(tmp_path) -> None:
    builder = inference_run(tmp_path / "run")
    builder.records.append(Check(JIT.id, CASE.id, 1, 10, "x", 0.0, (1, 2, 3), steady=False))
    run = builder.read()
    (jit,) = [row for row in csv_rows(run, "arms.csv") if row["stack"] == "ipex"]
    assert jit["blocks_without_steady_state"] == "1"
    times = table(arm_rows(run)[CASE], [column for column in arm_columns(run, CASE) if column.group == "times"])
    statuses = {row.cells[0].text: row.cells[1].text for row in times.rows}
    assert statuses["ipex jit"] == "measured; no steady state in 1 block"


def test_an_arm_that_was_skipped_is_a_row_with_its_reason(tmp_path) -> None:
    builder = inference_run(tmp_path / "run").remove(lambda record: getattr(record, "arm", "") == JIT.id)
    builder.records.append(Failure(JIT.id, CASE.id, None, "does not exist", skipped=True))
    (jit,) = [row for row in csv_rows(builder.read(), "arms.csv") if row["arm"] == JIT.id]
    assert (jit["status"], jit["reason"], jit["latency_us"]) == ("skipped", "does not exist", "")


def test_an_arm_that_diverged_is_a_row_with_its_reason(tmp_path) -> None:
    builder = training_run(tmp_path / "run").remove(lambda record: getattr(record, "arm", "") == IPEX.id)
    builder.records.append(Failure(IPEX.id, TRAINING_CASE.id, 1, "diverged: the loss of step 4 of 938 is nan"))
    rows = csv_rows(builder.read(), "arms.csv")
    (ipex,) = [row for row in rows if row["stack"] == "ipex"]
    assert [row["peak_memory_bytes"] for row in rows] == ["7", "7", ""]
    assert (ipex["status"], "diverged" in ipex["reason"]) == ("failed", True)


@pytest.mark.parametrize(("make", "extra"), [(inference_run, set()), (training_run, {"training.csv"})])
def test_only_tables_with_rows_are_files(tmp_path, make, extra) -> None:
    run = make(tmp_path / "run").read()
    assert csv_files(run, arm_rows(run)).keys() == {"arms.csv", "speedups.csv"} | extra


def test_a_report_that_can_not_be_rendered_leaves_the_folder_unchanged(tmp_path, monkeypatch) -> None:
    folder = inference_run(tmp_path / "run").write()
    before = {path: path.read_bytes() for path in folder.rglob("*")}
    monkeypatch.setattr("bench.report.run_report.to_html", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(folder, Console(file=io.StringIO()))
    assert {path: path.read_bytes() for path in folder.rglob("*")} == before


def test_the_same_journal_gives_the_same_files(tmp_path) -> None:
    folder = inference_run(tmp_path / "run").write()
    contents = []
    for _ in range(2):
        assert write_report(folder, Console(file=io.StringIO())) == 0
        contents.append({path: path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert contents[0] == contents[1]


def test_a_sweep_has_a_table_a_plot_and_a_section(tmp_path) -> None:
    builder, cases = inference_run(tmp_path / "run"), [replace(CASE, batch_size=size) for size in (1, 2, 4)]
    records = [record for record in builder.records if hasattr(record, "case")]
    builder.records += [replace(record, case=case.id) for case in cases[1:] for record in records]
    builder.describe(cases=tuple(cases), lineups={case.id: builder.info.lineups[CASE.id] for case in cases})
    folder = builder.write()
    write_report(folder, Console(file=io.StringIO()))
    with (folder / "scaling.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["batch_size"] for row in rows if row["over"] == "batch_size"} == {"1", "2", "4"}
    assert all(float(row["images_per_s"]) > 0 for row in rows)
    assert "images/s (log scale); higher is better" in (folder / "plots" / "scaling.svg").read_text()
    for page in ("report.md", "report.html"):
        assert "By batch size" in (folder / page).read_text()
