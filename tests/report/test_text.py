"""Numbers and sentences in reports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.attribution import attributions
from bench.analysis.stats import Interval
from bench.console import duration
from bench.records import Failure
from bench.report.text import attribution_sentence, counted, interval_text, number, percent, problems, unmatched_lines
from bench.report.text import warnings as warning_lines
from bench.report.writers import escape
from tests.analysis.recorded_run import CASE, COMPILE, EAGER, JIT, inference_run, ladder_info

LADDER = ladder_info("ladder", [("as it is", EAGER), ("compile", COMPILE), ("extension", JIT)])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (float("nan"), "-"), (float("inf"), "never"), (0, "0"), (0.0, "0"), (1.2345, "1.23"),
        (0.5, "0.500"), (1234.5, "1,234"), (123.4, "123"), (7.63e-06, "7.63e-06"),
    ],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value, text) -> None:
    assert number(value) == text


def test_percentages() -> None:
    assert (percent(None), percent(0.91777)) == ("-", "91.78 %")


def test_intervals_have_three_decimals() -> None:
    assert (interval_text(None), interval_text(Interval(0.9, 1.23456))) == ("-", "0.900 to 1.235")


def test_one_thing_is_singular() -> None:
    assert [counted(count, "block") for count in (0, 1, 2)] == ["0 blocks", "1 block", "2 blocks"]


@given(st.text())
def test_no_text_breaks_out_of_a_cell(text) -> None:
    cell = escape(text)
    assert "\n" not in cell
    assert "|" not in cell.replace("\\|", "")
    assert "<" not in cell.replace("\\<", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.4, "5 s"), (89, "89 s"), (90, "2 min"), (4800, "80 min"), (6000, "1 h 40 min")]
)
def test_durations(seconds, text) -> None:
    assert duration(seconds) == text


def test_unmatched_environments_are_a_warning(tmp_path) -> None:
    run = inference_run(tmp_path / "run").describe(mismatches={"ipex vanilla": {"numpy": ("1", "2")}}).read()
    assert "UNMATCHED environments ipex and vanilla: numpy 1 / 2" in warning_lines(run)


def test_an_environment_that_matches_no_other_is_one_warning() -> None:
    mismatches = {
        "vanilla latest": {"torch": ("2.8", "2.15"), "keras": ("2", "3")},
        "latest ipex": {"torch": ("2.15", "2.8")},
        "vanilla itex": {"numpy": ("1", "2")},
    }
    assert unmatched_lines(mismatches) == [
        "UNMATCHED environments vanilla and latest, itex: keras 2 / 3, numpy 1 / 2, torch 2.8 / 2.15",
        "UNMATCHED environments latest and ipex: torch 2.15 / 2.8",
    ]
    del mismatches["vanilla itex"]
    mismatches["openvino latest"] = {"torch": ("2.8.1", "2.15")}
    assert unmatched_lines(mismatches) == [
        "UNMATCHED environments latest and vanilla, ipex, openvino: keras 3 / 2, torch 2.15 / 2.8 / 2.8.1",
    ]


def test_an_attribution_names_the_contribution_of_the_extension(tmp_path) -> None:
    (ladder,) = attributions(inference_run(tmp_path / "run").describe(ladders=(LADDER,)).read())
    assert "it is 1.34" in attribution_sentence(ladder)
    assert "42 % of the gain" in attribution_sentence(ladder)


def test_without_a_gain_there_is_none_to_attribute(tmp_path) -> None:
    builder = inference_run(tmp_path / "run", eager=1e5, aa=1e5, compiled=1e5, jit=1e5)
    (ladder,) = attributions(builder.describe(ladders=(LADDER,)).read())
    assert "no gain to attribute" in attribution_sentence(ladder)


def test_a_contribution_that_rounds_to_nothing_has_no_sign(tmp_path) -> None:
    (ladder,) = attributions(inference_run(tmp_path / "run", jit=134_400).describe(ladders=(LADDER,)).read())
    assert -0.005 < ladder.share < 0
    assert ": 0 % of the gain" in attribution_sentence(ladder)


def test_an_arm_that_takes_from_the_gain_has_no_part_of_it(tmp_path) -> None:
    (ladder,) = attributions(inference_run(tmp_path / "run", jit=150_000).describe(ladders=(LADDER,)).read())
    assert ladder.share < -0.05
    assert ": none of the gain" in attribution_sentence(ladder)


def test_every_failure_is_a_problem_with_its_reason(tmp_path) -> None:
    builder = inference_run(tmp_path / "run")
    builder.records += [Failure(JIT.id, CASE.id, 1, "died"), Failure(EAGER.id, CASE.id, 2, "hung")]
    lines = problems(builder.read())
    assert lines == [
        "pytorch eager, cnn-small, latency, batch 1: 1 block failed: hung",
        "ipex jit, cnn-small, latency, batch 1: 1 block failed: died",
    ]
