import gc
from itertools import count, cycle, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.clock import cpu_ns_of, timer_resolution_ns
from bench.worker.timing import DivergedError, TimedEpoch, Timing, delayed, is_steady, time_pipeline, time_slice


class FakeClock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def slice_of(durations, budget, lead_in=0, lead_in_ns=0):
    """Time a step whose calls take `durations`, over and over."""
    clock, remaining, seen = FakeClock(), cycle(durations), []

    def step(batch):
        seen.append(batch)
        clock.now += next(remaining)

    timing = time_slice(step, count(), budget, lead_in, clock, clock, lead_in_ns=lead_in_ns)
    return timing, seen


def test_samples_are_the_exact_durations_in_order() -> None:
    timing, _ = slice_of([3, 5, 7], budget=15)
    assert timing == Timing(samples_ns=(3, 5, 7), wall_ns=15, cpu_ns=15)


def test_the_iteration_that_passes_the_budget_is_kept() -> None:
    assert slice_of([10], budget=25)[0].samples_ns == (10, 10, 10)


def test_a_step_longer_than_the_budget_is_timed_once() -> None:
    assert slice_of([100], budget=1)[0].samples_ns == (100,)


def test_the_lead_in_is_run_but_not_timed() -> None:
    timing, seen = slice_of([2, 3, 50, 50], budget=100, lead_in=2)
    assert timing.samples_ns == (50, 50)
    assert len(seen) == 4


def test_the_lead_in_lasts_so_many_calls_and_so_long() -> None:
    assert len(slice_of([6], budget=100, lead_in=1, lead_in_ns=10)[1]) == 2 + 17
    assert len(slice_of([6], budget=100, lead_in=3, lead_in_ns=10)[1]) == 3 + 17
    assert len(slice_of([200], budget=100, lead_in=1, lead_in_ns=10)[1]) == 1 + 1


def test_every_call_gets_the_next_batch() -> None:
    assert slice_of([1], budget=4, lead_in=1)[1] == [0, 1, 2, 3, 4]


@pytest.fixture
def epoch():
    """Return an epoch of three batches of 1, 2 and 3 images, for each of which it waits as long, and its clock.

    A step takes 10; its loss is the learning rate.
    """
    clock = FakeClock()

    def batches():
        for wait in (1, 2, 3):
            clock.now += wait
            yield [0] * wait, [0] * wait

    def step(images, labels, rate):
        assert images == labels
        clock.now += 10
        return rate

    return TimedEpoch(step, batches(), clock=clock, cpu_clock=lambda: 7 * clock.now), clock


def test_an_epoch_lasts_as_long_as_its_steps_and_the_waiting_for_batches(epoch) -> None:
    timing = epoch[0].train([0.1, 0.2, 0.4])
    assert (timing.wall_ns, timing.cpu_ns, timing.wait_ns, timing.images) == (36, 7 * 36, 6, 6)
    assert timing.loss == pytest.approx((0.1 + 2 * 0.2 + 3 * 0.4) / 6)
    assert timing.losses == pytest.approx((0.1, 0.2, 0.4))


def test_the_time_between_the_parts_of_an_epoch_does_not_count(epoch) -> None:
    timed, clock = epoch
    first = timed.train([0.1])
    clock.now += 1000
    assert (first.wall_ns, first.images, first.losses) == (11, 1, (0.1,))
    last = timed.train([0.2, 0.4])
    assert (last.wall_ns, last.cpu_ns, last.wait_ns, last.images) == (36, 7 * 36, 6, 6)
    assert last.losses == pytest.approx((0.1, 0.2, 0.4))


def test_what_is_still_in_work_after_a_part_belongs_to_its_time() -> None:
    clock = FakeClock()

    def settle():
        clock.now += 5

    timed = TimedEpoch(lambda *_: 0.5, cycle([([0], [0])]), settle, clock, clock)
    first, both = timed.train([0.1]), timed.train([0.1])
    assert (first.wall_ns, first.wait_ns) == (5, 5)
    assert (both.wall_ns, both.wait_ns, both.cpu_ns) == (10, 10, 10)


