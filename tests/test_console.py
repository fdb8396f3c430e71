"""Progress lines show the share that is done, and the remaining time once enough is done to estimate it."""

from io import StringIO

from rich.console import Console

from bench import console


def test_the_remaining_time_is_shown_once_enough_is_done(monkeypatch) -> None:
    totals = {"proof": 4, "block": 96}
    steps = [(1, 4, "proof"), (10, 36, "block"), (25, 60, "block")]
    assert lines(monkeypatch, totals, steps) == [
        "[  4%] proof",
        "[ 40%] block, about 15 s left",
        "[100%] block, about 0 s left",
    ]


def test_each_kind_of_step_takes_as_long_as_those_before(monkeypatch) -> None:
    """Proofs take half of their weight in seconds, blocks twice theirs; as long as no block has ended, half as well."""
    totals = {"proof": 40, "block": 60}
    steps = [(10, 20, "proof"), (20, 20, "proof"), (60, 20, "block"), (100, 20, "block"), (140, 20, "block")]
    assert lines(monkeypatch, totals, steps) == [
        "[ 20%] proof, about 40 s left",
        "[ 40%] proof, about 30 s left",
        "[ 60%] block, about 80 s left",
        "[ 80%] block, about 40 s left",
        "[100%] block, about 0 s left",
    ]


def test_only_the_later_half_of_a_kind_counts(monkeypatch) -> None:
    steps = [(1, 25, ""), (2, 25, ""), (12, 25, "")]
    assert lines(monkeypatch, {"": 100}, steps)[-1] == "[ 75%] , about 6 s left"


def lines(monkeypatch, totals, steps) -> list[str]:
    """Return the lines for steps that end at these seconds and have these weights and kinds."""
    clock, out = iter([0, *(second * 10**9 for second, _, _ in steps)]), StringIO()
    monkeypatch.setattr(console, "now_ns", lambda: next(clock))
    with console.steps(Console(file=out), totals) as shown:
        for _, weight, kind in steps:
            shown.step(weight, kind, kind)
    return out.getvalue().splitlines()
