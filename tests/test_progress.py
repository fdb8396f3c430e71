"""Lines say how far the work is, and how long the rest takes once enough is done to tell."""

from io import StringIO

from rich.console import Console

from bench import progress


def test_what_is_left_is_told_when_enough_is_done(monkeypatch) -> None:
    clock, out = iter([0, 10_000_000_000, 20_000_000_000]), StringIO()
    monkeypatch.setattr(progress, "now_ns", lambda: next(clock))
    with progress.steps(Console(file=out), 100) as steps:
        for weight, what in ((4, "proof"), (36, "block 1"), (60, "block 2")):
            steps.step(weight, what)
    assert out.getvalue().splitlines() == [
        "[  4%] proof",
        "[ 40%] block 1, about 15 s left",
        "[100%] block 2, about 0 s left",
    ]
