"""Keras's files, old and new: read by names, and without what is outside the file or larger than it says."""

import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import UserError
from models.formats.keras import open_keras, write_keras
from models.formats.kind import HDF5, KERAS_ARCHIVE
from models.formats.read import NOTHING_SAID, interpret
from models.weights import initial_weights
from models.zoo import CNN_BN, CNN_SMALL, NETWORKS
from tests.models.formats.samples import keras_config, random_weights, write_numbered


def read(path, network=CNN_SMALL, kind=HDF5, assumed=NOTHING_SAID):
    with open_keras(path, kind) as contents:
        return interpret(path, contents, network, assumed)


def assert_same(loaded, weights):
    assert list(loaded) == list(weights)
    assert all(np.array_equal(loaded[name], array) for name, array in weights.items())


@pytest.mark.parametrize("file", ["w.h5", "w.weights.h5"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_weights_survive_both_of_kerass_formats(tmp_path, network, file) -> None:
    weights = random_weights(network)
    write_keras(tmp_path / file, network, weights)
    assert_same(read(tmp_path / file, network).weights, weights)
    assert [path.name for path in tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("root", ["layers", "_layer_checkpoint_dependencies", "layers/sequential/layers"])
def test_files_with_numbered_variables_are_read(tmp_path, root) -> None:
    weights = random_weights()
    write_numbered(tmp_path / "w.h5", CNN_BN, weights, root)
    reading = read(tmp_path / "w.h5", CNN_BN)
    assert_same(reading.weights, weights)
    assert reading.notes[0] == "read 22 tensors, Keras layout; left out: optimizer"


def test_an_archive_is_read_with_its_description(tmp_path) -> None:
    weights = random_weights()
    write_numbered(tmp_path / "model.weights.h5", CNN_BN, weights)
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", keras_config(CNN_BN))
        archive.write(tmp_path / "model.weights.h5", "model.weights.h5")
    reading = read(tmp_path / "m.keras", CNN_BN, KERAS_ARCHIVE)
    assert_same(reading.weights, weights)
    assert any(note.startswith("the file states: flattened channels-last") for note in reading.notes)


def test_vectors_of_batch_normalisation_are_placed_by_their_names(tmp_path) -> None:
    weights = random_weights()
    write_keras(tmp_path / "w.h5", CNN_BN, weights)
    with h5py.File(tmp_path / "w.h5", "a") as file:
        for number in "123":
            names = file[f"batchnorm{number}"].attrs["weight_names"]
            file[f"batchnorm{number}"].attrs["weight_names"] = names[[2, 3, 0, 1]]
    assert_same(read(tmp_path / "w.h5", CNN_BN).weights, weights)


def test_the_weights_of_a_full_keras_model_are_read_whatever_the_names_of_its_layers(tmp_path) -> None:
    weights = random_weights(CNN_SMALL)
    write_keras(tmp_path / "w.h5", CNN_SMALL, weights)
    with h5py.File(tmp_path / "w.h5") as plain, h5py.File(tmp_path / "m.h5", "w") as whole:
        root = whole.create_group("model_weights")
        for key, value in plain.attrs.items():
            root.attrs[key] = value
        for name in plain:
            plain.copy(name, root)
        root.move("conv2d1", "my_conv")
        del root.attrs["layer_names"]
        # Keras divides a list that is too long for one attribute.
        root.attrs["layer_names0"] = [b"flatten", b"my_conv", b"conv2d2"]
        root.attrs["layer_names1"] = [b"dense1", b"dense2"]
        root.create_group("flatten").attrs["weight_names"] = np.array([], "S1")
        whole.create_group("optimizer_weights")
    reading = read(tmp_path / "m.h5")
    assert_same(reading.weights, weights)
    assert reading.notes[0].endswith("left out: optimizer_weights")


def test_bfloat16_is_read_as_keras_3_writes_it(tmp_path) -> None:
    weights = random_weights(CNN_SMALL)
    write_numbered(tmp_path / "w.h5", CNN_SMALL, weights)
    bias = weights["dense2.bias"]
    with h5py.File(tmp_path / "w.h5", "a") as file:
        group = file["layers/dense_1/vars"]
        del group["1"]
        stored = (bias.view(np.uint32) >> 16).astype(np.uint16).view("V2")
        group.create_dataset("1", data=stored).attrs["dtype"] = "bfloat16"
    loaded = read(tmp_path / "w.h5").weights["dense2.bias"]
    assert np.abs(loaded - bias).max() <= np.abs(bias).max() / 128


def test_weights_of_another_network_are_refused(tmp_path) -> None:
    write_keras(tmp_path / "w.h5", CNN_SMALL, initial_weights(CNN_SMALL, 3))
    with pytest.raises(UserError, match="does not fit cnn-bn: no layer of it has what conv2d1 needs"):
        read(tmp_path / "w.h5", CNN_BN)


@given(content=st.binary(max_size=200), cut=st.integers(0, 5000))
def test_damaged_files_are_refused_in_one_line(tmp_path_factory, content, cut) -> None:
    folder = tmp_path_factory.mktemp("h5")
    write_keras(folder / "w.h5", CNN_SMALL, initial_weights(CNN_SMALL, 3))
    (folder / "t.h5").write_bytes((folder / "w.h5").read_bytes()[:cut] + content)
    with pytest.raises(UserError) as error:
        read(folder / "t.h5")
    assert str(error.value).startswith(str(folder / "t.h5"))


@pytest.mark.parametrize("damage", [
    lambda file: file.attrs.__setitem__("layer_names", 3),
    lambda file: file["conv2d1"].attrs.__setitem__("weight_names", [b"nowhere"]),
    lambda file: file["conv2d1"].attrs.__setitem__("weight_names", [b"conv2d1"]),
    lambda file: file["conv2d1"].attrs.__delitem__("weight_names"),
    lambda file: file.__delitem__("dense2"),
    lambda file: file.attrs.__setitem__("model_config", b"{"),
    lambda file: file.attrs.__setitem__("model_config", b'{"config": {"layers": [3]}}'),
])  # fmt: skip
def test_a_file_of_another_structure_is_refused(tmp_path, damage) -> None:
    write_keras(tmp_path / "w.h5", CNN_SMALL, initial_weights(CNN_SMALL, 3))
    with h5py.File(tmp_path / "w.h5", "a") as file:
        damage(file)
    with pytest.raises(UserError, match=r"w\.h5: "):
        read(tmp_path / "w.h5")


def test_groups_that_contain_themselves_are_not_followed_for_ever(tmp_path) -> None:
    write_numbered(tmp_path / "w.h5", CNN_SMALL, initial_weights(CNN_SMALL, 3))
    with h5py.File(tmp_path / "w.h5", "a") as file:
        file["layers/dense/again"] = file["layers"]
    with pytest.raises(UserError, match="more than 20,000 objects"):
        read(tmp_path / "w.h5")


def virtual_layout():
    """Return an array whose content is in another file."""
    layout = h5py.VirtualLayout((10,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (10,))
    return layout


@pytest.mark.parametrize("make", [
    lambda group, name: group.create_dataset(name, (10,), "f4", external=[("/etc/passwd", 0, 40)]),
    lambda group, name: group.__setitem__(name, h5py.ExternalLink("/etc/passwd", "x")),
    lambda group, name: group.__setitem__(name, h5py.SoftLink("/dense1/dense1/bias:0")),
    lambda group, name: group.create_dataset(name, (10,), "f4", maxshape=(None,), chunks=(2**20,), compression="gzip"),
    lambda group, name: group.create_virtual_dataset(name, virtual_layout()),
])  # fmt: skip
@pytest.mark.parametrize(("file", "layer", "name"), [
    ("w.h5", "dense2/dense2", "bias:0"), ("w.weights.h5", "layers/dense_1/vars", "1")
])  # fmt: skip
def test_external_linked_and_decompressing_arrays_are_not_read(tmp_path, make, file, layer, name) -> None:
    write_keras(tmp_path / file, CNN_SMALL, initial_weights(CNN_SMALL, 3))
    with h5py.File(tmp_path / file, "a") as opened:
        del opened[layer][name]
        make(opened[layer], name)
    with pytest.raises(UserError, match=r"not (in the file itself|stored as an array of its size)"):
        read(tmp_path / file)
