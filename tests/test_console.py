"""Progress lines show the share that is done, and the remaining time once enough is done to estimate it."""

from io import StringIO

from rich.console import Console

from bench import console


def test_the_remaining_time_is_shown_once_enough_is_done(monkeypatch) -> None:
    assert lines(monkeypatch, [(1, 4, "proof"), (10, 36, "block 1"), (20, 60, "block 2")]) == [
        "[  4%] proof",
        "[ 40%] block 1, about 15 s left",
        "[100%] block 2, about 0 s left",
    ]


def test_a_fast_start_does_not_shorten_the_remaining_time(monkeypatch) -> None:
    assert lines(monkeypatch, [(10, 40, "proof"), (30, 20, "block 1"), (50, 20, "block 2")]) == [
        "[ 40%] proof",
        "[ 60%] block 1, about 40 s left",
        "[ 80%] block 2, about 20 s left",
    ]


def lines(monkeypatch, steps) -> list[str]:
    """Return the lines for steps that end at these seconds and have these weights, of 100 in all."""
    clock, out = iter([second * 10**9 for second, _, _ in steps]), StringIO()
    monkeypatch.setattr(console, "now_ns", lambda: next(clock))
    with console.steps(Console(file=out), 100) as shown:
        for _, weight, what in steps:
            shown.step(weight, what)
    return out.getvalue().splitlines()
