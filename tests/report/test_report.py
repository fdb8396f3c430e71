import pytest
from bench.report.page import markdown_cell, number, percent
from hypothesis import given
from hypothesis import strategies as st

from bench.console import duration


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


@given(st.text())
def test_no_text_breaks_out_of_a_cell(text) -> None:
    cell = markdown_cell(text)
    assert "\n" not in cell
    assert "|" not in cell.replace("\\|", "")
    assert "<" not in cell.replace("\\<", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.4, "5 s"), (89, "89 s"), (90, "2 min"), (4800, "80 min"), (6000, "1 h 40 min")]
)
def test_durations(seconds, text) -> None:
    assert duration(seconds) == text
