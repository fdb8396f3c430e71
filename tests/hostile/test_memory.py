"""Small files that announce or unpack to much: refused before the memory is taken."""

import gzip
import json
import os
import struct
import zipfile

import pytest

from bench.codec import CodecError, read_json
from bench.journal import RUN
from bench.run_info import read_run
from models.errors import UserError
from models.formats.kind import kind_of
from models.idx import read_idx
from models.recipes.parse import load_recipe
from models.weights import load_arrays, read_metadata
from models.zoo import CNN_SMALL
from tests.hostile.fuzz import resident_bytes

MOST_BYTES = 100 << 20


def idx_bomb(path):
    # Half a gigabyte of zeros in half a megabyte, behind a header with the right sizes.
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(struct.pack(">4I", 0x803, 60_000, 28, 28))
        for _ in range(512):
            stream.write(bytes(1 << 20))


def idx_counts(path):
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1)))


def tensors_length(path):
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")


def tensors_header(path):
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", 90 << 20) + b"{")
        stream.truncate(100 << 20)


def tensors_shape(path):
    about = {"a": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 8]}}
    text = json.dumps(about).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))


def archive_bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a/data.pkl", b"x")
        with archive.open("a/data/0", "w", force_zip64=True) as member:
            for _ in range(512):
                member.write(bytes(1 << 20))


def archive_directory(path):
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(30_000):
            archive.writestr(f"a/data/{number}", b"")


def json_lists(path):
    path.write_bytes(b"[" + b"[]," * (10 << 20) + b"[]]")


def run_lists(path):
    path.mkdir()
    (path / RUN).write_bytes(b'{"schema":2,"arms":[' + b"{}," * (10 << 20) + b"{}]}")


def run_size(path):
    path.mkdir()
    with (path / RUN).open("wb") as stream:
        stream.truncate(1 << 30)


def toml_size(path):
    with path.open("wb") as stream:
        stream.truncate(1 << 30)


def index_of_parts(path):
    path.write_bytes(b"[" + b"[]," * (40 << 20) + b"[]]")


CASES = {
    idx_bomb: lambda path: read_idx(path, (60_000, 28, 28)),
    idx_counts: lambda path: read_idx(path, (60_000, 28, 28)),
    tensors_length: load_arrays,
    tensors_header: read_metadata,
    tensors_shape: load_arrays,
    archive_bomb: lambda path: kind_of(path, CNN_SMALL),
    archive_directory: lambda path: kind_of(path, CNN_SMALL),
    index_of_parts: lambda path: kind_of(path, CNN_SMALL),
    json_lists: lambda path: read_json(path.read_text()),
    run_lists: read_run,
    run_size: read_run,
    toml_size: lambda path: load_recipe(f"{path.parent}/{path.name}"),
}


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_a_file_that_would_fill_the_memory_is_refused(tmp_path, make) -> None:
    path = tmp_path / "file"
    make(path)
    # In a process of its own, whose peak is that of this file.
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            before = resident_bytes("VmRSS")
            # The peak so far is that of all earlier tests.
            with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123 - it must not be buffered by a path's reader
                file.write("5")
            try:
                CASES[make](path)
            except (UserError, CodecError):
                status = 0 if resident_bytes("VmHWM") - before < MOST_BYTES else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
