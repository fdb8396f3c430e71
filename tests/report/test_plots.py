"""The plots: scales and their ticks, text that can't break out, and panels for every width."""

import re
from dataclasses import replace
from fractions import Fraction
from functools import partial
from io import StringIO
from itertools import combinations, pairwise
from xml.dom.minidom import parseString

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench.analysis.scaling import BATCH_SIZE, MIN_VALUES
from bench.report import run_report
from bench.report.arm_table import arm_rows
from bench.report.plots.panels import Axis, PlotRow, Series, arranged, legend, plane_panel, row_panel
from bench.report.plots.run_plots import run_plots
from bench.report.plots.svg import (
    COLOURS,
    NARROW,
    SERIES,
    WIDE,
    Scale,
    at,
    label,
    mark,
    plot_rules,
    scale,
    shortened,
    spread,
    standalone,
    svg,
    text_width,
    uncrossed,
    variables,
)
from tests.analysis.recorded_run import CASE, COMPILE, EAGER, JIT, inference_run, ladder_info, training_run
from tests.report.test_answer import with_second_case


def texts(drawn: str) -> list[str]:
    return [node.firstChild.data for node in parseString(drawn).getElementsByTagName("text")]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.9, 1.3, [0.9, 0.95, 1, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3]),
        (0.24, 3.9, [0.3, 0.5, 1, 2, 3]),
        (0.97, 1.02, [0.97, 0.98, 0.99, 1, 1.01, 1.02]),
        (0.5, 40, [0.5, 1, 2, 3, 5, 10, 20, 30]),
    ],
)
def test_the_axis_of_a_ratio_has_a_tick_at_1(low, high, ticks) -> None:
    assert Scale(low, high, 0, 600, log=True).ticks() == ticks


@given(st.floats(1e-6, 1e6), st.floats(1.001, 1e6), st.integers(150, 1000))
def test_the_labels_of_an_axis_do_not_overlap(low, ratio, width) -> None:
    axis = Scale(low, low * ratio, 0, width, log=True)
    ticks = axis.ticks()
    assert ticks == sorted(set(ticks))
    assert all(low <= tick * (1 + 1e-9) and tick <= low * ratio * (1 + 1e-9) for tick in ticks)
    places = [axis(tick) for tick in ticks]
    assert all(right - left > 10 for left, right in pairwise(places))


@given(st.lists(st.floats(1e-3, 1e3), min_size=1), st.booleans())
def test_a_scale_has_room_for_all_of_its_values(values, log) -> None:
    axis = scale(values, 10, 110, log=log)
    assert all(10 <= axis(value) <= 110 for value in values)


def test_one_value_has_a_scale() -> None:
    assert scale([5], 0, 10)(5) == scale([5], 0, 10, log=True)(5) == pytest.approx(5)


@given(st.lists(st.floats(0, 100), max_size=8))
def test_spread_labels_have_a_distance_and_keep_their_order(places) -> None:
    moved = spread(places, 10, 0, 100)
    order = sorted(range(len(places)), key=lambda index: places[index])
    ordered = [moved[index] for index in order]
    assert all(one + 10 <= other + 1e-9 for one, other in pairwise(ordered))
    assert all(-1e-9 <= place <= 100 + 1e-9 for place in moved)


@given(st.lists(st.tuples(st.integers(0, 80), st.integers(0, 100)), max_size=8, unique=True))
def test_lines_to_labels_do_not_cross(points) -> None:
    heights = [10 * index for index in range(len(points))]
    order = uncrossed(points, heights, 100)
    assert sorted(order) == heights

    def at_x(index: int, x: float) -> Fraction:
        x0, y0 = points[index]
        return y0 + Fraction(order[index] - y0) * Fraction(x - x0, 100 - x0)

    for one, other in combinations(range(len(points)), 2):
        x = max(points[one][0], points[other][0])
        assert (at_x(one, x) - at_x(other, x)) * (order[one] - order[other]) >= 0


