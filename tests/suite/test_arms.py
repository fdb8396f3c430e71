import pytest

from bench.suite.arms import BEST_THREADS, Case, Split, possible_splits, usual_split

BEST = Case("cnn-small", "latency", 64, BEST_THREADS)


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (12, [1, 2, 4, 8, 12]), (16, [1, 2, 4, 8, 16])]
)
def test_for_latency_powers_of_two_and_all_cores_are_possible(cores, counts) -> None:
    assert possible_splits("latency", cores) == tuple(Split(1, count) for count in counts)


@pytest.mark.parametrize(
    ("cores", "splits"),
    [
        (1, [(1, 1)]),
        (2, [(2, 1), (1, 2)]),
        (6, [(6, 1), (3, 2), (1, 6)]),
        (16, [(16, 1), (8, 2), (4, 4), (2, 8), (1, 16)]),
    ],
)
def test_for_throughput_every_split_uses_all_cores(cores, splits) -> None:
    assert possible_splits("throughput", cores) == tuple(Split(*split) for split in splits)


def test_the_usual_split_is_one_of_the_possible_ones() -> None:
    assert usual_split("latency", 16) == Split(1, 16) == possible_splits("latency", 16)[-1]
    assert usual_split("throughput", 16) == Split(16, 1) == possible_splits("throughput", 16)[0]


def test_a_process_with_best_threads_serves_one_batch_size() -> None:
    assert BEST.id == "cnn-small/latency/b64/tbest"
    assert BEST.label == "cnn-small, latency, batch 64, best threads"
    assert BEST.group == ("cnn-small", "latency", "batch 64", "best threads")
    assert Case("cnn-small", "latency", 64, 2).group == ("cnn-small", "latency", "2 threads")
