"""What batches hold: every image once, in a seeded order, changed by chances that no thread has a say in."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import synthetic
from models.data import standardise
from models.feed import DigestingIterator, Feed, augmented, warped
from models.recipes import Augmentation
from models.zoo import CNN_SMALL

IMAGES, LABELS = synthetic.draw(70, stream=9)
EVERYTHING = Augmentation(rotation=20, shift=0.2, shear=10, zoom=0.1, flip=True)


def feed(**changes) -> Feed:
    """Return a feed of 70 images in batches of 32."""
    plain = Feed(CNN_SMALL, IMAGES, LABELS.astype(np.int64), 32, Augmentation(), 1, 2)
    return replace(plain, **changes)


def digest(fed, epoch) -> str:
    """Return the digest of an epoch's batches."""
    witness = DigestingIterator(fed.epoch(epoch), fed.batches)
    assert sum(len(labels) for _, labels in witness) == 70
    return witness.digest


def test_an_epoch_has_every_image_once_and_ends_with_the_remainder() -> None:
    batches = list(feed().epoch(0))
    assert [len(labels) for _, labels in batches] == [32, 32, 6] == [len(images) for images, _ in batches]
    fed = np.concatenate([images for images, _ in batches])
    order = feed().order(0)
    assert sorted(order) == list(range(70))
    np.testing.assert_array_equal(fed, standardise(CNN_SMALL, IMAGES[order]))
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), LABELS[order])


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(flip=True), EVERYTHING], ids=str)
def test_threads_change_nothing_and_epochs_and_seeds_do(augmentation) -> None:
    alone, many = (feed(augmentation=augmentation, threads=threads) for threads in (1, 4))
    for one, other in zip(alone.epoch(3), many.epoch(3), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    digests = {digest(alone, 0), digest(alone, 1), digest(replace(alone, seed=2), 0)}
    assert len(digests) == 3
    assert digest(alone, 0) == digest(many, 0)


def test_the_digest_is_of_order_and_pixels() -> None:
    changed = IMAGES.copy()
    changed[feed().order(0)[0], 5, 5] ^= 1
    flipped = feed(augmentation=Augmentation(flip=True))
    assert len({digest(each, 0) for each in (feed(), feed(images=changed), flipped)}) == 3


def test_the_digest_is_of_what_was_fed_not_of_what_should_have_been() -> None:
    batches = list(feed().epoch(0))
    wrong = DigestingIterator(iter([batches[1], batches[0], batches[2]]), 3)
    assert len(list(wrong)) == 3
    assert wrong.digest != digest(feed(), 0)


def test_threads_run_on_the_cores_that_they_are_given() -> None:
    core = min(os.sched_getaffinity(0))
    bound = feed(cores=frozenset({core}))
    seen = []
    with ThreadPoolExecutor(1, initializer=bound._take_place) as pool:
        seen.append(pool.submit(os.sched_getaffinity, 0).result())
    assert seen == [{core}]
    assert len(list(bound.epoch(0))) == 3


@pytest.mark.parametrize("augmentation", [Augmentation(flip=True), EVERYTHING], ids=str)
def test_augmented_images_are_standardised_float32(augmentation) -> None:
    found = augmented(CNN_SMALL, IMAGES, augmentation, np.random.RandomState(0))
    assert (found.dtype, found.shape) == (np.float32, (70, 28, 28, 1))
    lowest, highest = standardise(CNN_SMALL, np.array([[0, 255]], np.uint8)).ravel()
    assert found.min() >= lowest - 1e-5
    assert found.max() <= highest + 1e-5


def test_of_images_that_are_not_moved_only_the_mirrored_ones_change() -> None:
    still = replace(EVERYTHING, share=0.0)
    found = augmented(CNN_SMALL, IMAGES, still, np.random.RandomState(0))
    plain = standardise(CNN_SMALL, IMAGES)
    same = np.abs(found - plain).max(axis=(1, 2, 3)) < 0.01
    mirrored = np.abs(found - plain[:, :, ::-1]).max(axis=(1, 2, 3)) < 0.01
    assert (same | mirrored).all()
    assert 10 < same.sum() < 60


def matrix(rows) -> np.ndarray:
    """Return the same map for each image."""
    return np.tile(np.array(rows, np.float32), (len(IMAGES), 1, 1))


def test_the_map_that_changes_nothing_changes_nothing() -> None:
    np.testing.assert_allclose(warped(IMAGES, matrix([[1, 0, 0], [0, 1, 0]])), IMAGES, atol=0.3)


def test_a_shift_shifts_and_continues_the_border() -> None:
    found = warped(IMAGES, matrix([[1, 0, 2], [0, 1, -3]]))
    np.testing.assert_allclose(found[:, :25, 3:], IMAGES[:, 2:27, :25], atol=0.6)
    np.testing.assert_allclose(found[:, 26:, 5], np.tile(IMAGES[:, 27:, 2], 2), atol=0.6)


def test_a_quarter_turn_turns() -> None:
    found = warped(IMAGES, matrix([[0, 1, 0], [-1, 0, 0]]))
    np.testing.assert_allclose(found, np.rot90(IMAGES, 1, axes=(1, 2)), atol=0.6)


def test_half_a_pixel_is_the_mean_of_two() -> None:
    found = warped(IMAGES, matrix([[1, 0, 0], [0, 1, 0.5]]))
    expected = (IMAGES[:, :, :-1].astype(float) + IMAGES[:, :, 1:]) / 2
    np.testing.assert_allclose(found[:, :, :26], expected[:, :, :26], atol=0.6)


@given(
    augmentation=st.builds(
        Augmentation,
        rotation=st.floats(0, 180), shift=st.floats(0, 1), shear=st.floats(0, 80), zoom=st.floats(0, 0.9),
        flip=st.booleans(),
    ),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_no_augmentation_invents_brightness(augmentation, seed) -> None:
    found = augmented(CNN_SMALL, IMAGES[:4], augmentation, np.random.RandomState(seed))
    bounds = standardise(CNN_SMALL, np.array([[IMAGES[:4].min(), IMAGES[:4].max()]], np.uint8)).ravel()
    assert np.isfinite(found).all()
    assert bounds[0] - 1e-4 <= found.min()
    assert found.max() <= bounds[1] + 1e-4
