"""Model files of the frameworks: they load what we write, and we read tensors but never run code."""

import collections
import importlib.util
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from backends.registry import read_contents, stacks, write_model
from bench.engine.workers import Worker
from bench.suite.arms import Arm
from bench.suite.variables import arm_variables
from bench.worker.messages import Build, Predict
from conftest import OWN_STACK
from models import oracle, synthetic
from models.data import standardise
from models.errors import UserError
from models.formats.keras import open_keras, write_keras
from models.formats.kind import HDF5, KERAS_ARCHIVE, PYTORCH, kind_of
from models.formats.read import NOTHING_SAID, interpret
from models.weights import save_weights
from models.zoo import CNN_BN, CNN_SMALL, NETWORKS
from tests.contract.conftest import TIMEOUT_S, in_process, nontrivial_weights

# What the first stacks of their environments can do; each framework is tested in a process of its own.
READS = stacks()[OWN_STACK].reads
KERAS_STACKS = [
    name
    for name, stack in stacks().items()
    if "tensorflow" in stack.modules and stack.environment == os.environ.get("TOX_ENV_NAME")
]
pytestmark = in_process
torch_only = pytest.mark.skipif(PYTORCH not in READS, reason="state dicts are PyTorch's")
keras_only = pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="needs Keras")


class Code:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.system, ("exit 3",)


class Settings:
    """An object beside the weights, as trainers store them."""

    def __init__(self) -> None:
        self.rate = np.float64(0.1)


def read(path, network):
    assert kind_of(path, network) == PYTORCH
    return interpret(path, read_contents(OWN_STACK, path), network, NOTHING_SAID)


def assert_same(loaded, weights):
    assert loaded.keys() == weights.keys()
    assert all(np.array_equal(loaded[name], array) for name, array in weights.items())


@pytest.fixture
def state(tmp_path):
    """Return the state dict of cnn-small."""
    import torch

    write_model(OWN_STACK, tmp_path / "state.pth", CNN_SMALL, nontrivial_weights(CNN_SMALL))
    return torch.load(tmp_path / "state.pth", weights_only=True)


@torch_only
@pytest.mark.parametrize("name", NETWORKS)
def test_a_written_state_dict_is_read_back_unchanged(tmp_path, name) -> None:
    weights = nontrivial_weights(NETWORKS[name])
    write_model(OWN_STACK, tmp_path / "w.pth", NETWORKS[name], weights)
    assert_same(read(tmp_path / "w.pth", NETWORKS[name]).weights, weights)


