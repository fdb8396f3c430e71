"""Files are read where a file system has no locks, or can't map files into memory."""

import errno
import fcntl
import os

import numpy as np
import pytest

from models import files
from models.formats.keras import open_keras, write_keras
from models.formats.kind import kind_of
from models.weights import WeightsError, load_arrays, read_metadata, save_weights
from models.zoo import CNN_SMALL


@pytest.fixture
def unmappable(monkeypatch):
    """Return a function that lets the file system refuse to map files, with this error."""

    def refuse(number):
        def fail(*_, **__):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(files.mmap, "mmap", fail)

    return refuse


@pytest.mark.parametrize("number", [errno.ENODEV, errno.EINVAL])
def test_a_file_that_can_not_be_mapped_is_read_from_a_copy(tmp_path, unmappable, number) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": np.ones(3, np.float32)}, {"network": "cnn"})
    unmappable(number)
    with files.mappable(path) as copy:
        assert copy.read_bytes() == path.read_bytes()
    assert copy != path
    assert not copy.exists()
    assert load_arrays(path)["a"].tolist() == [1, 1, 1]
    assert read_metadata(path) == {"network": "cnn"}


def test_other_files_are_read_themselves_and_their_errors_are_those_of_the_reader(tmp_path, unmappable) -> None:
    save_weights(tmp_path / "w.safetensors", {"a": np.ones(3, np.float32)}, {})
    (tmp_path / "empty.safetensors").touch()
    for name in ("w.safetensors", "empty.safetensors", "none.safetensors"):
        with files.mappable(tmp_path / name) as same:
            assert same == tmp_path / name
    for name in ("empty.safetensors", "none.safetensors"):
        with pytest.raises(WeightsError, match=name):
            load_arrays(tmp_path / name)
    unmappable(errno.EACCES)
    with files.mappable(tmp_path / "w.safetensors") as same:
        assert same == tmp_path / "w.safetensors"


def test_a_keras_file_needs_no_lock(tmp_path, trained) -> None:
    """HDF5 would refuse a file that another process has locked, and every file where locks are not supported."""
    path = tmp_path / "w.h5"
    write_keras(path, CNN_SMALL, trained)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with open_keras(path, kind_of(path, CNN_SMALL)) as contents:
            assert sum(map(len, contents.tables.values())) >= len(trained)
