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
from bench.records import Check, Choice, Failure, Slice, SplitTrial, Start
from bench.report.arm_table import arm_columns, arm_rows
from bench.report.document import Column, brief_table, table
from bench.report.run_report import closing, csv_files, exit_status, write_report
from bench.report.sections import document
from bench.report.tables import speedup_columns
from bench.report.text import number
from bench.report.trust import checks
from bench.report.writers import section_to_markdown, to_csv
from bench.run_info import Protocol
from bench.suite.arms import BEST_THREADS
from tests.analysis.recorded_run import (
    AA,
    CASE,
    COMPILE,
    EAGER,
    IPEX,
    JIT,
    TRAINING_CASE,
    inference_run,
    training_run,
)


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


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_no_cell_of_a_file_is_a_formula(text) -> None:
    assert to_csv([text], [Column("name", str), Column("number", lambda _: -1)]) == f"name,number\n'{text},-1\n"


def test_a_cell_is_no_formula_after_a_tab_either() -> None:
    assert to_csv(["\t=1"], [Column("name", str)]) == "name\n'\t'=1\n"


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


@pytest.mark.parametrize("rule", [AT_REST, AS_IT_WAS])
def test_the_times_beside_a_speedup_follow_its_rule(tmp_path, rule) -> None:
    builder = inference_run(tmp_path / "run", noise=0)
    # In a third of the rounds the machine is slow.
    builder.records = [
        replace(record, samples_ns=(int(record.samples_ns[0] * (1, 1.1, 1.5)[record.round]),))
        if isinstance(record, Slice)
        else record
        for record in builder.records
    ]
    run = builder.describe(protocol=Protocol(10**6, rule=AT_REST)).read()
    (row,) = [row for row in speedups(run) if row.pair.arm == JIT and row.primary]
    (times,) = [column for column in speedup_columns(run, CASE) if column.title == "Latency, µs, arm / baseline"]
    typical = [run.typical_latency_ns(arm, CASE, rule) for arm in (JIT, row.pair.baseline)]
    assert run.typical_latency_ns(JIT, CASE, AT_REST) != run.typical_latency_ns(JIT, CASE, AS_IT_WAS)
    assert times.value(replace(row, rule=rule)) == " / ".join(number(nanoseconds / 1e3) for nanoseconds in typical)