def test_an_epoch_ends_at_the_first_loss_that_is_not_finite(epoch) -> None:
    epoch[0].train([0.1])
    with pytest.raises(DivergedError, match="the loss of step 2 of the epoch is nan"):
        epoch[0].train([float("nan"), 0.1])


def test_the_garbage_collector_is_on_again_after_a_step_that_raises() -> None:
    def step(_):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        time_slice(step, count(), 1, 0)
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("medians", "steady"),
    [
        ([], False),
        ([1] * 5, False),
        ([1] * 6, True),
        ([9, 9, 1, 1, 1, 1, 1, 1], True),
        ([2, 1.05, 2, 1, 2, 2], True),
        ([2, 1.06, 2, 1, 2, 2], False),
        ([1, 1, 1, 1.5, 1.5, 1.05], True),
        ([1, 1, 1, 1.5, 1.5, 1.06], False),
    ],
)
def test_steady_state_is_the_best_of_three_medians_within_five_percent_of_the_best_before(medians, steady) -> None:
    assert is_steady(medians) is steady


@given(st.lists(st.booleans(), min_size=100, max_size=100), st.floats(1.0, 3.0), st.integers(0, 20))
def test_the_steady_state_of_a_process_is_found_on_a_machine_of_two_speeds(slow, factor, warm_up) -> None:
    """A process that becomes faster by 10 % a slice is not level; one that is warm is, however slow some slices are."""
    # Of three slices in a row, one is at full speed.
    times = [1.1 ** max(0, warm_up - index) for index in range(100)]
    medians = [time * (factor if slow[index] and index % 3 else 1.0) for index, time in enumerate(times)]
    steady_from = next(count for count in range(100) if is_steady(medians[:count]))
    assert steady_from >= warm_up
    assert steady_from <= warm_up + 8


def test_the_cpu_time_of_a_process_that_has_exited_is_zero() -> None:
    assert cpu_ns_of(2**22 - 1) == 0


def test_a_pipeline_is_timed_while_it_is_full() -> None:
    """Each submission takes 3, a drain 10: one batch fills the pipeline, then submissions until 7 have passed."""
    time, waiting, done = [0], [], []

    def submit(batch):
        time[0] += 3
        waiting.append(batch)

    def drain():
        time[0] += 10
        done.extend(waiting)
        waiting.clear()

    timing = time_pipeline(submit, drain, iter(range(99)), 7, 1, lambda: time[0], lambda: time[0])
    assert timing == Timing(samples_ns=(3, 3, 3), wall_ns=9, cpu_ns=9)
    assert done == [0, 1, 2, 3]


class RunningClock(FakeClock):
    """A clock that each reading advances by 1."""

    def __call__(self) -> int:
        self.now += 1
        return self.now


@pytest.mark.parametrize(("delay", "wait"), [(0.0, 0.2), (0.05, 0.2), (0.2, 0.2), (0.05, 0.05), (0.0, 0.0)])
def test_the_delay_is_timed_and_the_rest_of_the_wait_is_not(delay, wait) -> None:
    """The period of the calls depends on the wait only, and the bookkeeping is timed in the same way."""
    clock, begins, seen = RunningClock(), [], []

    def step(batch):
        begins.append(clock.now)
        seen.append(batch)
        clock.now += 10_000
        return batch

    delayed_step, batches = delayed(step, count(), delay, wait, clock)
    assert delayed_step(next(batches)) == 0
    timing = time_slice(delayed_step, batches, 50_000, 0, clock, clock)
    assert timing.samples_ns == pytest.approx([10_000 * (1 + delay)] * len(timing.samples_ns), abs=10)
    periods = [after - before for before, after in pairwise(begins[1:])]
    assert periods == pytest.approx([10_000 * (1 + wait)] * len(periods), abs=10)
    assert seen == list(range(len(seen)))


def test_the_resolution_of_a_clock_is_its_smallest_step() -> None:
    readings = iter([0, 0, 40, 40, 120, 120])
    assert timer_resolution_ns(lambda: next(readings), 6) == 40
    assert timer_resolution_ns(lambda: 7, 6) == 0
