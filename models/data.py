"""Find, fetch, verify and load Fashion-MNIST, or fall back to the synthetic set."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models import synthetic
from models.idx import DataError, read_idx

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.spec import Network, Shape

U8: TypeAlias = NDArray[np.uint8]

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
MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
MIRROR_TIMEOUT_S = 10
FOLDER_VARIABLE, MIRROR_VARIABLE = "FASHION_MNIST_DIR", "FASHION_MNIST_MIRROR"
SOURCES = ("auto", "fashion-mnist", "synthetic")
SYNTHETIC_WARNING = "SYNTHETIC DATA instead of Fashion-MNIST: times are valid, accuracies are not Fashion-MNIST's."

LOG = logging.getLogger(__name__)


CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class DataSet:
    """Images, (count, 28, 28) uint8, and labels, (count,) uint8, of both splits."""

    name: str
    digest: str
    train_images: U8
    train_labels: U8
    test_images: U8
    test_labels: U8


def standardise(network: Network, images: U8) -> NDArray[np.float32]:
    """Return the neutral batch of a network: float32 NHWC, scaled to [0, 1], then standardised as it asks."""
    scaled = (images.astype(np.float32) / 255 - network.mean) / network.std
    return np.ascontiguousarray(scaled[..., None], dtype=np.float32)


def load(source: str) -> DataSet:
    """Load the data that `--data` names: auto, fashion-mnist, synthetic or a folder with the four official files.

    Raises DataError when a folder, the cache or a download does not yield the official files, byte for byte; `auto`
    falls back to the synthetic set when there is no folder and no cache and no mirror answers.
    """
    if not source:
        raise DataError(f"--data '': allowed: {', '.join(SOURCES)}, or a folder with the four official files")
    if source == "synthetic":
        return _synthetic()
    if source not in SOURCES:
        return _official(Path(source), Path(source))
    if folder := os.environ.get(FOLDER_VARIABLE):
        return _official(Path(folder), f"{FOLDER_VARIABLE}={folder}")
    cache = cache_folder()
    try:
        fetch(cache, _mirrors())
    except DownloadError as error:
        if source != "auto":
            raise
        LOG.warning("%s", error)
        return _synthetic()
    return _official(cache, cache)


class DownloadError(DataError):
    """No mirror served a file."""


def cache_folder() -> Path:
    """Return the user's cache folder of the data set."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("cnn-stack-bench")) / "fashion-mnist"


def fetch(folder: Path, mirrors: Sequence[str]) -> None:
    """Download the files that `folder` lacks: verified, under a temporary name, then renamed.

    Raises DownloadError when no mirror serves a file whose SHA-256 is right.
    """
    for name in SHA256:
        if not (folder / name).exists():
            _fetch_file(folder, name, mirrors)


def _fetch_file(folder: Path, name: str, mirrors: Sequence[str]) -> None:
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    download = pooch.HTTPDownloader(progressbar=True, timeout=MIRROR_TIMEOUT_S)
    reasons = []
    for mirror in mirrors:
        if not _answers(mirror):
            reasons.append(f"{mirror}: does not answer within {MIRROR_TIMEOUT_S} s")
            continue
        try:
            pooch.retrieve(mirror + name, f"sha256:{SHA256[name]}", fname=name, path=folder, downloader=download)
        except (requests.RequestException, ValueError, OSError) as error:
            reasons.append(f"{mirror}: {_first_line(error)}")
        else:
            return
    raise DownloadError(
        f"{name}: no mirror served it ({'; '.join(reasons)}); put the four official files in a folder and set "
        f"{FOLDER_VARIABLE} to it, or use --data synthetic"
    )


def _answers(mirror: str) -> bool:
    """Tell whether a connection can be made in time; a name with many addresses would take that long for each."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    address = urlsplit(mirror)
    if getproxies().get(address.scheme):
        return True  # the proxy makes the connection
    place = address.hostname, address.port or (443 if address.scheme == "https" else 80)
    connected: list[socket.socket] = []

    def connect() -> None:
        with suppress(OSError):
            connected.append(socket.create_connection(place, MIRROR_TIMEOUT_S))

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(MIRROR_TIMEOUT_S)
    for connection in connected:
        connection.close()
    return bool(connected)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


def _mirrors() -> tuple[str, ...]:
    own = os.environ.get(MIRROR_VARIABLE)
    return (own.rstrip("/") + "/",) if own else MIRRORS


def _official(folder: Path, origin: Path | str) -> DataSet:
    if not folder.is_dir():
        raise DataError(
            f"{origin}: not a folder; --data takes {', '.join(SOURCES)} or a folder with the four official files"
        )
    arrays = [_verified(folder / name) for name in (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)]
    digest = hashlib.sha256("".join(SHA256.values()).encode()).hexdigest()
    return DataSet("fashion-mnist", digest, *arrays)


def _verified(path: Path) -> U8:
    """Read one official file; its structure is checked first, because that tells the user more than a digest."""
    if not path.is_file():
        raise DataError(f"{path}: missing; the folder must hold {', '.join(SHA256)}")
    array = read_idx(path, SHAPES[path.name])
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256[path.name]:
        raise DataError(f"{path}: not the official file (its SHA-256 differs); delete it and download it again")
    return array


def _synthetic() -> DataSet:
    train, test = synthetic.draw(60_000, stream=0), synthetic.draw(10_000, stream=1)
    sha = hashlib.sha256()
    for array in (*train, *test):
        sha.update(array.tobytes())
    return DataSet("synthetic", sha.hexdigest(), *train, *test)
