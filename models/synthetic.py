"""Generate a synthetic substitute for Fashion-MNIST: same shapes, types and number of classes, no download.

Each class is a smooth seeded pattern; an image is the pattern of its class, randomly shifted and dimmed, with noise.
Times are valid on it. Accuracy on it says nothing about Fashion-MNIST.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

CLASS_COUNT = 10
SEED = 20170825

U8: TypeAlias = NDArray[np.uint8]


def draw(count: int, stream: int) -> tuple[U8, U8]:
    """Return `count` images, (count, 28, 28), and labels, (count,); different streams are independent."""
    random = np.random.RandomState(SEED + 1 + stream)
    labels = np.arange(count) % CLASS_COUNT
    random.shuffle(labels)
    shift = random.randint(-2, 3, count)
    images = _patterns()[labels]
    for offset in range(-2, 3):
        images[shift == offset] = np.roll(images[shift == offset], offset, axis=2)
    images *= random.uniform(0.6, 1.0, (count, 1, 1))
    images += random.normal(0, 12, images.shape)
    return np.clip(images, 0, 255).astype(np.uint8), labels.astype(np.uint8)


def _patterns() -> NDArray[np.float64]:
    """Return one pattern per class, (10, 28, 28), values in 0..255: coarse random blobs, enlarged and smoothed."""
    random = np.random.RandomState(SEED)
    coarse = random.uniform(0, 255, (CLASS_COUNT, 7, 7))
    pattern = coarse.repeat(4, axis=1).repeat(4, axis=2)
    for axis in (1, 2):
        pattern = (np.roll(pattern, -1, axis) + 2 * pattern + np.roll(pattern, 1, axis)) / 4
    return pattern
