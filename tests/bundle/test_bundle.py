"""A bundle is complete and verified, or it does not exist."""

import fcntl
import os
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import chain
from threading import Thread
from types import SimpleNamespace

import pytest

from bench.bundle import bundle
from bench.bundle.bundle import Planned, add_data, download_wheels, partial_folder
from bench.bundle.wheels import Wheel
from models.errors import UserError
from tests.bundle import tiny


def test_every_file_of_a_bundle_is_verified_by_its_sums(made) -> None:
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=made.folder, capture_output=True, text=True, check=True
    )
    files = {str(path.relative_to(made.folder)) for path in made.folder.rglob("*") if path.is_file()}
    assert {line.removesuffix(": OK") for line in done.stdout.splitlines()} == files - {"SHA256SUMS"}
    assert tiny.digest(made.folder / "SHA256SUMS") in made.out


def test_a_bundle_holds_wheels_pins_tools_project_and_installer(made) -> None:
    assert {path.name for path in made.folder.iterdir()} == {
        "SHA256SUMS", "data", "install.sh", "project", "requirements", "settings", "tools", "wheels",
    }  # fmt: skip
    assert {path.name for path in (made.folder / "requirements").iterdir()} == {"ipex.txt", "tools.txt", "vanilla.txt"}
    pins = (made.folder / "requirements" / "vanilla.txt").read_text()
    digest = tiny.digest(made.folder / "wheels" / "torch-1.0-py3-none-any.whl")
    assert f"torch==1.0 --hash=sha256:{digest}\n" in pins
    assert os.access(made.folder / "tools" / "uv", os.X_OK)
    assert "environments='vanilla,ipex'\n" in (made.folder / "settings").read_text()


def test_the_project_in_a_bundle_is_what_git_knows_with_its_commit(made, checkout) -> None:
    head = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    files = {str(path.relative_to(made.folder / "project")) for path in (made.folder / "project").rglob("*.*")}
    assert files == {"tox.ini", "pyproject.toml", "overrides.txt", "bench/known.py"}
    assert (made.folder / "project" / "COMMIT").read_text() == head.stdout
    assert "git does not know them: bench/unknown.py" in made.out


def test_sizes_are_shown_before_and_after(made) -> None:
    before, after = made.out.index("To download, MB"), made.out.index(f"{made.folder}: 0.00 GB (")
    assert made.out.index("vanilla") < before < made.out.index("together") < after


def test_what_a_bundle_lacks_is_said(made) -> None:
    assert "no Python in the bundle: the machine must have Python 3.11 (uv: error: no network)" in made.out
    assert "no Fashion-MNIST in the bundle" in made.out
    assert "torch is the CUDA build here" in made.out


def test_the_wheels_of_one_environment_are_enough_for_it(made_with_python) -> None:
    assert not list((made_with_python.folder / "wheels").glob("stale*"))


def test_a_python_goes_into_a_bundle_where_uv_can_download_one(made_with_python) -> None:
    folder = made_with_python.folder
    assert "no Python" not in made_with_python.out
    assert (folder / "python" / "cpython.tar.gz").read_text() == "archive\n"
    assert (folder / "python" / "downloads.json").read_text() == "{}"
    assert "managed_python='cpython-3.11.9-linux'" in (folder / "settings").read_text()