def with_prefix(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def with_numbers(state):
    """Name layers as torch.nn.Sequential does."""
    layers = {"conv2d1": 0, "conv2d2": 3, "dense1": 7, "dense2": 9}
    return {f"{layers[name.split('.')[0]]}.{name.split('.')[1]}": tensor for name, tensor in state.items()}


def with_counter(state):
    """Add a tensor with a single number."""
    return state | {"seen": next(iter(state.values())).flatten()[0].clone(), "step": 3}


@torch_only
@pytest.mark.parametrize(("save", "key", "left_out"), [
    (lambda state: {"epoch": 3, "model_state_dict": state, "loss": 0.1}, "model_state_dict, ", {"epoch", "loss"}),
    (lambda state: {"state_dict": with_prefix("model.", state), "callbacks": {}}, "state_dict, ", {"callbacks"}),
    (lambda state: {"run": {"net": with_prefix("module._orig_mod.", state)}}, "run.net, ", set()),
    (lambda state: {name: tensor.requires_grad_() for name, tensor in state.items()}, "", set()),
    (lambda state: dict(reversed(state.items())), "", set()),
    (with_numbers, "", set()),
    (with_counter, "", {"step", "seen"}),
    (lambda state: {"weights": state, "rest": Settings(), "best": np.float64(0.9)}, "weights, ", {"rest", "best"}),
], ids=["checkpoint", "lightning", "wrappers", "gradients", "reversed", "numbered", "counter", "objects"])  # fmt: skip
def test_checkpoints_are_read_and_the_rest_is_named(tmp_path, state, save, key, left_out) -> None:
    import torch

    torch.save(save(state), tmp_path / "c.ckpt")
    reading = read(tmp_path / "c.ckpt", CNN_SMALL)
    assert_same(reading.weights, nontrivial_weights(CNN_SMALL))
    taken, _, rest = reading.notes[0].partition("; left out: ")
    assert taken == f"read {key}8 tensors, PyTorch layout"
    assert set(rest.split(", ") if rest else ()) == left_out


@torch_only
def test_a_checkpoint_with_an_optimiser_is_read(tmp_path, state) -> None:
    import torch

    parameters = [torch.nn.Parameter(value) for value in state.values()]
    optimizer = torch.optim.Adam(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    saved = {name: value.clone() for name, value in state.items()}
    optimizer.step()
    torch.save({"optimizer": optimizer.state_dict(), "model": saved}, tmp_path / "c.pt")
    reading = read(tmp_path / "c.pt", CNN_SMALL)
    assert_same(reading.weights, nontrivial_weights(CNN_SMALL))
    assert reading.notes[0] == "read model, 8 tensors, PyTorch layout; left out: optimizer"


@torch_only
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_are_read_as_fp32(tmp_path, state, dtype, legacy) -> None:
    import torch

    converted = {name: value.to(getattr(torch, dtype)) for name, value in state.items()}
    torch.save(converted, tmp_path / "w.bin", _use_new_zipfile_serialization=not legacy)
    loaded = read(tmp_path / "w.bin", CNN_SMALL).weights
    for name, array in nontrivial_weights(CNN_SMALL).items():
        assert np.abs(loaded[name] - array).max() <= np.abs(array).max() / 128


@torch_only
@pytest.mark.parametrize(("change", "reason"), [
    (lambda value: value.to_sparse(), r"dense2\.weight is sparse or nested; .*to_dense"),
    (lambda value: value.to("meta"), r"dense2\.weight is on the meta device, so the file has no numbers"),
    (lambda value: value.char(), r"dense2\.weight is of type int8; allowed: fp32, bf16, fp16, fp64"),
    (lambda value: value.cfloat(), r"dense2\.weight is of type complex64"),
    (lambda value: value.expand(2**40, 10, 128)[0:0], "does not fit cnn-small"),
    (lambda value: value * float("nan"), r"dense2\.weight has 1,280 of 1,280 numbers that are not finite"),
])  # fmt: skip
def test_tensors_without_weights_are_refused_with_the_remedy(tmp_path, state, change, reason) -> None:
    import torch

    torch.save(state | {"dense2.weight": change(state["dense2.weight"])}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=reason) as error:
        read(tmp_path / "w.pth", CNN_SMALL)
    assert str(error.value).startswith(str(tmp_path / "w.pth"))


@torch_only
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_and_parametrised_layers_are_refused_with_the_remedy(tmp_path, state) -> None:
    import torch

    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(128, 10))
    others = {name: value for name, value in state.items() if not name.startswith("dense2")}
    torch.save(others | {f"dense2.{name}": value for name, value in layer.state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"dense2\.parametrizations.* is of weight normalisation"):
        read(tmp_path / "w.pth", CNN_SMALL)
    quantised = torch.quantize_per_tensor(state["dense2.weight"], 0.1, 0, torch.qint8)
    torch.save(state | {"dense2.weight": quantised}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: (dense2\.weight is quantised|can't be read as a file of tensors)"):
        read(tmp_path / "w.pth", CNN_SMALL)


@torch_only
def test_whole_modules_and_torchscript_are_refused_with_the_remedy(tmp_path) -> None:
    import torch

    module = torch.nn.Sequential(collections.OrderedDict(dense=torch.nn.Linear(3, 4)))
    torch.save(module, tmp_path / "m.pth")
    with pytest.raises(UserError, match=r"holds an object, torch\.nn\..*model\.state_dict\(\)"):
        read(tmp_path / "m.pth", CNN_SMALL)
    torch.save(module, tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"objects such as torch\.nn\..*model\.state_dict\(\)"):
        read(tmp_path / "m.pth", CNN_SMALL)


@torch_only
@pytest.mark.parametrize("content", ["code", "list", "numbers", "truncated", "empty", "of another network"])
def test_any_other_content_is_refused_and_never_executed(tmp_path, content) -> None:
    import torch

    path, weights = tmp_path / "w.pth", nontrivial_weights(CNN_SMALL)
    write_model(OWN_STACK, path, CNN_SMALL, weights)
    match content:
        case "code":
            path.write_bytes(pickle.dumps(Code()))
        case "list":
            torch.save([torch.zeros(3)], path)
        case "numbers":
            torch.save({"a": 3}, path)
        case "truncated":
            path.write_bytes(path.read_bytes()[:1000])
        case "empty":
            path.write_bytes(b"")
    network = CNN_BN if content == "of another network" else CNN_SMALL
    with pytest.raises(UserError) as error:
        read(path, network)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@torch_only
def test_code_beside_the_weights_is_left_out_and_never_executed(tmp_path, state) -> None:
    import torch

    class Touch:
        def __reduce__(self):
            return subprocess.call, (["touch", str(tmp_path / "ran")],)

    torch.save({"state_dict": state, "callback": Touch()}, tmp_path / "c.pth")
    assert_same(read(tmp_path / "c.pth", CNN_SMALL).weights, nontrivial_weights(CNN_SMALL))
    torch.save({"state_dict": state, "callback": Code()}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"objects such as posix\.system"):
        read(tmp_path / "c.pth", CNN_SMALL)
    assert not (tmp_path / "ran").exists()


def run_keras(code, *arguments):
    call = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


LOAD_AND_SAVE = """
import sys
from backends.tensorflow.layers import build_model
from models.weights import initial_weights
from models.zoo import NETWORKS
network, folder = NETWORKS[sys.argv[1]], sys.argv[2]
for name in ("ours.h5", "ours.weights.h5"):
    model = build_model(network, initial_weights(network, 9))
    model.load_weights(f"{folder}/{name}")
    model.save_weights(f"{folder}/their-{name.removeprefix('ours.').replace('.', '-')}.weights.h5")
model.save(f"{folder}/model.h5")
model.save(f"{folder}/model.keras")
"""


@keras_only
@pytest.mark.parametrize("name", ["cnn-small", "cnn-bn"])
def test_keras_loads_what_we_write_under_either_name_and_we_load_what_it_saves(tmp_path, name) -> None:
    network, weights = NETWORKS[name], nontrivial_weights(NETWORKS[name])
    for file in ("ours.h5", "ours.weights.h5"):
        write_keras(tmp_path / file, network, weights)
    run_keras(LOAD_AND_SAVE, name, tmp_path)
    theirs = {path.name for path in tmp_path.iterdir()} - {"ours.h5", "ours.weights.h5"}
    assert theirs == {"their-h5.weights.h5", "their-weights-h5.weights.h5", "model.h5", "model.keras"}
    for file in theirs:
        kind = kind_of(tmp_path / file, network)
        assert kind == (KERAS_ARCHIVE if file.endswith(".keras") else HDF5)
        with open_keras(tmp_path / file, kind) as contents:
            reading = interpret(tmp_path / file, contents, network, NOTHING_SAID)
        assert_same(reading.weights, weights)
        assert any("the file states" in note for note in reading.notes) == file.startswith("model.")


OTHER_MODEL = """
import sys
import numpy as np
import tensorflow as tf
k = tf.keras.layers
form = {"data_format": "channels_last"}
model = tf.keras.Sequential([
    tf.keras.Input((28, 28, 1)),
    k.Rescaling(1 / 127.5, -1.0),
    *[layer for filters in (32, 64, 128) for layer in (
        k.Conv2D(filters, 3, padding="same", **form), *([k.BatchNormalization(epsilon=0.01)] if filters != 64 else []),
        k.ReLU(), k.MaxPool2D(**form))],
    k.Flatten(**form), k.Dense(128), k.BatchNormalization(epsilon=0.01), k.Activation("relu"), k.Dropout(0.5),
    k.Dense(10, activation="softmax"),
])
random = np.random.default_rng(1)
def numbers(array):
    signs = random.choice([1, 1, 1, -1], array.shape) if array.ndim > 1 else 1
    return random.uniform(0.01, 0.1, array.shape) * signs
model.set_weights([numbers(array) for array in model.get_weights()])
images = random.integers(0, 256, (8, 28, 28)).astype(np.uint8)
np.savez(sys.argv[1] + "/truth.npz", images=images, probabilities=model(images[..., None].astype(np.float32)).numpy())
model.save(sys.argv[1] + "/m.keras")
model.save(sys.argv[1] + "/m.h5")
"""


@keras_only
@pytest.mark.parametrize("file", ["m.keras", "m.h5"])
def test_what_keras_describes_is_taken_into_account(tmp_path, file) -> None:
    """The model scales its pixels, has another epsilon, normalises before the activation, and ends in a softmax."""
    from dataclasses import replace

    run_keras(OTHER_MODEL, tmp_path)
    with open_keras(tmp_path / file, kind_of(tmp_path / file, CNN_BN)) as contents:
        reading = interpret(tmp_path / file, contents, CNN_BN, NOTHING_SAID)
    with np.load(tmp_path / "truth.npz") as truth:
        images, probabilities = truth["images"], truth["probabilities"]
    network = replace(CNN_BN, mean=reading.pixels[0], std=reading.pixels[1])
    logits = oracle.logits(network, reading.weights, standardise(network, images))
    ours = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.abs(ours / ours.sum(axis=1, keepdims=True) - probabilities).max() < 1e-3
    assert np.ptp(probabilities) > 0.01


@pytest.mark.skipif(not KERAS_STACKS, reason="needs a stack with Keras")
def test_the_users_settings_of_keras_do_not_matter(tmp_path, monkeypatch) -> None:
    (tmp_path / ".keras").mkdir()
    settings = '{"floatx": "float16", "image_data_format": "channels_first", "backend": "tensorflow", "epsilon": 0.1}'
    (tmp_path / ".keras/keras.json").write_text(settings)
    monkeypatch.setenv("HOME", str(tmp_path))
    weights, (images, _) = nontrivial_weights(CNN_BN), synthetic.draw(8, stream=5)
    save_weights(tmp_path / "w.safetensors", weights, {})
    np.save(tmp_path / "images.npy", images)
    stack = stacks()[KERAS_STACKS[0]]
    variant = stack.default_variant
    build = Build(
        case="c", stack=stack.name, variant=variant, model="cnn-bn", precision="fp32", batch_size=8, threads=1,
        cores=None, weights=str(tmp_path / "w.safetensors"), images=str(tmp_path / "images.npy"),
        calibration=str(tmp_path / "images.npy"),
    )  # fmt: skip
    variables = arm_variables(Arm(stack.name, variant), 1, tmp_path)
    with Worker(sys.executable, variables, tmp_path / "log", tmp_path) as worker:
        worker.wait_until_ready().request(build, TIMEOUT_S)
        worker.request(Predict("c", 8, str(tmp_path / "logits.npy")), TIMEOUT_S)
    expected = oracle.logits(CNN_BN, weights, standardise(CNN_BN, images))
    assert np.abs(np.load(tmp_path / "logits.npy") - expected).max() < 1e-3
    assert (tmp_path / ".keras/keras.json").read_text() == settings
