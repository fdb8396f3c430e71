"""Model files: ours and Keras's. State dicts and OpenVINO IR are tested in the environments of their stacks."""

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.training.model_file import export_model, import_model, open_model
from models.errors import UserError
from models.h5 import read_h5, write_h5
from models.weights import checkpoint_path, initial_weights, save_weights
from models.zoo import CNN_BN, CNN_SAM, CNN_SMALL, NETWORKS


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_survive_the_keras_format(tmp_path, name) -> None:
    network = NETWORKS[name]
    weights = initial_weights(network, 3)
    write_h5(tmp_path / "w.h5", network, weights)
    loaded = read_h5(tmp_path / "w.h5", network)
    assert list(loaded) == list(weights)
    assert all(np.array_equal(loaded[name], array) for name, array in weights.items())
    assert [path.name for path in tmp_path.iterdir()] == ["w.h5"]


def test_the_weights_of_a_full_keras_model_are_read_whatever_the_names_of_its_layers(tmp_path) -> None:
    weights = initial_weights(CNN_SMALL, 3)
    write_h5(tmp_path / "w.h5", CNN_SMALL, weights)
    with h5py.File(tmp_path / "w.h5") as plain, h5py.File(tmp_path / "m.h5", "w") as whole:
        root = whole.create_group("model_weights")
        for key, value in plain.attrs.items():
            root.attrs[key] = value
        for name in plain:
            plain.copy(name, root)
        root.move("conv2d1", "my_conv")
        root.attrs["layer_names"] = [b"flatten", b"my_conv", b"conv2d2", b"dense1", b"dense2"]
        root.create_group("flatten").attrs["weight_names"] = np.array([], "S1")
    loaded = read_h5(tmp_path / "m.h5", CNN_SMALL)
    assert all(np.array_equal(loaded[name], array) for name, array in weights.items())


def test_weights_of_another_network_are_refused(tmp_path) -> None:
    write_h5(tmp_path / "w.h5", CNN_SMALL, initial_weights(CNN_SMALL, 3))
    with pytest.raises(UserError, match=r"does not fit cnn-bn: it holds \(3, 3, 1, 16\) where \(3, 3, 1, 32\)"):
        read_h5(tmp_path / "w.h5", CNN_BN)


@given(content=st.binary(max_size=200), cut=st.integers(0, 5000))
def test_other_files_are_refused_in_one_line(tmp_path_factory, content, cut) -> None:
    folder = tmp_path_factory.mktemp("h5")
    write_h5(folder / "w.h5", CNN_SMALL, initial_weights(CNN_SMALL, 3))
    (folder / "t.h5").write_bytes((folder / "w.h5").read_bytes()[:cut] + content)
    with pytest.raises(UserError) as error:
        read_h5(folder / "t.h5", CNN_SMALL)
    assert str(error.value).startswith(str(folder / "t.h5"))


@pytest.mark.parametrize("damage", [
    lambda file: file.attrs.__delitem__("layer_names"),
    lambda file: file.attrs.__setitem__("layer_names", 3),
    lambda file: file["conv2d1"].attrs.__setitem__("weight_names", [b"nowhere"]),
    lambda file: file["conv2d1"].attrs.__setitem__("weight_names", [b"conv2d1"]),
    lambda file: file.__delitem__("dense2"),
])  # fmt: skip
def test_a_file_of_another_structure_is_refused(tmp_path, damage) -> None:
    write_h5(tmp_path / "w.h5", CNN_SMALL, initial_weights(CNN_SMALL, 3))
    with h5py.File(tmp_path / "w.h5", "a") as file:
        damage(file)
    with pytest.raises(UserError):
        read_h5(tmp_path / "w.h5", CNN_SMALL)


def hostile(tmp_path, make):
    """Return a file of weights with one array replaced."""
    write_h5(tmp_path / "w.h5", CNN_SMALL, initial_weights(CNN_SMALL, 3))
    with h5py.File(tmp_path / "w.h5", "a") as file:
        layer = file["dense2"]
        del layer["dense2/bias:0"]
        make(layer["dense2"], "bias:0")
    return tmp_path / "w.h5"