def test_a_list_of_pythons_at_an_address_goes_into_a_bundle(make, tmp_path) -> None:
    content = b'{"listed": true}'

    class OneFile(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/list.json" else 404)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), OneFile) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        variables = {"TINY_PYTHON": "yes", "no_proxy": "127.0.0.1"}
        make(tmp_path / "a", ["vanilla"], UV_PYTHON_DOWNLOADS_JSON_URL=f"{address}/list.json", **variables)
        lost = make(tmp_path / "b", ["vanilla"], UV_PYTHON_DOWNLOADS_JSON_URL=f"{address}/other.json", **variables)
        server.shutdown()
    assert (tmp_path / "a" / "python" / "downloads.json").read_bytes() == content
    assert "no Python in the bundle" in lost
    assert "UV_PYTHON_DOWNLOADS_JSON_URL: 404 Client Error" in lost
    assert not (tmp_path / "b" / "python").exists()


def test_a_list_of_pythons_that_does_not_exist_is_named(make, tmp_path) -> None:
    out = make(tmp_path / "b", ["vanilla"], TINY_PYTHON="yes", UV_PYTHON_DOWNLOADS_JSON_URL=str(tmp_path / "none"))
    assert "UV_PYTHON_DOWNLOADS_JSON_URL: [Errno 2] No such file or directory" in out


def test_a_folder_that_exists_is_left_alone(bench, tmp_path) -> None:
    (tmp_path / "b").mkdir()
    done = bench("bundle", "b", "--data", "synthetic")
    assert (done.returncode, done.stderr) == (
        2,
        f"bench: {tmp_path / 'b'}: exists already; name another folder, or remove it\n",
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_a_disk_that_is_too_small_is_found_before_anything_is_downloaded(make, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000_000))
    with pytest.raises(UserError, match=r"0\.1 GB free, and the bundle needs 0\.2 GB more; free space there"):
        make(tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert not list(tmp_path.rglob("*.whl"))


def test_an_interrupted_bundle_goes_on_where_it_was(make, tmp_path, monkeypatch) -> None:
    download, calls = bundle.download, []

    def interrupt(uv, batch, *places):
        calls.append([each.name for each in batch])
        if len(calls) == 2:
            raise KeyboardInterrupt
        yield from download(uv, batch, *places)

    monkeypatch.setattr(bundle, "download", interrupt)
    monkeypatch.setattr(bundle, "batches", lambda wheels: [wheels[:3], wheels[3:]] if wheels else [])
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert len(list((tmp_path / "b.partial" / "wheels").iterdir())) == 3
    (tmp_path / "b.partial" / "wheels" / "torch-1.0-py3-none-any.whl").write_bytes(b"half")
    first = calls.pop(0)
    calls[:] = [[], []]
    make(tmp_path / "b")
    assert set(chain(*calls)) & set(first) <= {"torch"}
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_the_progress_is_told_in_few_steps(tmp_path, monkeypatch) -> None:
    listed = [
        Wheel(name, "1", f"https://i/{name}-1-py3-none-any.whl", "", size) for name, size in (("a", 700), ("b", 300))
    ]
    monkeypatch.setattr(bundle, "download", lambda *_: iter([5, 300, 305, 700, 0, 300]))
    steps = []
    download_wheels(tmp_path, Planned({}, listed), tmp_path, lambda weight, _: steps.append(weight))
    assert steps == [300, 400, 300]
    monkeypatch.setattr(bundle, "download", lambda *_: iter([]))
    download_wheels(tmp_path, Planned({}, listed), tmp_path, lambda weight, _: steps.append(weight))
    assert steps[3:] == [1000]


def test_two_processes_do_not_make_the_same_bundle(tmp_path) -> None:
    (tmp_path / "b.partial").mkdir()
    descriptor = os.open(tmp_path / "b.partial", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with (
        pytest.raises(UserError, match=r"b\.partial: another process makes this bundle"),
        partial_folder(tmp_path / "b"),
    ):
        pass
    os.close(descriptor)


def test_data_that_is_not_the_official_one_is_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "images.gz").write_text("other")
    monkeypatch.setattr(bundle, "SHA256", {"images.gz": "0" * 64})
    with pytest.raises(UserError, match=r"images\.gz: not the official file"):
        add_data(tmp_path, tmp_path / "b")
    monkeypatch.setattr(bundle, "SHA256", {"images.gz": tiny.digest(tmp_path / "images.gz")})
    add_data(tmp_path, tmp_path / "b")
    assert (tmp_path / "b" / "data" / "fashion-mnist" / "images.gz").read_text() == "other"