@pytest.mark.parametrize("scatter", [None, 0.01])
def test_a_report_shows_how_many_rounds_blocks_had_if_that_was_not_fixed(tmp_path, scatter) -> None:
    """The first block has lost its last round."""
    builder = inference_run(tmp_path / "run")
    builder.records = [r for r in builder.records if not (isinstance(r, Slice) and (r.block, r.round) == (1, 2))]
    run = builder.describe(protocol=Protocol(10**6, rounds=2, scatter=scatter)).read()
    row = f"| Rounds of a block, {CASE.label} | 2 to 3, median 3 | 2; there are more where slices scatter |"
    assert (row in section_to_markdown(checks(run))) == bool(scatter)


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
        assert exit_status(write_report(folder, Console(file=io.StringIO()))) == 0
        contents.append({path: path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert contents[0] == contents[1]


@pytest.fixture
def chosen(tmp_path):
    """Return a function that writes a run in which one arm uses all cores of a case, and its baselines a part."""

    def chosen(scenario: str, small: tuple[int, int], large: tuple[int, int]):
        builder = inference_run(tmp_path / "run")
        case = replace(CASE, scenario=scenario, threads=BEST_THREADS)
        builder.records = [
            replace(record, case=case.id) if hasattr(record, "case") else record for record in builder.records
        ]
        failed = SplitTrial(3, 7, (), "exited with status 9")
        for arm in (EAGER, COMPILE, JIT):
            own = large if arm == JIT else small
            trials = (SplitTrial(*small, ((10_000, 12_000),)), SplitTrial(*large, ((20_000,),)), failed)
            builder.records.append(Choice(arm.id, case.id, *own, trials))
        builder.describe(
            cases=(case,), threads=16, lineups={case.id: builder.info.lineups[CASE.id]},
            pairs=tuple(replace(pair, case=case.id) for pair in builder.info.pairs),
        )  # fmt: skip
        return builder.write()

    return chosen


@pytest.mark.parametrize(
    ("scenario", "small", "large", "titles", "cells", "pair"),
    [
        ("latency", (1, 4), (1, 16), ["4 threads", "16 threads", "7 threads"], ["11.0", "20.0"], ("4", "16")),
        ("throughput", (8, 2), (1, 16), ["8 x 2", "1 x 16", "3 x 7"], ["90,909", "50,000"], ("8 x 2", "1 x 16")),
    ],
)
def test_best_threads_have_a_section_and_columns(chosen, scenario, small, large, titles, cells, pair) -> None:
    folder = chosen(scenario, small, large)
    write_report(folder, Console(file=io.StringIO()))
    run = Run(folder)
    (case,) = run.cases
    page = document(run, arm_rows(run), set())
    (section,) = [section for section in page.sections if section.title == "Threads"]
    own = section.blocks[1].blocks[0]
    assert [heading.title for heading in own.headings] == ["Arm", *titles, "Chosen"]
    rows = {row.cells[0].text: row.cells[1:] for row in own.rows}
    assert [cell.text for cell in rows["pytorch eager"]] == [*cells, "failed", pair[0]]
    assert [cell.text for cell in rows["ipex jit"]] == [*cells, "failed", pair[1]]
    assert rows["ipex jit"][2].note == "exited with status 9"
    threads = [column for column in arm_columns(run, case) if column.title == "Threads"]
    shown = table(arm_rows(run)[case], threads)
    assert [row.cells[0].text for row in shown.rows] == [pair[0], pair[0], pair[0], pair[1]]
    both = [column for column in speedup_columns(run, case) if column.title == "Threads, arm / baseline"]
    shown = table([row for row in speedups(run) if row.pair.arm == JIT], both)
    assert {row.cells[0].text for row in shown.rows} == {f"{pair[1]} / {pair[0]}"}


def test_best_threads_are_in_all_files(chosen) -> None:
    run = Run(chosen("throughput", (8, 2), (1, 4)))
    trials = [row for row in csv_rows(run, "threads.csv") if row["stack"] == "ipex"]
    assert [(row["streams"], row["threads_of_each"], row["time_per_batch_us"], row["chosen"]) for row in trials] == [
        ("8", "2", "11", "False"), ("1", "4", "20", "True"), ("3", "7", "", "False"),
    ]  # fmt: skip
    assert trials[-1]["failure"] == "exited with status 9"
    arms = {row["arm"]: (row["threads"], row["streams"]) for row in csv_rows(run, "arms.csv")}
    assert arms == {EAGER.id: ("16", "8"), AA.id: ("16", "8"), COMPILE.id: ("16", "8"), JIT.id: ("4", "1")}
    both = {
        (row["threads"], row["baseline_threads"]) for row in csv_rows(run, "speedups.csv") if row["stack"] == "ipex"
    }
    assert both == {("4", "16")}


def test_equal_threads_have_no_column_and_no_section(tmp_path) -> None:
    run = inference_run(tmp_path / "run").read()
    titles = {column.title for column in (*arm_columns(run, CASE), *speedup_columns(run, CASE))}
    assert not [title for title in titles if title.startswith("Threads")]
    assert "Threads" not in {section.title for section in document(run, arm_rows(run), set()).sections}


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


def test_a_run_without_cold_starts_shows_the_other_costs(tmp_path) -> None:
    def costs(run: Run) -> str:
        sections = document(run, arm_rows(run), set()).sections
        return next(section_to_markdown(section) for section in sections if section.title == "Costs")

    builder = inference_run(tmp_path / "run", preset="smoke")
    assert "| Cold start, s | Restart, s | Peak memory, MB |" in costs(builder.read())
    run = builder.remove(lambda record: isinstance(record, Start)).read()
    assert "Preset smoke measures no cold starts." in costs(run)
    assert "| Arm | Peak memory, MB | " in costs(run)
    assert {row["cold_start_s"] for row in csv_rows(run, "arms.csv")} == {""}
