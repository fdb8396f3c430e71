"""Lines say how far the work is, and how long the rest takes once enough is done to tell."""

from io import StringIO

from rich.console import Console

from bench import console


def test_what_is_left_is_told_when_enough_is_done(monkeypatch) -> None:
    assert lines(monkeypatch, [(1, 4, "proof"), (10, 36, "block 1"), (20, 60, "block 2")]) == [
        "[  4%] proof",
        "[ 40%] block 1, about 15 s left",
        "[100%] block 2, about 0 s left",
    ]


def test_what_went_fast_at_first_does_not_shorten_what_is_left(monkeypatch) -> None:
    assert lines(monkeypatch, [(10, 40, "proof"), (30, 20, "block 1"), (50, 20, "block 2")]) == [
        "[ 40%] proof",
        "[ 60%] block 1, about 40 s left",
        "[ 80%] block 2, about 20 s left",
    ]


def lines(monkeypatch, steps) -> list[str]:
    """Return what is printed of steps, of 100 in all, which end at so many seconds and have such weights."""
    clock, out = iter([second * 10**9 for second, _, _ in steps]), StringIO()
    monkeypatch.setattr(console, "now_ns", lambda: next(clock))
    with console.steps(Console(file=out), 100) as shown:
        for _, weight, what in steps:
            shown.step(weight, what)
    return out.getvalue().splitlines()
