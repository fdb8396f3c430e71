"""How the best split of an arm's cores is found, on a machine with 16 cores and a clock of the test."""

from dataclasses import replace

import pytest

from bench.engine import choice as module
from bench.engine.choice import choose_splits, fastest, searches
from bench.engine.workers import Unsupported, WorkerError
from bench.records import Choice, Failure, SplitTrial
from bench.suite.arms import BEST_THREADS, Arm, Split
from bench.worker.messages import Build, BuildReply, RunSlice, SliceReply
from tests.engine.conftest import ORACLE, REPLICA, FakeGroup

OTHER, QUEUE = replace(ORACLE, settings="malloc"), Arm("openvino", "throughput")
COUNTS = (1, 2, 4, 8, 16)
# Latencies in us by number of threads: the optimum of one arm is 4 threads, that of the other is 16 at batch size 4.
LATENCIES_US = {
    (ORACLE, 1): dict(zip(COUNTS, (80, 50, 40, 45, 90), strict=True)),
    (ORACLE, 4): dict(zip(COUNTS, (160, 90, 60, 61, 62), strict=True)),
    (OTHER, 1): dict(zip(COUNTS, (30, 31, 32, 33, 34), strict=True)),
    (OTHER, 4): dict(zip(COUNTS, (160, 80, 40, 20, 10), strict=True)),
}


class CountedSteps(list):
    def step(self, weight: float, what: str, kind: str) -> None:
        self.append((weight, what, kind))


@pytest.fixture
def machine(context, monkeypatch):
    """Return the context of a run with best threads, and the groups that it starts, in order."""
    started, clock = [], [0]
    suite = replace(context.plan.suite, threads=(BEST_THREADS,))
    plan = replace(context.plan, suite=suite, arms=(ORACLE, REPLICA, OTHER), threads=16)

    def start_group(_, arm, split, caches, extra):
        def run_slice(request):
            batch = int(request.case.split("/")[2].removeprefix("b"))
            latency = LATENCIES_US[arm, batch][split.threads]
            clock[0] += latency * 3000
            if isinstance(latency, Exception):
                raise latency
            return SliceReply((latency * 1000,) * 3, latency * 3000, latency * 3000, 0)

        group = FakeGroup({Build: lambda _: BuildReply(1, 2, 3), RunSlice: run_slice})
        group.arm, group.split, group.caches = arm, split, caches
        started.append(group)
        return group

    monkeypatch.setattr(module, "start_group", start_group)
    monkeypatch.setattr(module, "wait_until_idle", lambda *_: None)
    monkeypatch.setattr(module, "quiet_core_sets", lambda counts: {count: list(range(count)) for count in counts})
    monkeypatch.setattr(module, "now_ns", lambda: clock[0])
    return replace(context, plan=plan), started


def choices(tally) -> dict[tuple[str, str], Split]:
    return {(record.arm, record.case): Split(record.streams, record.threads) for record in tally.journal.of(Choice)}


def test_each_arm_gets_the_number_of_threads_at_which_it_is_fastest_on_each_case(machine, tally) -> None:
    context, _ = machine
    choose_splits(context, tally, CountedSteps())
    one, four = (case.id for case in context.plan.suite.cases)
    expected = {(ORACLE.id, one): 4, (ORACLE.id, four): 4, (OTHER.id, one): 1, (OTHER.id, four): 16}
    assert choices(tally) == tally.splits == {key: Split(1, threads) for key, threads in expected.items()}


def test_the_replica_has_the_choice_of_its_original(machine, tally) -> None:
    context, _ = machine
    choose_splits(context, tally, CountedSteps())
    case = context.plan.suite.cases[0]
    assert context.split_of(tally, REPLICA, case) == context.split_of(tally, ORACLE, case) == Split(1, 4)


def test_all_numbers_of_threads_are_timed_alike_and_stored(machine, tally) -> None:
    context, started = machine
    preset = replace(context.plan.preset, search_processes=2)
    context = replace(context, plan=replace(context.plan, preset=preset))
    choose_splits(context, tally, CountedSteps())
    trials = tally.journal.of(Choice)[0].trials
    assert [(trial.streams, trial.threads, trial.time_ns) for trial in trials] == [
        (1, threads, LATENCIES_US[ORACLE, 1][threads] * 1000) for threads in COUNTS
    ]
    assert {tuple(map(len, trial.times_ns)) for trial in trials} == {(module.ROUNDS, module.ROUNDS)}
    # Two processes of each number of threads for each of the two arms, on as many cores as threads.
    assert [group.split.threads for group in started] == [*COUNTS] * 4
    for group in started:
        builds = [request for request in group.requests if isinstance(request, Build)]
        assert [(build.threads, build.cores) for build in builds] == [
            (group.split.threads, tuple(range(group.split.threads)))
        ] * 2
        assert group.stopped


def test_all_numbers_of_threads_take_turns_in_balanced_orders(machine, tally, monkeypatch) -> None:
    context, _ = machine
    turns = []

    def run_slice(arm, case, split, *_):
        turns.append((arm, case, split.threads))
        return [SliceReply((5,), 5, 5, 0)]

    monkeypatch.setattr(module, "run_slice", run_slice)
    choose_splits(context, tally, CountedSteps())
    case = context.plan.suite.cases[0]
    orders = [threads for arm, where, threads in turns if (arm, where) == (ORACLE, case)]
    rounds = [orders[start : start + len(COUNTS)] for start in range(0, len(orders), len(COUNTS))]
    assert len(rounds) == module.ROUNDS
    assert all(sorted(order) == [*COUNTS] for order in rounds)
    assert all(second == first[::-1] for first, second in zip(rounds[::2], rounds[1::2], strict=True))
    assert len(set(map(tuple, rounds))) > 2


