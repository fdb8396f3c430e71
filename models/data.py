"""Find, download, verify and load Fashion-MNIST, or the synthetic data set in its place."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models import synthetic
from models.idx import DataError, read_idx
from models.timeouts import LONGER, timeout_factor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models.spec import Network, Shape
    from models.synthetic import U8


# The files that the authors of Fashion-MNIST publish (zalandoresearch/fashion-mnist).
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
SHA256 = {
    TRAIN_IMAGES: "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    TRAIN_LABELS: "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    TEST_IMAGES: "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    TEST_LABELS: "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
SHAPES: dict[str, Shape] = {
    TRAIN_IMAGES: (60_000, 28, 28),
    TRAIN_LABELS: (60_000,),
    TEST_IMAGES: (10_000, 28, 28),
    TEST_LABELS: (10_000,),
}
MOST_FILE_BYTES = 1 << 25
MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
MIRROR_TIMEOUT_S = 10
FOLDER_VARIABLE, MIRROR_VARIABLE = "FASHION_MNIST_DIR", "FASHION_MNIST_MIRROR"
SOURCES = ("auto", "fashion-mnist", "synthetic")
SYNTHETIC_WARNING = "SYNTHETIC DATA instead of Fashion-MNIST: times are valid, accuracies are not Fashion-MNIST's."

# The seed of the images that are held out, so that they are the same in every training.
SPLIT_SEED = 20260101

LOG = logging.getLogger(__name__)

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class DataSet:
    """Training and test images, (count, 28, 28) uint8, with their labels, (count,) uint8."""

    name: str
    digest: str
    train_images: U8
    train_labels: U8
    test_images: U8
    test_labels: U8


@dataclass(frozen=True)
class Splits:
    """Images and labels for training, those held out of them for validation, and those of the test set."""

    train: tuple[U8, U8]
    validation: tuple[U8, U8]
    test: tuple[U8, U8]

    def first(self, images: int) -> Splits:
        """Return the splits with only the first `images` of the training images."""
        return replace(self, train=(self.train[0][:images], self.train[1][:images]))

    def lay_out(self, folder: Path) -> None:
        """Write the files that workers read: SPLIT-images.npy and SPLIT-labels.npy."""
        for name, (images, labels) in vars(self).items():
            np.save(folder / f"{name}-images.npy", images, allow_pickle=False)
            np.save(folder / f"{name}-labels.npy", labels, allow_pickle=False)


def split(data: DataSet, validation: float) -> Splits:
    """Hold out a fraction of the training images, the same images in every training."""
    order = np.random.RandomState(SPLIT_SEED).permutation(len(data.train_labels))
    count = round(validation * len(order))
    train, held_out = np.sort(order[count:]), np.sort(order[:count])
    return Splits(
        (data.train_images[train], data.train_labels[train]),
        (data.train_images[held_out], data.train_labels[held_out]),
        (data.test_images, data.test_labels),
    )


def standardise(network: Network, images: U8) -> NDArray[np.float32]:
    """Return a neutral batch: float32 NHWC, scaled to [0, 1], standardised with the network's mean and deviation."""
    scaled = (images.astype(np.float32) / 255 - network.mean) / network.std
    return np.ascontiguousarray(scaled[..., None], dtype=np.float32)


def load(source: str) -> DataSet:
    """Load the data that `--data` names: auto, fashion-mnist, synthetic or a folder with the four official files.

    `auto` uses the synthetic set when no folder is named, the cache is empty and no mirror responds. Raises DataError
    when a folder, the cache or a download does not hold the official files, byte for byte.
    """
    if folder := official_folder(source):
        named = source in SOURCES and os.environ.get(FOLDER_VARIABLE)
        return _load_official(folder, f"{FOLDER_VARIABLE}={folder}" if named else folder)
    return _load_synthetic()