def test_a_point_that_must_not_be_used_is_crossed_out() -> None:
    limits = Scale(0, 3, 0, 1), Scale(0, 3, 0, 1)
    points = ((1, 1, ""), (2, 2, ""))
    for withheld in ((), (1,), (0, 1)):
        series = [Series("a", "s0", "circle", points, withheld=withheld)]
        panel = plane_panel("t", series, (Axis("x"), Axis("y")), limits, WIDE)
        (*_, last) = parseString(arranged("n", "alt", [panel], WIDE)).getElementsByTagName("g")
        crosses = last.getElementsByTagName("line") if last.getAttribute("class") == "m-WITHHELD" else []
        assert len(crosses) == 2 * len(withheld)


@given(st.text())
def test_no_text_breaks_a_plot(text) -> None:
    drawn = standalone(svg("name", text, WIDE, 10, label(0, 0, text) + mark("circle", 0, 0, title=text)))
    shown = parseString(drawn).documentElement
    assert {node.tagName for node in shown.getElementsByTagName("*")} == {"title", "style", "rect", "text", "circle"}


def test_a_long_text_is_shortened_to_its_room() -> None:
    assert shortened("short", 100) == "short"
    assert shortened("a very long label", 60).endswith("…")
    assert text_width(shortened("a very long label", 60)) <= 60


def luminance(colour: str) -> float:
    channels = (int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5))
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


TEXT_COLOURS = ["ink", "muted", "link", "FASTER", "SLOWER", "EQUIVALENT", "UNRESOLVED", "WITHHELD"]


@pytest.mark.parametrize("name", [*TEXT_COLOURS, *(f"s{index}" for index in range(SERIES))])
def test_colours_of_texts_have_enough_contrast_in_light_and_in_dark(name) -> None:
    for mode in (0, 1):
        for background in ("paper", "raised", "soft"):
            assert contrast(COLOURS[name][mode], COLOURS[background][mode]) >= 4.5


def test_every_variable_of_the_rules_is_defined() -> None:
    assert set(re.findall(r"var\(--([^)]+)\)", plot_rules())) <= set(re.findall(r"--([\w-]+):", variables()))


def row(name: str, text: str = "") -> PlotRow:
    return PlotRow(name, "detail", lambda place, y: mark("circle", place(1), y, 3), text)


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_row_has_its_label_detail_and_text(width) -> None:
    panel = row_panel("Title", [row("one", "1.00"), row("two")], Axis("x; right is better"), Scale(0, 2, 0, 1), width)
    shown = texts(arranged("n", "alt", [panel], width))
    assert {"Title", "one", "two", "detail", "1.00", "0", "1", "2"} <= set(shown)
    assert " ".join(shown).count("right is better") == 1


def test_lines_do_not_cross_labels_on_a_narrow_screen() -> None:
    panel = row_panel("", [row("one"), row("two")], Axis("x", reference=1.0), Scale(0, 2, 0, 1), NARROW)
    lines = [tuple(map(float, found)) for found in re.findall(r'y1="([\d.]+)"[^>]*y2="([\d.]+)"', panel.content)]
    baselines = [float(y) for y in re.findall(r'<text x="0" y="([\d.]+)"', panel.content)]
    assert lines
    assert not [y for y in baselines for top, bottom in lines if top < y - 3 < bottom]


def test_the_legend_and_the_marks_of_a_series_have_its_name() -> None:
    series = [Series("a & b", "s0", "circle", ((1, 1, "tip"), (2, 2, "")))]
    limits = Scale(0, 3, 0, 1), Scale(0, 3, 0, 1)
    panel = plane_panel("t", series, (Axis("x"), Axis("y")), limits, WIDE, named=True)
    drawn = arranged("n", "alt", [panel, legend([("a & b", "s0", "circle")], WIDE)], WIDE)
    named = [node for node in parseString(drawn).getElementsByTagName("g") if node.hasAttribute("data-series")]
    assert {node.getAttribute("data-series") for node in named} == {"a & b"}
    assert [node.getAttribute("class") for node in named] == ["m-s0", "", "key"]
    assert texts(drawn).count("a & b") == 2


def test_a_legend_has_as_many_lines_as_it_needs() -> None:
    entries = [(f"a long name of series {index}", "s0", "circle") for index in range(9)]
    assert legend(entries, NARROW).height > legend(entries, WIDE).height > legend(entries[:1], WIDE).height


