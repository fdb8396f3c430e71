"""Model files: ours and other tools'. State dicts and OpenVINO IR are tested in the environments of their stacks."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from bench.training import model_file
from bench.training.model_file import export_model, import_model, open_model
from models.errors import UserError
from models.formats.read import Assumptions
from models.weights import checkpoint_path, initial_weights, read_metadata, save_weights
from models.zoo import CNN_BN, CNN_SAM, CNN_SMALL
from tests.models.formats.samples import state_dict


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
    with pytest.raises(UserError, match="not there; name a model file, or the folder of a finished training"):
        open_model(tmp_path)


@pytest.mark.parametrize("file", ["m.h5", "m.weights.h5", "m.safetensors"])
def test_an_exported_model_can_be_imported_again(tmp_path, file) -> None:
    model = open_model(checkpoint_path(CNN_SMALL))
    export_model(model, tmp_path / file)
    # The content of a file counts, not its name.
    (tmp_path / file).rename(tmp_path / "exported.bin")
    import_model(tmp_path / "exported.bin", CNN_SMALL, tmp_path / "back.safetensors")
    again = open_model(tmp_path / "back.safetensors")
    assert all(np.array_equal(again.weights[name], array) for name, array in model.weights.items())
    assert again.metadata["imported_from"] == "exported.bin"


def test_another_tools_file_can_be_opened_where_the_model_is_named(tmp_path) -> None:
    model = open_model(checkpoint_path(CNN_SMALL))
    file = tmp_path / "model.safetensors"
    save_file({f"model.{name}": array for name, array in state_dict(CNN_SMALL, model.weights).items()}, file)
    opened = open_model(file, "cnn-small")
    assert all(np.array_equal(opened.weights[name], array) for name, array in model.weights.items())
    assert opened.notes[0] == "read 8 tensors, PyTorch layout"
    with pytest.raises(UserError, match=r"may be of none of the models; name the model with --model"):
        open_model(file)
    export_model(model, tmp_path / "m.h5")
    with pytest.raises(UserError, match=r"m\.h5: does not name its model; name it with --model: cnn-small, "):
        open_model(tmp_path / "m.h5")
    with pytest.raises(UserError, match="unknown model 'cnn'"):
        open_model(tmp_path / "m.h5", "cnn")


def test_names_in_a_file_reach_the_terminal_without_control_characters(tmp_path) -> None:
    arrays = state_dict(CNN_SMALL, initial_weights(CNN_SMALL, 0))
    save_file(arrays | {"a\x1b[31m\nb": np.array(3.0)}, tmp_path / "w")
    assert open_model(tmp_path / "w", "cnn-small").notes[0].endswith("left out: a?[31m?b")
    save_file({"a\x1b[31m\nb" * 10_000: np.ones(3)}, tmp_path / "w")
    with pytest.raises(UserError) as error:
        open_model(tmp_path / "w", "cnn-small")
    assert str(error.value).isprintable()
    assert len(str(error.value)) <= 1000


def test_the_scaling_of_pixels_stays_with_an_imported_model(tmp_path) -> None:
    export_model(open_model(checkpoint_path(CNN_SMALL)), tmp_path / "m.h5")
    output = tmp_path / "m.safetensors"
    imported = import_model(tmp_path / "m.h5", CNN_SMALL, output, Assumptions(pixels=(0.5, 0.25)))
    opened = open_model(output)
    assert opened.network == imported.network
    assert (opened.network.mean, opened.network.std) == (0.5, 0.25)
    opened.save(tmp_path / "for-workers.safetensors")
    assert read_metadata(tmp_path / "for-workers.safetensors") == {"pixels": "0.5,0.25"}


@pytest.mark.parametrize("text", ["", "1", "a,b", "1,2,3", "nan,1", "0,1e999", "0.5,0", "0.5,-1"])
def test_metadata_that_is_no_scaling_of_pixels_is_refused(tmp_path, text) -> None:
    save_weights(tmp_path / "w.safetensors", initial_weights(CNN_SMALL, 0), {"network": "cnn-small", "pixels": text})
    with pytest.raises(UserError, match=r"its metadata has 'pixels' .*, not a mean and a deviation"):
        open_model(tmp_path / "w.safetensors")


def test_our_own_files_with_numbers_that_are_not_finite_are_refused(tmp_path) -> None:
    weights = initial_weights(CNN_SMALL, 0)
    weights["dense1.bias"][3] = np.nan
    save_weights(tmp_path / "w.safetensors", weights, {"network": "cnn-small"})
    with pytest.raises(UserError, match=r"dense1\.bias has numbers that are not finite"):
        open_model(tmp_path / "w.safetensors")


def test_a_file_that_keeps_its_reader_busy_for_ever_is_given_up(tmp_path, monkeypatch) -> None:
    export_model(open_model(checkpoint_path(CNN_SMALL)), tmp_path / "m.h5")
    monkeypatch.setattr(model_file, "READ_TIMEOUT_S", 0)
    with pytest.raises(
        UserError, match=r"m\.h5: can't be read \(did not reply within 0 s .*\), so it is damaged; download"
    ):
        import_model(tmp_path / "m.h5", CNN_SMALL, tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


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
    ("w.onnx", "o.safetensors", "is empty; allowed: a safetensors file, a PyTorch state dict"),
    ("w.h5", "o.h5", r"allowed: a file that ends in \.safetensors"),
    ("w.h5", "nowhere/o.safetensors", "allowed: a file in a folder that exists"),
    ("nowhere.h5", "o.safetensors", "not there"),
    ("old.pth", "o.safetensors", r"old\.pth: PyTorch files need one of these: environment latest does not exist"),
])  # fmt: skip
def test_an_impossible_import_is_refused(tmp_path, monkeypatch, file, output, reason) -> None:
    monkeypatch.setenv("BENCH_ENVIRONMENTS_DIR", str(tmp_path))
    (tmp_path / "w.onnx").touch()
    (tmp_path / "w.h5").touch()
    (tmp_path / "old.pth").write_bytes(b"\x80\x02.")
    with pytest.raises(UserError, match=reason):
        import_model(tmp_path / file, CNN_SMALL, tmp_path / output)
    assert not (tmp_path / output).exists()


def test_the_command_says_what_it_took_and_the_accuracy_that_the_oracle_reaches(bench, tmp_path) -> None:
    export_model(open_model(checkpoint_path(CNN_SMALL)), tmp_path / "m.h5")
    arguments = ["import", "m.h5", "o.safetensors", "--model", "cnn-small"]
    done = bench(*arguments, "--data", "synthetic", BENCH_ENVIRONMENTS_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.replace("\n", " ")
    assert "m.h5: read 8 tensors, Keras layout" in lines
    assert "m.h5: not in the file, so assumed: flattened channels-last (--layout)" in lines
    assert "% on the first 1,000 test images of synthetic (oracle numpy)" in lines
    refused = bench(*arguments, "--layout", "NHWC")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_without_data_the_command_says_why_there_is_no_accuracy(bench, tmp_path) -> None:
    export_model(open_model(checkpoint_path(CNN_SMALL)), tmp_path / "m.h5")
    done = bench("import", "m.h5", "o.safetensors", "--model", "cnn-small", FASHION_MNIST_DIR="nowhere")
    assert done.returncode == 0, done.stderr
    assert "o.safetensors: written; no accuracy: FASHION_MNIST_DIR=nowhere: not a folder" in done.stdout.replace(
        "\n", " "
    )
    named = bench("import", "m.h5", "p.safetensors", "--model", "cnn-small", "--data", "nowhere")
    assert (named.returncode, named.stderr.startswith("bench: nowhere: not a folder")) == (2, True)
    assert not (tmp_path / "p.safetensors").exists()
