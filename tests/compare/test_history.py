"""Speedups over many runs: which runs belong together, and where a level changes."""

import io
import math
import random
from dataclasses import replace

import pytest
from rich.console import Console

from bench.analysis.latency import AS_IT_WAS, AT_REST
from bench.compare.history import (
    BARS,
    HISTORY_COLUMNS,
    MIN_RUNS,
    SpeedupSeries,
    change_points,
    history_document,
    history_headlines,
    history_points,
    point_rows,
    series_of,
    sparkline,
)
from bench.machine.facts import Machine
from bench.records import Proof
from bench.report.document import brief_table
from bench.report.writers import print_table, to_markdown
from tests.analysis.recorded_run import AA, COMPILE, EAGER, JIT, inference_run
from tests.report.pages import read_markdown


@pytest.fixture
def points(tmp_path):
    return history_points(inference_run(tmp_path / "run").read(), "run")


def later(point, index, speedup):
    estimate = replace(point.estimate, log_speedup=math.log(speedup))
    return replace(point, run=f"r{index}", started=f"2026-01-{index + 1:02}", estimate=estimate)


def test_a_level_that_changes_is_found_at_its_first_run() -> None:
    noise = random.Random(3)
    values = [noise.gauss(0, 0.01) for _ in range(10)] + [noise.gauss(-0.10, 0.01) for _ in range(10)]
    assert change_points(values) == [10]
    assert change_points(values[:10]) == []


def test_few_runs_single_odd_ones_and_small_steps_are_no_change() -> None:
    assert change_points([0.0] * (MIN_RUNS // 2) + [0.5] * (MIN_RUNS // 2 - 1)) == []
    assert change_points([0.0] * 10 + [0.5] + [0.0] * 10) == []
    # Less than runs of the same software differ.
    assert change_points([0.0] * 10 + [0.01] * 10) == []
    assert change_points([0.0] * 20) == []


def test_sound_comparisons_of_a_run_are_kept(points, tmp_path) -> None:
    assert {(point.pair.arm, point.pair.baseline) for point in points} == {
        (COMPILE, EAGER), (JIT, EAGER), (JIT, COMPILE),
    }  # fmt: skip
    wrong = inference_run(tmp_path / "wrong").change(Proof, lambda r: r.arm == JIT.id, max_abs_logit_diff=0.5)
    assert {point.pair.arm for point in history_points(wrong.read(), "wrong")} == {COMPILE}
    assert AA not in {point.pair.arm for point in points}


def test_series_are_in_the_order_of_dates_and_of_one_machine(points, tmp_path) -> None:
    first = points[-1]
    other = history_points(inference_run(tmp_path / "o").describe(machine=Machine("d", 2, 2)).read(), "o")
    found = series_of([later(first, 2, 1.2), later(first, 1, 1.1), later(first, 0, 1.0), *other])
    assert [[point.run for point in series.points] for series in found] == [["r0", "r1", "r2"]]


def test_a_series_of_runs_by_different_rules_is_as_the_machine_was(points) -> None:
    first, second = (
        replace(later(points[-1], index, 1.5), rule=rule) for index, rule in enumerate((AT_REST, AS_IT_WAS))
    )
    (mixed,), (alike,) = series_of([first, second]), series_of([first, later(first, 1, 1.6)])
    assert [point.estimate for point in mixed.points] == [first.as_it_was, second.as_it_was]
    assert [point.estimate for point in alike.points] == [first.estimate, later(first, 1, 1.6).estimate]


def test_the_page_names_the_run_and_the_size_of_a_change(points) -> None:
    level = [1.5] * 6 + [1.2] * 6
    series = series_of([later(points[-1], index, value) for index, value in enumerate(level)])
    page = read_markdown(to_markdown(history_document(series, [])))
    assert page[0] == ("h1", "History of 12 runs")
    assert page[3] == (
        "text", "ipex jit / pytorch eager changed with r6: 1.500x to 1.200x (cnn-small, latency, batch 1, c).",
    )  # fmt: skip
    ((_, row),) = [rows for kind, rows in page if kind == "table"]
    assert row == ["ipex jit", "pytorch eager", "12", "█" * 6 + "▁" * 6, "1.500", "1.200", "r6 (-20.0%)"]
    assert [is_change for _, is_change in point_rows(series)] == [False] * 6 + [True] + [False] * 5


def test_a_history_says_whether_it_looked_for_changes(points) -> None:
    def answer(runs: int) -> list[str]:
        return history_headlines(series_of([later(points[-1], index, 1.5) for index in range(runs)]))

    assert answer(4) == ["Changes are looked for in 8 or more runs. Here are 4."]
    assert answer(8) == ["No speedup is shown to have changed."]


def test_the_bars_of_many_runs_are_all_shown_on_a_console(points) -> None:
    series = series_of([later(points[-1], index, 1.5 + index / 100) for index in range(40)])
    stream = io.StringIO()
    print_table(brief_table(series, HISTORY_COLUMNS), Console(file=stream, width=80))
    assert sum(stream.getvalue().count(bar) for bar in BARS) == 40
    assert max(map(len, stream.getvalue().splitlines())) <= 80


def test_a_sparkline_has_a_bar_for_each_run(points) -> None:
    values = [later(points[0], index, math.exp(index)) for index in range(8)]
    assert sparkline(SpeedupSeries(tuple(values), ())) == BARS
    assert sparkline(SpeedupSeries((values[0],) * 3, ())) == "▁▁▁"
