import errno
import gzip
import hashlib
import http.server
import os
import socket
import struct
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import data, oracle, synthetic
from models.idx import DataError, read_idx
from models.zoo import CNN_SMALL

needs_official_files = pytest.mark.skipif(
    not os.environ.get(data.FOLDER_VARIABLE), reason=f"{data.FOLDER_VARIABLE} names no folder with the official files"
)


def idx(array, magic=None):
    magic = 0x0800 | array.ndim if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


@pytest.fixture
def small_set(tmp_path, monkeypatch):
    """Return a folder with four files of six images, which the loader accepts as the official ones."""
    folder = tmp_path / "official"
    folder.mkdir()
    shapes, digests = {}, {}
    for name in data.SHA256:
        array = (
            np.arange(6 * 28 * 28, dtype=np.uint8).reshape(6, 28, 28)
            if "images" in name
            else np.arange(6, dtype=np.uint8)
        )
        (folder / name).write_bytes(gzip.compress(idx(array), mtime=0))
        shapes[name], digests[name] = array.shape, hashlib.sha256((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(data, "SHAPES", shapes)
    monkeypatch.setattr(data, "SHA256", digests)
    monkeypatch.delenv(data.FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


class Mirror(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, with the fault in the server's `fault`."""

    def do_GET(self) -> None:
        if self.server.fault == "half":
            content = (self.server.folder / self.path.strip("/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
        elif self.server.fault == "stall":
            self.server.released.wait(5)
        else:
            super().do_GET()

    def translate_path(self, path: str) -> str:
        return str(self.server.folder / path.strip("/"))

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def mirror(folder, fault=""):
    """Serve `folder` on the loopback interface; yield the address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        server.folder, server.fault, server.released = folder, fault, threading.Event()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"plain text", "gzip"),
        (gzip.compress(idx(np.zeros((6, 28, 28), np.uint8)))[:-3], "gzip"),
        (gzip.compress(b""), "magic"),
        (gzip.compress(idx(np.zeros((6, 28, 28), np.uint8), magic=0x0D03)), "magic"),
        (gzip.compress(idx(np.zeros((5, 28, 28), np.uint8))), r"\(5, 28, 28\), not \(6, 28, 28\)"),
        (gzip.compress(idx(np.zeros((6, 28, 28), np.uint8))[:-1]), "truncated"),
        (gzip.compress(idx(np.zeros((6, 28, 28), np.uint8)) + b"x"), "more than"),
    ],
    ids=["not gzip", "truncated gzip", "empty", "wrong magic", "wrong count", "truncated", "trailing"],
)
def test_a_damaged_file_is_refused_with_its_name_and_the_reason(tmp_path, content, reason) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"images\.gz: .*{reason}") as caught:
        read_idx(path, (6, 28, 28))
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=64), st.booleans())
def test_arbitrary_bytes_raise_only_data_errors(tmp_path_factory, content, compressed) -> None:
    path = tmp_path_factory.mktemp("idx") / "f.gz"
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(DataError):
        read_idx(path, (6, 28, 28))


def test_a_gzip_bomb_is_not_decompressed_completely(tmp_path) -> None:
    (tmp_path / "f.gz").write_bytes(gzip.compress(idx(np.zeros((2, 2), np.uint8)) + b"\0" * 50_000_000))
    with pytest.raises(DataError, match="more than the 16 bytes"):
        read_idx(tmp_path / "f.gz", (2, 2))


def test_the_official_files_in_a_folder_are_loaded(small_set) -> None:
    loaded = data.load(str(small_set))
    assert loaded.name == "fashion-mnist"
    assert loaded.test_images.shape == (6, 28, 28)
    assert loaded.test_labels.tolist() == [0, 1, 2, 3, 4, 5]


def test_the_folder_variable_has_priority_over_a_download(small_set, monkeypatch) -> None:
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(small_set))
    assert data.load("auto").name == "fashion-mnist"


def test_a_file_with_the_right_shape_but_other_content_is_refused(small_set) -> None:
    (small_set / data.TEST_LABELS).write_bytes(gzip.compress(idx(np.zeros(6, np.uint8))))
    with pytest.raises(DataError, match=r"t10k-labels.*SHA-256"):
        data.load(str(small_set))


def test_the_error_names_a_missing_file_or_folder(small_set) -> None:
    (small_set / data.TEST_LABELS).unlink()
    with pytest.raises(DataError, match=r"t10k-labels.*missing"):
        data.load(str(small_set))
    with pytest.raises(DataError, match="not a folder"):
        data.load(str(small_set / "nowhere"))


def test_a_download_is_cached_and_reused(small_set, monkeypatch) -> None:
    with mirror(small_set) as address:
        monkeypatch.setenv(data.MIRROR_VARIABLE, address)
        assert data.load("auto").name == "fashion-mnist"
    assert data.load("fashion-mnist").name == "fashion-mnist"
    assert sorted(path.name for path in data.cache_folder().iterdir()) == sorted(data.SHA256)


@pytest.mark.parametrize("fault", ["half", "stall", "gone", "tampered"])
def test_a_failed_download_leaves_nothing_in_the_cache(small_set, monkeypatch, fault) -> None:
    if fault == "tampered":
        for path in small_set.iterdir():
            path.write_bytes(gzip.compress(b"other"))
    if fault == "stall":
        monkeypatch.setattr(data, "MIRROR_TIMEOUT_S", 1)
    folder = small_set / "nowhere" if fault == "gone" else small_set
    with mirror(folder, fault) as address:
        monkeypatch.setenv(data.MIRROR_VARIABLE, address)
        with pytest.raises(data.DownloadError, match=r"no mirror served it.*--data synthetic"):
            data.load("fashion-mnist")
        assert data.load("auto").name == "synthetic"
    assert not [path for path in data.cache_folder().rglob("*") if path.is_file()]


def test_only_auto_replaces_an_unreachable_mirror_by_synthetic_data(small_set, monkeypatch) -> None:
    monkeypatch.setenv(data.MIRROR_VARIABLE, "http://127.0.0.1:9/")
    assert data.load("auto").name == "synthetic"
    with pytest.raises(data.DownloadError):
        data.load("fashion-mnist")


def test_a_mirror_that_refuses_at_once_is_not_said_to_be_slow(small_set, monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv(data.MIRROR_VARIABLE, f"http://127.0.0.1:{port}/")
    with pytest.raises(data.DownloadError, match=rf"\(http://127\.0\.0\.1:{port}/: connection refused\); put"):
        data.load("fashion-mnist")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError("timed out"), "no response within 10 s; BENCH_TIMEOUT_FACTOR=4 would wait four times as long"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "network is unreachable"),
    ],
)
def test_the_reason_why_a_mirror_is_silent_is_named(monkeypatch, error, reason) -> None:
    def connect(*_):
        raise error

    monkeypatch.setattr(socket, "create_connection", connect)
    assert data._silence("http://mirror.invalid/") == reason


def test_the_second_mirror_is_used_when_the_first_fails(small_set, tmp_path) -> None:
    with mirror(small_set) as address:
        data.fetch(tmp_path / "target", ["http://127.0.0.1:9/", address])
    assert len(list((tmp_path / "target").iterdir())) == 4


def test_the_synthetic_set_is_reproducible_and_has_the_shape_of_the_real_one() -> None:
    loaded = data.load("synthetic")
    assert loaded.digest[:16] == "bdda42715dd0d70f"
    assert (loaded.train_images.shape, loaded.test_images.shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert loaded.train_images.dtype == loaded.test_labels.dtype == np.uint8
    assert np.bincount(loaded.test_labels).tolist() == [1000] * 10


def test_the_synthetic_classes_are_separable() -> None:
    images, labels = synthetic.draw(2000, stream=0)
    others, truth = synthetic.draw(500, stream=1)
    centres = np.stack([images[labels == label].mean(0) for label in range(10)])
    distances = ((others[:, None].astype(float) - centres) ** 2).sum((2, 3))
    assert (distances.argmin(1) == truth).mean() > 0.8


def test_the_held_out_images_are_always_the_same_and_never_trained_on() -> None:
    train, test = synthetic.draw(100, stream=0), synthetic.draw(10, stream=1)
    loaded = data.DataSet("synthetic", "d", *train, *test)
    once, again = data.split(loaded, 0.1), data.split(loaded, 0.1)
    assert (len(once.train[1]), len(once.validation[1])) == (90, 10)
    np.testing.assert_array_equal(once.validation[0], again.validation[0])
    seen = {image.tobytes() for image in once.train[0]}
    assert not seen & {image.tobytes() for image in once.validation[0]}
    assert len(data.split(loaded, 0.0).validation[1]) == 0


def test_standardised_images_are_contiguous_nhwc() -> None:
    batch = data.standardise(CNN_SMALL, np.full((2, 28, 28), 255, np.uint8))
    assert batch.shape == (2, 28, 28, 1)
    assert batch.flags.c_contiguous
    assert batch[0, 0, 0, 0] == pytest.approx((1 - CNN_SMALL.mean) / CNN_SMALL.std)


@needs_official_files
def test_the_official_files_have_the_declared_mean_and_deviation() -> None:
    loaded = data.load("auto")
    assert loaded.name == "fashion-mnist"
    assert loaded.train_images.mean() / 255 == pytest.approx(CNN_SMALL.mean, abs=1e-4)
    assert loaded.train_images.std() / 255 == pytest.approx(CNN_SMALL.std, abs=1e-4)


@needs_official_files
def test_the_checkpoint_has_its_accuracy_on_the_official_test_images(trained) -> None:
    loaded = data.load("auto")
    labels = oracle.logits(CNN_SMALL, trained, data.standardise(CNN_SMALL, loaded.test_images)).argmax(1)
    assert (labels == loaded.test_labels).mean() >= 0.915
