"""Texts of strangers: no control of terminals, no formulas in spreadsheets."""

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.texts import printable, without_formulas


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with äöü and 数", "plain, with äöü and 数"),
        ("a\nb\tc\xa0d", "a\nb\tc\xa0d"),
        ("\x1b]0;title\x07\x1b[31mred", r"\x1b]0;title\x07\x1b[31mred"),
        ("\x9b31m\x00\r", r"\x9b31m\x00\r"),
        ("user\u202etxt.exe", r"user\u202etxt.exe"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_controls_a_terminal_is_shown_as_its_code(text, shown) -> None:
    assert printable(text) == shown


@given(st.text())
def test_nothing_that_is_printed_controls_a_terminal(text) -> None:
    assert all(char.isprintable() or char.isspace() for char in printable(text))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", printable(text))


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-2+3+cmd|' /C calc'!A0", "@SUM(1)", "\t=1", " =1", '"=1', "\uff1d1", "\n=1"]
)
@pytest.mark.parametrize("before", ["", "a;", "a\t", "a\n"])
def test_no_cell_begins_with_a_formula_whatever_ends_a_cell(text, before) -> None:
    stream = io.StringIO()
    csv.writer(stream).writerow(["x", without_formulas(before + text), "y"])
    for delimiter in ",;\t":
        for row in csv.reader(io.StringIO(stream.getvalue()), delimiter=delimiter):
            assert not any(re.match(r"""[\s"]*[=+\-@\uff1d]""", cell) for cell in row)


@pytest.mark.parametrize("text", ["", "a-b", "1.5 +- 0.1", "x = 3", "a; b", "mail@host"])
def test_other_texts_stay_as_they_are(text) -> None:
    assert without_formulas(text) == text
