"""Files are known by their content. What holds no weights is refused with what it is and what to do."""

import json
import struct
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import UserError
from models.formats.keras import write_keras
from models.formats.kind import HDF5, KERAS_ARCHIVE, PYTORCH, SAFETENSORS, kind_of, largest_file_bytes
from models.weights import initial_weights, save_weights
from models.zoo import CNN_SMALL, CNN_VGG

WEIGHTS = initial_weights(CNN_SMALL, 3)


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"x")


@pytest.mark.parametrize("name", ["a.pth", "b.h5", "c.safetensors", "d.bin", "e"])
def test_the_name_of_a_file_does_not_matter(tmp_path, name) -> None:
    path = tmp_path / name
    save_weights(path, WEIGHTS, {})
    assert kind_of(path, CNN_SMALL) == SAFETENSORS
    write_keras(path, CNN_SMALL, WEIGHTS)
    assert kind_of(path, CNN_SMALL) == HDF5
    archive(path, "config.json", "metadata.json", "model.weights.h5")
    assert kind_of(path, CNN_SMALL) == KERAS_ARCHIVE
    archive(path, "archive/data.pkl", "archive/data/0")
    assert kind_of(path, CNN_SMALL) == PYTORCH
    path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    assert kind_of(path, CNN_SMALL) == PYTORCH


def test_a_safetensors_file_whose_header_has_the_length_of_a_pickles_first_byte_is_known(tmp_path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'.ljust(0x80)
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header)
    assert kind_of(tmp_path / "w", CNN_SMALL) == SAFETENSORS


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer.*git lfs pull"),
    (b"<!DOCTYPE html><html></html>", "a web page; download the file itself"),
    (b"\n\n<html>", "a web page"),
    (b"\x1f\x8b\x08", "compressed with gzip; unpack it"),
    (json.dumps({"weight_map": {"a": "1.safetensors"}}).encode(), "the index of a model in several files"),
    (b'{"epoch": 3}', "is JSON, without weights"),
    (b"[" * 100_000, "is JSON, without weights"),
    (b"\x00" * 100, "is of no known kind, or damaged; allowed: a safetensors file"),
    (b"PK\x03\x04", "is a damaged archive"),
])  # fmt: skip
def test_other_files_are_refused_with_what_they_are_and_what_to_do(tmp_path, content, reason) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as error:
        kind_of(path, CNN_SMALL)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("names", "reason"), [
    (("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"), r"a TorchScript module.*model\.state_dict\(\)"),
    (("config.json", "metadata.json"), "lacks model.weights.h5"),
    (("m/models/model.json",), "a program exported by PyTorch"),
    (("weight.npy",), "a zip archive without weights"),
])  # fmt: skip
def test_archives_without_tensors_are_refused(tmp_path, names, reason) -> None:
    archive(tmp_path / "m.pt", *names)
    with pytest.raises(UserError, match=reason):
        kind_of(tmp_path / "m.pt", CNN_SMALL)


def test_a_folder_and_a_missing_file_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="is a folder; allowed: a safetensors file"):
        kind_of(tmp_path, CNN_SMALL)
    with pytest.raises(UserError, match="not there"):
        kind_of(tmp_path / "nothing", CNN_SMALL)


def test_an_archive_that_would_fill_the_memory_is_refused_by_its_directory(tmp_path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("m/data/0", "w", force_zip64=True) as out:
        file_bytes = largest_file_bytes(CNN_SMALL)
        for _ in range(file_bytes // (1 << 20) + 1):
            out.write(b"\0" * (1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(
        UserError, match=r"its members have \d+,\d+,\d+ bytes when they are unpacked; allowed: 268,435,456"
    ):
        kind_of(path, CNN_SMALL)


def test_a_file_far_larger_than_any_checkpoint_of_the_network_is_refused(tmp_path) -> None:
    path = tmp_path / "llm.safetensors"
    header = b'{"a":{}}'
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(largest_file_bytes(CNN_SMALL) + 1)
    with pytest.raises(UserError, match="268,435,457 bytes; allowed for cnn-small: 268,435,456"):
        kind_of(path, CNN_SMALL)
    assert kind_of(path, CNN_VGG) == SAFETENSORS


@given(
    content=st.binary(max_size=300),
    beginning=st.sampled_from([b"", b"PK\x03\x04", b"{", b"\x89HDF\r\n\x1a\n", zlib.compress(b"x")]),
)
def test_any_content_has_a_kind_or_is_refused_in_one_line(tmp_path_factory, content, beginning) -> None:
    path = tmp_path_factory.mktemp("kind") / "w"
    path.write_bytes(beginning + content)
    try:
        outcome = kind_of(path, CNN_SMALL)
    except UserError as error:
        outcome = str(error)
    assert outcome in {SAFETENSORS, HDF5, KERAS_ARCHIVE, PYTORCH} or outcome.startswith(f"{path}: ")
    assert "\n" not in outcome