def test_what_a_search_compiles_is_not_where_the_cold_start_looks(machine, tally) -> None:
    context, started = machine
    choose_splits(context, tally, CountedSteps())
    own = {context.caches(arm, case) for arm in (ORACLE, OTHER) for case in context.plan.suite.cases}
    assert not own & {group.caches for group in started}
    assert len({group.caches for group in started}) == 2 * len(COUNTS)


def test_a_number_of_threads_that_fails_leaves_the_choice_to_the_others(machine, tally, monkeypatch) -> None:
    context, _ = machine
    monkeypatch.setitem(LATENCIES_US[ORACLE, 1], 4, 40)
    original = module.build_sessions

    def build(context, tally, group, arm, case, split, *rest, **options):
        if (arm, split.threads) == (ORACLE, 4):
            raise WorkerError("out of memory")
        return original(context, tally, group, arm, case, split, *rest, **options)

    monkeypatch.setattr(module, "build_sessions", build)
    choose_splits(context, tally, CountedSteps())
    first = tally.journal.of(Choice)[0]
    assert (first.arm, first.threads) == (ORACLE.id, 8)
    assert first.trials[2] == SplitTrial(1, 4, (), "out of memory")
    assert not tally.journal.of(Failure)


@pytest.mark.parametrize(("error", "skipped"), [(WorkerError("exited"), False), (Unsupported("exited"), True)])
def test_an_arm_of_which_all_numbers_fail_has_no_choice(machine, tally, monkeypatch, error, skipped) -> None:
    context, _ = machine

    def fail(*_):
        raise error

    monkeypatch.setattr(module, "start_group", fail)
    choose_splits(context, tally, CountedSteps())
    assert tally.splits == {}
    assert tally.journal == [
        Failure(arm.id, case.id, None, "exited", skipped=skipped)
        for arm in (ORACLE, OTHER)
        for case in context.plan.suite.cases
    ]


def test_files_are_converted_alone_before_the_processes_of_a_search_start(machine, tally, monkeypatch) -> None:
    context, started = machine
    alive = []
    monkeypatch.setattr(
        module, "converted_files", lambda *_: alive.append([group for group in started if not group.stopped])
    )
    choose_splits(context, tally, CountedSteps())
    assert alive == [[], []]
    assert len(started) == 2 * len(COUNTS)


def test_a_conversion_that_fails_starts_nothing(machine, tally, monkeypatch) -> None:
    context, started = machine

    def fail(*_):
        raise WorkerError("no model")

    monkeypatch.setattr(module, "converted_files", fail)
    choose_splits(context, tally, CountedSteps())
    assert not started
    assert {failure.reason for failure in tally.journal.of(Failure)} == {"no model"}


def test_long_calls_end_a_search_after_four_rounds(machine, tally, monkeypatch) -> None:
    """Slices of 1 ms that take 120 ms."""
    context, _ = machine
    monkeypatch.setattr(module, "SLICE_NS", 1_000_000)
    monkeypatch.setitem(LATENCIES_US, (ORACLE, 1), dict.fromkeys(COUNTS, 40_000))
    choose_splits(context, tally, CountedSteps())
    slow, fast, *_ = tally.journal.of(Choice)
    assert [len(trial.times_ns[0]) for trial in slow.trials] == [module.MIN_ROUNDS] * len(COUNTS)
    assert [len(trial.times_ns[0]) for trial in fast.trials] == [module.ROUNDS] * len(COUNTS)


def test_with_one_core_there_is_nothing_to_search(machine, tally) -> None:
    context, started = machine
    choose_splits(replace(context, plan=replace(context.plan, threads=1)), tally, CountedSteps())
    assert not started
    assert set(tally.splits.values()) == {Split(1, 1)}


def test_a_run_without_best_threads_searches_nothing(context, tally) -> None:
    assert searches(context.plan) == []
    choose_splits(context, tally, CountedSteps())
    assert not tally.journal


def test_throughput_searches_splits_of_all_cores(machine) -> None:
    context, _ = machine
    suite = replace(context.plan.suite, scenarios=("throughput",))
    plan = replace(context.plan, suite=suite, arms=(ORACLE, OTHER, QUEUE))
    found = searches(plan)
    # Throughput is measured under the default settings only.
    assert [search.arm for search in found] == [ORACLE, QUEUE]
    assert found[0].splits == tuple(Split(16 // threads, threads) for threads in COUNTS)


def test_the_progress_of_all_searches_is_known_before(machine, tally) -> None:
    context, _ = machine
    steps = CountedSteps()
    choose_splits(context, tally, steps)
    assert [(weight, kind) for weight, _, kind in steps] == [
        (search.weight(context.plan), "search") for search in searches(context.plan)
    ]


def test_of_equal_times_the_fewest_threads_win() -> None:
    trials = [SplitTrial(1, threads, ((time,),)) for threads, time in ((4, 10), (2, 10), (1, 11))]
    assert fastest(trials).threads == 2
    assert fastest([SplitTrial(1, 1, (), "failed")]) is None


def test_the_time_of_a_split_is_the_mean_over_processes_of_the_median_over_rounds() -> None:
    assert SplitTrial(1, 1, ((10, 12, 90), (20, 22, 24))).time_ns == 17
    assert SplitTrial(1, 1, ()).time_ns is None