@pytest.mark.parametrize("make", [
    lambda group, name: group.create_dataset(name, (10,), "f4", external=[("/etc/passwd", 0, 40)]),
    lambda group, name: group.__setitem__(name, h5py.ExternalLink("/etc/passwd", "x")),
    lambda group, name: group.__setitem__(name, h5py.SoftLink("/dense1/dense1/bias:0")),
    lambda group, name: group.create_dataset(name, (10,), "f4", maxshape=(None,), chunks=(2**20,), compression="gzip"),
    lambda group, name: group.create_virtual_dataset(name, virtual_layout()),
])  # fmt: skip
def test_external_linked_and_decompressing_arrays_are_not_read(tmp_path, make) -> None:
    with pytest.raises(UserError, match=r"not (in the file itself|stored as an array of its size)"):
        read_h5(hostile(tmp_path, make), CNN_SMALL)


def virtual_layout():
    """Return an array whose content is in another file."""
    layout = h5py.VirtualLayout((10,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (10,))
    return layout


def test_a_model_with_the_same_shapes_and_other_input_scaling_is_refused(tmp_path) -> None:
    facts = {"network": "cnn-sam", "spec": CNN_SAM.digest}
    save_weights(tmp_path / "w.safetensors", initial_weights(CNN_SAM, 0), facts)
    assert open_model(tmp_path / "w.safetensors").network == CNN_SAM
    with pytest.raises(UserError, match="was trained as cnn-sam, not as cnn-small"):
        open_model(tmp_path / "w.safetensors", "cnn-small")


def test_the_network_is_that_of_the_file_or_of_the_option(tmp_path) -> None:
    assert open_model(checkpoint_path(CNN_BN)).network == CNN_BN
    save_weights(tmp_path / "w.safetensors", initial_weights(CNN_SMALL, 0), {})
    with pytest.raises(UserError, match="may be of cnn-small or cnn-sam; name the model with --model"):
        open_model(tmp_path / "w.safetensors")
    assert open_model(tmp_path / "w.safetensors", "cnn-sam").network == CNN_SAM
    with pytest.raises(UserError, match="does not fit cnn-bn"):
        open_model(tmp_path / "w.safetensors", "cnn-bn")
    with pytest.raises(UserError, match=r"not there; name a \.safetensors file, or the folder of a finished training"):
        open_model(tmp_path)


def test_an_exported_model_can_be_imported_again(tmp_path) -> None:
    model = open_model(checkpoint_path(CNN_SMALL))
    export_model(model, tmp_path / "m.h5")
    import_model(tmp_path / "m.h5", CNN_SMALL, tmp_path / "m.safetensors")
    again = open_model(tmp_path / "m.safetensors")
    assert all(np.array_equal(again.weights[name], array) for name, array in model.weights.items())
    assert again.metadata["imported_from"] == "m.h5"


@pytest.mark.parametrize(("name", "reason"), [
    ("m.pkl", "allowed: files that end in .h5, .onnx, .pth, .safetensors or .xml"),
    ("nowhere/m.h5", "allowed: a file in a folder that exists"),
    ("m.pth", r"\.pth files need one of these: environment vanilla does not exist"),
    ("m.xml", r"\.xml files need one of these: environment openvino does not exist"),
])  # fmt: skip
def test_an_impossible_export_is_refused(tmp_path, monkeypatch, name, reason) -> None:
    monkeypatch.setenv("BENCH_ENVIRONMENTS_DIR", str(tmp_path))
    with pytest.raises(UserError, match=reason):
        export_model(open_model(checkpoint_path(CNN_SMALL)), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("file", "output", "reason"), [
    ("w.onnx", "o.safetensors", r"allowed: files that end in \.h5 or \.pth"),
    ("w.h5", "o.h5", r"allowed: a file that ends in \.safetensors"),
    ("nowhere.h5", "o.safetensors", "not there"),
])  # fmt: skip
def test_an_impossible_import_is_refused(tmp_path, file, output, reason) -> None:
    (tmp_path / "w.onnx").touch()
    (tmp_path / "w.h5").touch()
    with pytest.raises(UserError, match=reason):
        import_model(tmp_path / file, CNN_SMALL, tmp_path / output)
    assert not (tmp_path / output).exists()
