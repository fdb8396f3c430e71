"""Progress lines show the share that is done, and the remaining time once enough is done to estimate it."""

import re
from io import StringIO

import pytest
from rich.console import Console

from bench import console


def test_the_remaining_time_is_shown_once_enough_is_done(monkeypatch) -> None:
    totals = {"proof": 4, "block": 96}
    steps = [(1, 4, "proof"), (10, 36, "block"), (25, 60, "block")]
    assert lines(monkeypatch, totals, steps) == [
        "[  4%] proof",
        "[ 40%] block, about 15 s left",
        "[100%] block",
    ]


def test_work_that_may_end_before_all_steps_has_at_most_that_time_left(monkeypatch) -> None:
    assert lines(monkeypatch, {"": 100}, [(10, 40, "")], may_end=True) == ["[ 40%] , up to about 15 s left"]


def test_each_kind_of_step_takes_as_long_as_those_before(monkeypatch) -> None:
    """Proofs take half of their weight in seconds, blocks twice theirs; as long as no block has ended, half as well."""
    totals = {"proof": 40, "block": 60}
    steps = [(10, 20, "proof"), (20, 20, "proof"), (60, 20, "block"), (100, 20, "block"), (140, 20, "block")]
    assert lines(monkeypatch, totals, steps) == [
        "[ 20%] proof, about 40 s left",
        "[ 40%] proof, about 30 s left",
        "[ 60%] block, about 80 s left",
        "[ 80%] block, about 40 s left",
        "[100%] block",
    ]


def test_only_the_later_half_of_a_kind_counts(monkeypatch) -> None:
    steps = [(1, 25, ""), (2, 25, ""), (12, 25, "")]
    assert lines(monkeypatch, {"": 100}, steps)[-1] == "[ 75%] , about 6 s left"


def lines(monkeypatch, totals, steps, *, may_end=False) -> list[str]:
    """Return the lines for steps that end at these seconds and have these weights and kinds."""
    clock, out = iter([0, *(second * 10**9 for second, _, _ in steps)]), StringIO()
    monkeypatch.setattr(console, "now_ns", lambda: next(clock))
    with console.steps(Console(file=out), totals, may_end=may_end) as shown:
        for _, weight, kind in steps:
            shown.step(weight, kind, kind)
    return out.getvalue().splitlines()


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


CURSOR = re.compile(r"\x1b\[[0-9;?]*[A-HJKfhl]|\r")


@pytest.fixture
def own(monkeypatch):
    """Return a function that makes a console of 80 columns in an environment with these variables only."""
    monkeypatch.setattr(console, "now_ns", lambda: 0)

    def make(file, **variables) -> Console:
        for name in ("CI", "TERM", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return Console(file=file, width=80, _environ=variables)

    return make


@pytest.mark.parametrize(("file", "variables"), [
    (Terminal, {"TERM": "dumb"}), (Terminal, {"TERM": "xterm", "CI": "true"}), (StringIO, {"FORCE_COLOR": "1"}),
    (StringIO, {"FORCE_COLOR": "1", "TERM": "xterm", "CI": "1"}), (StringIO, {"TTY_COMPATIBLE": "1", "TERM": "xterm"}),
])  # fmt: skip
def test_progress_is_a_plain_line_for_each_step_where_nothing_can_be_drawn(own, file, variables) -> None:
    shown = own(file(), **variables)
    with console.steps(shown, {"": 2}) as steps:
        assert shown.file.getvalue() == ""
        steps.step(1, "one")
        assert shown.file.getvalue() == "[ 50%] one, about 1 s left\n"
        steps.step(1, "two")
    assert shown.file.getvalue().splitlines()[1:] == ["[100%] two"]


def test_progress_is_drawn_on_a_terminal(own) -> None:
    shown = own(Terminal(), TERM="xterm")
    with console.steps(shown, {"": 2}) as steps:
        steps.step(1, "one")
    assert CURSOR.search(shown.file.getvalue())
    assert "about 1 s left" in shown.file.getvalue()


def test_lines_end_between_words_on_a_terminal_and_nowhere_else(own) -> None:
    path = "/" + "a" * 100
    text = f"{'word ' * 30}{path} end"
    on_terminal = own(Terminal(), TERM="xterm")
    console.say(on_terminal, text)
    lines = on_terminal.file.getvalue().splitlines()
    assert " ".join(line.strip() for line in lines) == text
    assert all(len(line) <= 80 for line in lines if line.strip() != path)
    in_file = own(StringIO(), FORCE_COLOR="1", TERM="xterm")
    console.say(in_file, text)
    assert in_file.file.getvalue() == f"{text}\n"
