"""Which plan the options of a run make."""

import pytest

from bench.commands import run as module
from bench.commands.run import RunOptions, plan_run
from bench.suite.arms import BEST_THREADS, Arm, Split
from bench.suite.parse import load_suite
from bench.suite.schedule import PRESETS
from bench.suite.selftest import equal_suite
from models.errors import UserError

SUITE = equal_suite(Arm("oracle", "numpy"), ())


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr(module, "usable_cores", lambda: 16)


@pytest.mark.parametrize(
    ("threads", "cases", "most"),
    [
        ((), (0, 0), 16),
        ((4,), (0, 0), 4),
        ((4, 2), (4, 4, 2, 2), 4),
        ((BEST_THREADS,), (BEST_THREADS,) * 2, 16),
        ((2, BEST_THREADS), (2, 2, BEST_THREADS, BEST_THREADS), 16),
    ],
    ids=["default", "one number", "two numbers", "best", "a number and best"],
)
def test_the_threads_of_a_run(threads, cases, most) -> None:
    plan = plan_run(RunOptions(SUITE, PRESETS["smoke"], threads=threads, seed=1))
    assert tuple(case.threads for case in plan.suite.cases) == cases
    assert plan.threads == most
    last = plan.suite.cases[-1]
    counts = (1, 2, 4, 8, 16) if last.threads == BEST_THREADS else (plan.threads_of(last),)
    assert plan.splits_of(last) == tuple(Split(1, count) for count in counts)


def test_best_threads_have_processes_of_their_own_for_each_batch_size() -> None:
    plan = plan_run(RunOptions(SUITE, PRESETS["smoke"], threads=(2, BEST_THREADS), seed=1))
    assert [[(case.batch_size, case.threads) for case in group.cases] for group in plan.groups] == [
        [(1, 2), (64, 2)], [(1, BEST_THREADS)], [(64, BEST_THREADS)],
    ]  # fmt: skip


def test_best_threads_are_not_for_training() -> None:
    with pytest.raises(UserError, match="--threads best: suite training trains; allowed: whole numbers"):
        plan_run(RunOptions(load_suite("training"), PRESETS["smoke"], threads=(BEST_THREADS,)))
