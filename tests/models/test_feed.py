import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import synthetic
from models.data import standardise
from models.feed import DigestingIterator, Feed, augmented, union_digest, warped
from models.recipes import Augmentation
from models.zoo import CNN_SMALL

IMAGES, LABELS = synthetic.draw(70, stream=9)
EVERYTHING = Augmentation(rotation=20, shift=0.2, shear=10, zoom=0.1, flip=True)


def make_feed(**changes) -> Feed:
    """Return a feed of 70 images in batches of 32."""
    default = Feed(CNN_SMALL, IMAGES, LABELS.astype(np.int64), 32, Augmentation(), 1, 2)
    return replace(default, **changes)


def digest(feed, epoch) -> str:
    batches = DigestingIterator(feed.epoch(epoch), feed)
    assert sum(len(labels) for _, labels in batches) == 70
    return batches.digest


def test_an_epoch_contains_every_image_once_and_ends_with_a_partial_batch() -> None:
    batches = list(make_feed().epoch(0))
    assert [len(labels) for _, labels in batches] == [32, 32, 6] == [len(images) for images, _ in batches]
    images = np.concatenate([images for images, _ in batches])
    order = make_feed().order(0)
    assert sorted(order) == list(range(70))
    np.testing.assert_array_equal(images, standardise(CNN_SMALL, IMAGES[order]))
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), LABELS[order])


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(flip=True), EVERYTHING], ids=str)
def test_batches_depend_on_epoch_and_seed_but_not_on_threads(augmentation) -> None:
    single, multiple = (make_feed(augmentation=augmentation, threads=threads) for threads in (1, 4))
    for one, other in zip(single.epoch(3), multiple.epoch(3), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    digests = {digest(single, 0), digest(single, 1), digest(replace(single, seed=2), 0)}
    assert len(digests) == 3
    assert digest(single, 0) == digest(multiple, 0)


def test_the_digest_depends_on_order_and_pixels() -> None:
    changed = IMAGES.copy()
    changed[make_feed().order(0)[0], 5, 5] ^= 1
    flipped = make_feed(augmentation=Augmentation(flip=True))
    assert len({digest(feed, 0) for feed in (make_feed(), make_feed(images=changed), flipped)}) == 3


def test_the_digest_is_that_of_the_batches_that_were_consumed() -> None:
    batches = list(make_feed().epoch(0))
    reordered = DigestingIterator(iter([batches[1], batches[0], batches[2]]), make_feed())
    assert len(list(reordered)) == 3
    assert reordered.digest != digest(make_feed(), 0)


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(flip=True), EVERYTHING], ids=str)
@pytest.mark.parametrize("workers", [2, 3])
def test_the_shares_of_workers_are_together_the_batches_of_one(augmentation, workers) -> None:
    whole = make_feed(augmentation=augmentation)
    shares = [replace(whole, rank=rank, workers=workers) for rank in range(workers)]
    for batch, *parts in zip(whole.epoch(1), *(share.epoch(1) for share in shares), strict=True):
        np.testing.assert_array_equal(np.concatenate([images for images, _ in parts]), batch[0])
        np.testing.assert_array_equal(np.concatenate([labels for _, labels in parts]), batch[1])
    digests = []
    for share in shares:
        batches = DigestingIterator(share.epoch(1), share)
        assert len(list(batches)) == 3
        digests.append(batches.digest)
    assert union_digest(digests) == digest(whole, 1)
    assert union_digest(digests[:-1]) != digest(whole, 1)


def test_threads_run_on_the_given_cores() -> None:
    core = min(os.sched_getaffinity(0))
    bound = make_feed(cores=frozenset({core}))
    seen = []
    with ThreadPoolExecutor(1, initializer=bound._pin_to_cores) as pool:
        seen.append(pool.submit(os.sched_getaffinity, 0).result())
    assert seen == [{core}]
    assert len(list(bound.epoch(0))) == 3


@pytest.mark.parametrize("augmentation", [Augmentation(flip=True), EVERYTHING], ids=str)
def test_augmented_images_are_standardised_float32(augmentation) -> None:
    batch = augmented(CNN_SMALL, IMAGES, augmentation, np.random.RandomState(0))
    assert (batch.dtype, batch.shape) == (np.float32, (70, 28, 28, 1))
    lowest, highest = standardise(CNN_SMALL, np.array([[0, 255]], np.uint8)).ravel()
    assert batch.min() >= lowest - 1e-5
    assert batch.max() <= highest + 1e-5


def test_without_transformation_half_of_the_images_are_mirrored_and_the_others_unchanged() -> None:
    still = replace(EVERYTHING, share=0.0)
    batch = augmented(CNN_SMALL, IMAGES, still, np.random.RandomState(0))
    plain = standardise(CNN_SMALL, IMAGES)
    same = np.abs(batch - plain).max(axis=(1, 2, 3)) < 0.01
    mirrored = np.abs(batch - plain[:, :, ::-1]).max(axis=(1, 2, 3)) < 0.01
    assert (same | mirrored).all()
    assert 10 < same.sum() < 60


def matrix(rows) -> np.ndarray:
    """Return the same affine map for each image."""
    return np.tile(np.array(rows, np.float32), (len(IMAGES), 1, 1))


def test_the_identity_map_returns_the_image() -> None:
    np.testing.assert_allclose(warped(IMAGES, matrix([[1, 0, 0], [0, 1, 0]])), IMAGES, atol=0.3)


def test_a_shift_moves_the_image_and_repeats_the_border() -> None:
    result = warped(IMAGES, matrix([[1, 0, 2], [0, 1, -3]]))
    np.testing.assert_allclose(result[:, :25, 3:], IMAGES[:, 2:27, :25], atol=0.6)
    np.testing.assert_allclose(result[:, 26:, 5], np.tile(IMAGES[:, 27:, 2], 2), atol=0.6)


def test_a_quarter_turn_rotates_the_image() -> None:
    result = warped(IMAGES, matrix([[0, 1, 0], [-1, 0, 0]]))
    np.testing.assert_allclose(result, np.rot90(IMAGES, 1, axes=(1, 2)), atol=0.6)


def test_a_shift_by_half_a_pixel_averages_neighbours() -> None:
    result = warped(IMAGES, matrix([[1, 0, 0], [0, 1, 0.5]]))
    expected = (IMAGES[:, :, :-1].astype(float) + IMAGES[:, :, 1:]) / 2
    np.testing.assert_allclose(result[:, :, :26], expected[:, :, :26], atol=0.6)


@given(
    augmentation=st.builds(
        Augmentation,
        rotation=st.floats(0, 180), shift=st.floats(0, 1), shear=st.floats(0, 80), zoom=st.floats(0, 0.9),
        flip=st.booleans(),
    ),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_no_augmentation_leaves_the_range_of_the_images(augmentation, seed) -> None:
    batch = augmented(CNN_SMALL, IMAGES[:4], augmentation, np.random.RandomState(seed))
    bounds = standardise(CNN_SMALL, np.array([[IMAGES[:4].min(), IMAGES[:4].max()]], np.uint8)).ravel()
    assert np.isfinite(batch).all()
    assert bounds[0] - 1e-4 <= batch.min()
    assert batch.max() <= bounds[1] + 1e-4
