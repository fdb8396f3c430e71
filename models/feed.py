"""Make training batches: in a seeded order, standardised and augmented by threads before they are needed.

The contents of a batch depend only on the seed, the epoch and its index, never on threads or stacks.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.data import standardise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from models.recipes import Augmentation
    from models.spec import Network
    from models.synthetic import U8

Batch: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]

# Batches per thread that are ready or in work.
AHEAD = 2
DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Feed:
    """Training images, (count, height, width) uint8, with their labels, and how to make batches of them.

    Of each batch, the process with this `rank` among the `workers` gets an equal share of neighbours: together they get
    what a single one would. The threads run on `cores`. They would inherit a single core from a main thread that its
    runtime has bound to one.
    """

    network: Network
    images: U8
    labels: NDArray[np.int64]
    batch_size: int
    augmentation: Augmentation
    seed: int
    threads: int
    cores: frozenset[int] = frozenset()
    rank: int = 0
    workers: int = 1

    @property
    def batches(self) -> int:
        """The number of batches in an epoch, including the last, partial one."""
        return math.ceil(len(self.labels) / self.batch_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.RandomState([self.seed, epoch]).permutation(len(self.labels))

    def epoch(self, epoch: int, in_work: deque[Future[Batch]] | None = None) -> Iterator[Batch]:
        """Yield the batches of an epoch, while threads make the next ones; `in_work` is filled with their futures."""
        order, pending = self.order(epoch), deque[int](range(self.batches))
        futures = deque() if in_work is None else in_work
        with ThreadPoolExecutor(self.threads, "feed", self._pin_to_cores) as pool:
            first = [pending.popleft() for _ in range(min(AHEAD * self.threads, self.batches))]
            futures.extend(pool.submit(self.batch, order, epoch, index) for index in first)
            try:
                while futures:
                    batch = futures.popleft().result()
                    if pending:
                        futures.append(pool.submit(self.batch, order, epoch, pending.popleft()))
                    yield batch
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _pin_to_cores(self) -> None:
        if self.cores:
            # Zero means the calling thread.
            os.sched_setaffinity(0, self.cores)

    def batch(self, order: NDArray[np.int64], epoch: int, index: int) -> Batch:
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
        random, share = np.random.RandomState([self.seed, epoch, index]), slice(*self.share(len(chosen)))
        images = augmented(self.network, self.images[chosen], self.augmentation, random, share)
        return images, self.labels[chosen[share]]

    def share(self, count: int) -> tuple[int, int]:
        """Return which of the `count` images of a batch this process gets: the first one, and the end."""
        return count * self.rank // self.workers, count * (self.rank + 1) // self.workers

    def first_place(self, index: int) -> int:
        """Return the place in the epoch of the first image that this process gets of a batch."""
        start = index * self.batch_size
        return start + self.share(min(self.batch_size, len(self.labels) - start))[0]


class DigestingIterator:
    """An iterator over the batches of an epoch of a feed that digests what is consumed.

    The digest covers place and label of each image, and the pixels of the first and the last batch. It is a sum over
    images, so that those of several processes add up to that of all their images (`union_digest`).
    """

    def __init__(self, batches: Iterator[Batch], feed: Feed) -> None:
        self._batches, self._feed = batches, feed
        self._pending, self._digested, self._total = list[Batch](), 0, 0

    def __iter__(self) -> DigestingIterator:
        return self

    def __next__(self) -> Batch:
        images, labels = next(self._batches)
        # Digested after the steps: here it would be timed. Pixels that are not needed are not kept.
        is_outer = self._digested + len(self._pending) in (0, self._feed.batches - 1)
        self._pending.append((images if is_outer else images[:0], labels))
        return images, labels

    @property
    def digest(self) -> str:
        """The digest of the batches up to now."""
        for images, labels in self._pending:
            first = self._feed.first_place(self._digested)
            for offset, label in enumerate(labels.tolist()):
                pixels = images[offset].tobytes() if len(images) else b""
                self._total += _as_number(hashlib.sha256(b"%d %d " % (first + offset, label) + pixels).digest())
            self._digested += 1
        self._pending.clear()
        return _as_digest(self._total)


def union_digest(digests: Iterable[str]) -> str:
    """Return the digest of an epoch whose images several processes have shared, from those of their shares."""
    return _as_digest(sum(_as_number(bytes.fromhex(digest)) for digest in digests))


def _as_number(digest: bytes) -> int:
    return int.from_bytes(digest, "big")


def _as_digest(total: int) -> str:
    return (total % (1 << 8 * DIGEST_BYTES)).to_bytes(DIGEST_BYTES, "big").hex()


def augmented(
    network: Network,
    images: U8,
    augmentation: Augmentation,
    random: np.random.RandomState,
    share: slice = slice(None),
) -> NDArray[np.float32]:
    """Return a neutral batch of augmented images: float32 NHWC, standardised for the network.

    Of a batch of images, only the `share` is returned, changed as in the whole batch.
    """
    if augmentation.moves:
        matrices = _matrices(len(images), augmentation, images.shape[1:], random)
        pixels = warped(images[share], matrices[share])
        scale = np.float32(1 / (255 * network.std))
        pixels *= scale
        pixels -= np.float32(network.mean / network.std)
        return pixels[..., None]
    if augmentation.flip:
        images = np.where(random.random_sample(len(images))[:, None, None] < 1 / 2, images[:, :, ::-1], images)
    # Standardise by a table of the 256 pixel values.
    table = standardise(network, np.arange(256, dtype=np.uint8))[..., 0]
    standardised: NDArray[np.float32] = table[images[share]][..., None]
    return standardised


def _matrices(
    count: int, augmentation: Augmentation, size: tuple[int, ...], random: np.random.RandomState
) -> NDArray[np.float32]:
    """Return random affine maps from output to source coordinates, shape (count, 2, 3): rows y, x; columns y, x, 1.

    Coordinates are relative to the centre of the image.
    """
    moved = random.random_sample(count) < augmentation.share

    def uniform(bound: float) -> NDArray[np.float64]:
        return random.uniform(-bound, bound, count) * moved

    turn, shear = np.radians(uniform(augmentation.rotation)), np.radians(uniform(augmentation.shear))
    zoom_y, zoom_x = 1 + uniform(augmentation.zoom), 1 + uniform(augmentation.zoom)
    shift_y, shift_x = uniform(augmentation.shift * size[0]), uniform(augmentation.shift * size[1])
    mirror = np.where(random.random_sample(count) < 1 / 2, -1.0, 1.0) if augmentation.flip else np.ones(count)
    rows = (
        (zoom_y * np.cos(turn), zoom_x * np.sin(turn + shear) * mirror, shift_y),
        (-zoom_y * np.sin(turn), zoom_x * np.cos(turn + shear) * mirror, shift_x),
    )
    return np.array(rows, np.float32).transpose(2, 0, 1)


def warped(images: U8, matrices: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return images, (count, height, width), sampled bilinearly at the mapped coordinates; the border is repeated.

    The four neighbours of each point are packed into one integer, so that a single look-up returns all of them.
    """
    count, height, width = images.shape
    grid_y, grid_x = np.indices((height, width), np.float32).reshape(2, 1, -1)
    centre_y, centre_x = np.float32((height - 1) / 2), np.float32((width - 1) / 2)
    grid_y, grid_x = grid_y - centre_y, grid_x - centre_x
    y, x = (
        np.clip(row[:, 0, None] * grid_y + row[:, 1, None] * grid_x + (row[:, 2, None] + centre), 0, limit - 1.001)
        for row, centre, limit in ((matrices[:, 0], centre_y, height), (matrices[:, 1], centre_x, width))
    )
    top, left = y.astype(np.int32), x.astype(np.int32)
    y, x = y - top.astype(np.float32), x - left.astype(np.float32)
    offset = np.arange(count, dtype=np.int32)[:, None] * np.int32((height - 1) * (width - 1))
    # Each pixel with its neighbours to the right, below and diagonally below, one byte each.
    wide = images.astype("<u4")
    pairs = wide[:, :, :-1] | wide[:, :, 1:] << 8
    packed: NDArray[np.uint32] = pairs[:, :-1] | pairs[:, 1:] << 16
    corners = packed.take(offset + top * np.int32(width - 1) + left)
    corners = corners.view(np.uint8).reshape(count, height * width, 4)
    north_west, north_east, south_west, south_east = (corners[..., index].astype(np.float32) for index in range(4))
    north = north_west + x * (north_east - north_west)
    south = south_west + x * (south_east - south_west)
    result: NDArray[np.float32] = north + y * (south - north)
    return result.reshape(images.shape)