def official_folder(source: str) -> Path | None:
    """Return the folder of the official files that `--data` means, which may be none; None for the synthetic set.

    Downloads the files that the cache lacks.
    """
    if not source:
        raise DataError(f"--data '': allowed: {', '.join(SOURCES)}, or a folder with the four official files")
    if source == "synthetic":
        return None
    if source not in SOURCES:
        return Path(source)
    if folder := os.environ.get(FOLDER_VARIABLE):
        return Path(folder)
    cache, mirror = cache_folder(), os.environ.get(MIRROR_VARIABLE)
    try:
        fetch(cache, (mirror.rstrip("/") + "/",) if mirror else MIRRORS)
    except DownloadError as error:
        if source != "auto":
            raise
        LOG.warning("%s", error)
        return None
    return cache


class DownloadError(DataError):
    """No mirror served a file with the right SHA-256."""


def cache_folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("cnn-stack-bench")) / "fashion-mnist"


def fetch(folder: Path, mirrors: Sequence[str]) -> None:
    """Download the files that `folder` lacks; each is verified under a temporary name and then renamed.

    Raises DownloadError when no mirror serves a file with the right SHA-256.
    """
    for name in SHA256:
        if not (folder / name).exists():
            _fetch_file(folder, name, mirrors)


def _fetch_file(folder: Path, name: str, mirrors: Sequence[str]) -> None:
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    download = pooch.HTTPDownloader(progressbar=True, timeout=MIRROR_TIMEOUT_S * timeout_factor())
    reasons = []
    for mirror in mirrors:
        if silence := _silence(mirror):
            reasons.append(f"{mirror}: {silence}")
            continue
        try:
            pooch.retrieve(mirror + name, f"sha256:{SHA256[name]}", fname=name, path=folder, downloader=download)
        except (requests.RequestException, ValueError, OSError) as error:
            reasons.append(f"{mirror}: " + f"{type(error).__name__}: {error}".splitlines()[0][:160])
        else:
            return
    raise DownloadError(
        f"{name}: no mirror served it ({'; '.join(reasons)}); put the four official files in a folder and set "
        f"{FOLDER_VARIABLE} to it, or use --data synthetic"
    )


def _silence(mirror: str) -> str | None:
    """Return why a mirror can't be reached, or None.

    A thread connects, because for a name with several addresses the time-out applies to each of them.
    """
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    address = urlsplit(mirror)
    if getproxies().get(address.scheme):
        # The proxy makes the connection.
        return None
    host = address.hostname, address.port or (443 if address.scheme == "https" else 80)
    timeout_s = MIRROR_TIMEOUT_S * timeout_factor()
    outcomes: list[socket.socket | OSError] = []

    def connect() -> None:
        try:
            outcomes.append(socket.create_connection(host, timeout_s))
        except OSError as error:
            outcomes.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout_s)
    match outcomes:
        case [socket.socket() as connection]:
            connection.close()
            return None
        case [OSError() as error] if not isinstance(error, TimeoutError):
            return (error.strerror or str(error)).lower()
    return f"no response within {timeout_s:g} s; {LONGER}"


def _load_official(folder: Path, origin: Path | str) -> DataSet:
    if not folder.is_dir():
        raise DataError(
            f"{origin}: not a folder; --data takes {', '.join(SOURCES)} or a folder with the four official files"
        )
    arrays = [_verified(folder / name) for name in (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)]
    digest = hashlib.sha256("".join(SHA256.values()).encode()).hexdigest()
    return DataSet("fashion-mnist", digest, *arrays)


def _verified(path: Path) -> U8:
    """Read one official file. Its structure is checked first, because that error is more specific than a digest's."""
    if not path.is_file():
        raise DataError(f"{path}: missing; the folder must hold {', '.join(SHA256)}")
    if (size := path.stat().st_size) > MOST_FILE_BYTES:
        raise DataError(f"{path}: {size:,} bytes; no official file has more than {MOST_FILE_BYTES:,}")
    array = read_idx(path, SHAPES[path.name])
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256[path.name]:
        raise DataError(f"{path}: not the official file (its SHA-256 differs); delete it and download it again")
    return array


def _load_synthetic() -> DataSet:
    train, test = synthetic.draw(60_000, stream=0), synthetic.draw(10_000, stream=1)
    sha = hashlib.sha256()
    for array in (*train, *test):
        sha.update(array.tobytes())
    return DataSet("synthetic", sha.hexdigest(), *train, *test)