@pytest.mark.parametrize(("value", "text"), [(1.04, "1"), (1.06, "1.1"), (10, "10"), (-0.04, "-0")])
def test_coordinates_have_at_most_one_decimal(value, text) -> None:
    assert at(value) == text


def drawn_plots(run, width: float = WIDE) -> dict[str, str]:
    return {name: draw("alt", width) for name, draw in run_plots(run, arm_rows(run)).items()}


LADDER = ladder_info("ladder", [("as it is", EAGER), ("compile", COMPILE), ("extension", JIT)])


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("make", [inference_run, training_run])
def test_every_plot_names_its_unit_its_number_of_values_and_the_better_direction(tmp_path, make, width) -> None:
    builder = make(tmp_path / "run")
    run = (builder.describe(ladders=(LADDER,)) if make is inference_run else builder).read()
    plots = drawn_plots(run, width)
    assert {"summary", "speedups", "blocks"} <= set(plots)
    for name, plot in plots.items():
        parseString(plot)
        shown = " ".join(texts(plot))
        assert re.search(r"faster|better", shown), name
        assert "(n = " in shown, name


def test_a_step_without_a_clear_difference_is_not_called_faster(tmp_path) -> None:
    builder = inference_run(tmp_path / "run", compiled=200_000, jit=190_000).describe(ladders=(LADDER,))
    plot = parseString(drawn_plots(builder.read())["attribution"])
    words = [
        node.getAttribute("data-series")
        for node in plot.getElementsByTagName("g")
        if node.hasAttribute("data-series") and node.getAttribute("class") != "key"
    ]
    assert words == ["no clear difference", "faster"]


def test_the_bar_of_the_extension_starts_at_the_fastest_stock_arm(tmp_path) -> None:
    builder = inference_run(tmp_path / "run", noise=1e-9, compiled=250_000).describe(ladders=(LADDER,))
    shown = drawn_plots(builder.read())["attribution"]
    assert "jit over pytorch eager" in texts(shown)
    assert "x2.00 → 2.00" in texts(shown)


def test_more_rows_than_are_legible_are_left_to_the_tables(tmp_path) -> None:
    builder = inference_run(tmp_path / "run")
    pair = builder.info.pairs[-1]
    for index in range(70):
        arm = replace(JIT, variant=f"jit{index}")
        builder.add_arm(arm, JIT)
        builder.describe(pairs=(*builder.info.pairs, replace(pair, arm=arm.id, candidate=False)))
    title = next(text for text in texts(drawn_plots(builder.read())["speedups"]) if text.startswith(CASE.label))
    assert title.endswith("the first 60 of 74 comparisons)")


def test_plots_of_times_have_a_second_drawing_whose_axis_starts_at_0(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(MIN_VALUES, BATCH_SIZE, 2)
    plots = drawn_plots(with_second_case(inference_run(tmp_path / "run"), 1.0).read())
    for name in ("latencies", "scaling"):
        log, linear = texts(plots[name]), texts(plots[f"{name}-linear"])
        assert any("(log scale)" in text for text in log)
        assert "0" in linear
        assert not any("(log scale)" in text for text in linear)


def test_a_plot_is_drawn_from_the_same_run_alike(tmp_path) -> None:
    run = inference_run(tmp_path / "run").read()
    assert drawn_plots(run) == drawn_plots(run)
    assert all(isinstance(draw, partial) for draw in run_plots(run, arm_rows(run)).values())


def test_a_plot_that_can_not_be_drawn_is_named_and_costs_nothing_else(tmp_path, monkeypatch) -> None:
    def fail(*_):
        raise ArithmeticError("no\nscale")

    folder = inference_run(tmp_path / "run").write()
    real = run_report.run_plots
    monkeypatch.setattr(run_report, "run_plots", lambda *given: real(*given) | {"latencies": fail})
    console = Console(file=StringIO(), width=200)
    run_report.write_report(folder, console)
    reason = "The plot latencies could not be drawn: ArithmeticError: no scale"
    assert reason in console.file.getvalue()
    for name in ("report.md", "report.html"):
        page = (folder / name).read_text()
        assert page.count(reason) == 1
        assert "plots/latencies.svg" not in page
    assert "speedups.svg" in {path.name for path in (folder / "plots").iterdir()}
    assert "latencies.svg" not in {path.name for path in (folder / "plots").iterdir()}
