import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from bench.engine import files as module
from bench.engine.files import Source, calibration_images, conversion_key, convert, lay_out_images, needs_conversion
from bench.engine.workers import WorkerError
from bench.suite.arms import Arm
from bench.suite.environments import Environment
from bench.worker.messages import Convert, ConvertReply

LATENCY, INT8, BF16 = (Arm("openvino", "latency", precision) for precision in ("fp32", "int8", "bf16"))
VERSIONS = {"openvino": "1", "nncf": "1"}


@pytest.fixture
def conversions(tmp_path, monkeypatch):
    """Return a function that converts for an arm, and the requests that workers got; each takes longer than before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    requests = []

    class FakeWorker:
        def __init__(self, python, variables, log, cwd) -> None:
            assert variables["OMP_NUM_THREADS"] == "2"
            # Bound, it would leave one core to the threads of the libraries that convert.
            assert "OMP_PROC_BIND" not in variables

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def wait_until_ready(self):
            return self

        def request(self, request, timeout_s):
            requests.append(request)
            if request.weights.endswith("broken"):
                raise WorkerError("broken")
            return ConvertReply(len(requests))

    monkeypatch.setattr(module, "Worker", FakeWorker)
    (tmp_path / "calibration").write_bytes(b"images")

    def run(arm, weights="digest", file="weights", packages=VERSIONS, **given):
        source = Source("cnn-small", "spec", weights, tmp_path / file, tmp_path / "calibration")
        environment = Environment("openvino", tmp_path / "bin" / "python", "3.11", packages)
        return convert(arm, environment, source, 2, tmp_path / "log", tmp_path, given)

    return run, requests


def test_workers_read_the_test_images_and_the_calibration_images(few_images, tmp_path) -> None:
    lay_out_images(few_images, tmp_path)
    assert np.array_equal(np.load(tmp_path / module.IMAGES), few_images.test_images)
    calibration = np.load(tmp_path / module.CALIBRATION)
    assert np.array_equal(calibration, calibration_images(few_images))
    assert len(np.unique(calibration, axis=0)) == len(calibration) == 300


def test_only_some_variants_need_a_conversion() -> None:
    assert needs_conversion(LATENCY)
    assert not needs_conversion(Arm("oracle", "numpy"))


def test_bf16_starts_from_the_files_of_fp32_and_int8_from_its_own() -> None:
    assert conversion_key(BF16, "cnn-small") == conversion_key(LATENCY, "cnn-small")
    assert conversion_key(INT8, "cnn-small") != conversion_key(LATENCY, "cnn-small")
    assert conversion_key(LATENCY, "cnn-bn") != conversion_key(LATENCY, "cnn-small")


def test_a_conversion_runs_twice_and_the_second_time_counts(conversions) -> None:
    run, requests = conversions
    converted = run(LATENCY)
    assert (converted.convert_ns, converted.cached) == (2, False)
    assert len(requests) == 2
    assert isinstance(requests[0], Convert)
    assert (requests[0].variant, requests[0].precision) == ("latency", "fp32")
    again = run(BF16)
    assert (again.folder, again.convert_ns, again.cached) == (converted.folder, 2, True)
    assert len(requests) == 2


@pytest.mark.parametrize("change", [{"weights": "other"}, {"packages": VERSIONS | {"openvino": "2"}}, {"ODD": "other"}])
def test_other_weights_versions_or_variables_are_another_entry(conversions, change) -> None:
    run, _ = conversions
    assert run(LATENCY).folder != run(LATENCY, **change).folder


def test_a_failed_conversion_is_not_cached(conversions, tmp_path) -> None:
    run, _ = conversions
    with pytest.raises(WorkerError, match="broken"):
        run(LATENCY, file="broken")
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*"))


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Return the sizes that were announced and read, in order, of files with 5 to 30 bytes and more."""
    sizes = {"one.so": 30, "two.so.1": 20, "three.pyc": 10, "four.h": 5, "five.bin": 1}
    (tmp_path / "inner").mkdir()
    for name, size in sizes.items():
        (tmp_path / "inner" / name).write_bytes(b"x" * size)
    (tmp_path / "again.so").hardlink_to(tmp_path / "inner" / "one.so")
    (tmp_path / "gone.so").symlink_to(tmp_path / "nowhere")
    done = []
    monkeypatch.setattr(module, "SMALL_BYTES", 10)
    for name in ("_announce", "_read"):
        monkeypatch.setattr(module, name, lambda path, name=name: done.append((name, Path(path).stat().st_size)))
    monkeypatch.setattr(module, "_start_compiler", lambda _: None)
    monkeypatch.setattr(module.resources, "memory_available_bytes", lambda: 10**6)
    return done


def test_libraries_modules_and_headers_are_read_ahead_once_the_small_ones_in_the_background(tmp_path, read) -> None:
    module.read_ahead([tmp_path, tmp_path / "gone"], tmp_path)
    assert read[:2] == [("_announce", 5), ("_announce", 10)]
    assert sorted(read[2:]) == [("_read", 20), ("_read", 30)]


def test_the_largest_files_are_not_read_ahead_if_they_would_fill_the_memory(tmp_path, read, monkeypatch) -> None:
    monkeypatch.setattr(module.resources, "memory_available_bytes", lambda: 2 * 36)
    module.read_ahead([tmp_path], tmp_path)
    assert read == [("_announce", 5), ("_announce", 10), ("_read", 20)]


def test_a_file_is_read_to_its_end_and_one_that_is_gone_is_ignored(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "READ_BYTES", 4)
    (tmp_path / "a.so").write_bytes(b"0123456789")
    sent = []
    send = os.sendfile
    monkeypatch.setattr(os, "sendfile", lambda *arguments: sent.append(send(*arguments)) or sent[-1])
    module._read(tmp_path / "a.so")
    assert sent == [4, 4, 2, 0]
    module._read(tmp_path / "gone.so")


def test_the_kernel_is_told_which_small_file_is_needed_and_one_that_is_gone_is_ignored(tmp_path, monkeypatch) -> None:
    (tmp_path / "a.py").write_bytes(b"0123456789")
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: told.append(arguments[1:]))
    for name in ("a.py", "gone.py"):
        module._announce(tmp_path / name)
    assert told == [(0, 0, os.POSIX_FADV_WILLNEED)]


def test_the_compiler_is_started_if_there_is_one(tmp_path, monkeypatch) -> None:
    module._start_compiler(tmp_path)
    assert (tmp_path / "nothing.so").exists() == (shutil.which(os.environ.get("CXX", "g++")) is not None)
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    module._start_compiler(tmp_path)
