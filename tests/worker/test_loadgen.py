"""The batches that LoadGen's samples are answered with."""

from types import SimpleNamespace

import pytest

from bench.worker.loadgen import Library, Served, by_batch


class Batches:
    images, size = range(100), 3

    def of(self, indices):
        return list(indices)


SERVED = Served(SimpleNamespace(prepare=tuple), Batches())


@pytest.fixture
def library():
    return Library(SERVED, stride=1)


def test_a_query_of_several_samples_finds_a_batch_that_begins_with_its_first(library) -> None:
    # LoadGen appends the first samples, so that every sample can be the first of a query.
    library.load([5, 9, 7, 2, 5, 9])
    assert library.batches == {5: (5, 9, 7), 9: (9, 7, 2), 7: (7, 2, 5), 2: (2, 5, 9)}
    assert library.run == {first: list(batch) for first, batch in library.batches.items()}


def test_a_batch_that_is_not_full_is_filled_up() -> None:
    assert SERVED.batch([4, 8]) == (4, 8, 4)


def test_unloaded_samples_have_no_batches(library) -> None:
    library.load([1, 2, 3])
    library.unload([1, 2, 3])
    assert not library.batches


def test_every_query_of_an_offline_run_is_answered_once_by_a_batch_that_has_its_sample() -> None:
    library = Library(SERVED, stride=3)
    library.load([6, 1, 4, 3])
    indices = [1, 3, 6, 4, 4, 6, 3, 1]
    uses = by_batch(range(10, 18), indices, library.run)
    assert sorted(query for _, queries in uses for query in queries) == list(range(10, 18))
    for first, queries in uses:
        assert {indices[query - 10] for query in queries} <= set(library.run[first])
    # Two batches, each used twice.
    assert [first for first, _ in uses] == [6, 6, 3, 3]
