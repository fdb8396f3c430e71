"""What every stack that trains keeps; each step is taken in a process of its own, as sessions change theirs."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from backends.protocol import stacks
from conftest import lively_weights
from models import gradient
from models.spec import Dropout
from models.weights import digest, load_weights, save_weights
from models.zoo import CNN_SMALL, NETWORKS

# One step of plain gradient descent, at a rate at which every parameter moves visibly, against NumPy in float64: the
# norm of what a parameter is off by, over the norm of what it moves by. In the deep network fp32 decides some of the
# near-ties of ReLU and max-pooling otherwise; PyTorch in float64 agrees there to six digits.
TOLERANCE, RATE = {"cnn-small": 1e-3, "cnn-sam": 1e-3, "cnn-bn": 1e-3, "cnn-vgg": 5e-2}, 0.1
CODE = """\
import json, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from backends.protocol import Course, open_training, stacks
from models import zoo
from models.recipes import Recipe
from models.spec import Dropout
from models.weights import digest, load_weights, save_weights
stack, name, wish, folder = sys.argv[1:]
wish, folder, network = json.loads(wish), Path(folder), zoo.NETWORKS[name]
if not wish["dropout"]:
    layers = tuple(Dropout(0.0) if isinstance(each, Dropout) else each for each in network.layers)
    network = replace(network, layers=layers)
batch = np.load(folder / "batch.npz")
images, labels = batch["images"], batch["labels"]
recipe = Recipe("r", "", name, 1, len(labels), wish["optimizer"], wish["rate"], wish["momentum"], wish["rho"])
variant = wish["variant"] or next(iter(stacks()[stack].trainings))

def begin(weights):
    return open_training(stack, 2, Course(network, weights, variant, wish["precision"], recipe, 11))

def train(training, steps):
    return [training.step(images, labels, wish["rate"]) for _ in range(steps)]

training = begin(load_weights(folder / "before.safetensors", network))
losses, report = train(training, wish["steps"]), {}
save_weights(folder / "after.safetensors", training.weights(), {})
report["digest"] = digest(training.weights())
if wish["resume"]:
    state, weights = training.state(), training.weights()
    training.begin_epoch(5)
    report["went_on"] = train(training, 3)
    again = begin(weights)
    again.restore(state)
    again.begin_epoch(5)
    report["resumed"] = train(again, 3)
if wish["prove"]:
    report["proof"] = vars(training.prove(images, labels))
    logits = training.logits(images)
    report["logits"] = [str(logits.dtype), *logits.shape]
print(json.dumps(report | {"losses": losses}))
"""
PLAIN = {
    "optimizer": "sgd", "rate": RATE, "momentum": 0.0, "rho": None, "steps": 1, "dropout": False, "variant": "",
    "precision": "fp32", "resume": False, "prove": False,
}  # fmt: skip


def train(folder, stack, model, *, size=8, **wish):
    """Train on one random batch; return what the process reports."""
    random, weights = np.random.default_rng(1), lively_weights(NETWORKS[model])
    images = random.standard_normal((size, 28, 28, 1)).astype(np.float32)
    np.savez(folder / "batch.npz", images=images, labels=random.integers(0, 10, size))
    save_weights(folder / "before.safetensors", weights, {})
    wishes = PLAIN | wish
    own = stacks()[stack].variants[wishes["variant"] or next(iter(stacks()[stack].trainings))].settings
    call = [sys.executable, "-c", CODE, stack, model, json.dumps(wishes), str(folder)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=os.environ | own)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def undropped(model):
    """Return a network without chances."""
    layers = NETWORKS[model].layers
    return replace(
        NETWORKS[model], layers=tuple(Dropout(0.0) if isinstance(each, Dropout) else each for each in layers)
    )


def assert_step(folder, model, expected, tolerance):
    """Hold the weights after a step against NumPy's."""
    network = undropped(model)
    before = load_weights(folder / "before.safetensors", network)
    after = load_weights(folder / "after.safetensors", network)
    for name, wanted in expected.items():
        moved = np.linalg.norm(wanted - before[name])
        assert np.linalg.norm(after[name] - wanted) <= tolerance * moved, name
        assert moved > 0, name


@pytest.mark.parametrize("model", NETWORKS)
def test_one_step_is_the_one_that_numpy_takes(tmp_path, trainer, model) -> None:
    """Loss, gradients of every layer, batch normalisation by the batch's statistics, and the running ones."""
    (loss,) = train(tmp_path, trainer, model)["losses"]
    batch, before = np.load(tmp_path / "batch.npz"), load_weights(tmp_path / "before.safetensors", NETWORKS[model])
    data = before, batch["images"], batch["labels"], RATE
    expected_loss, expected = gradient.sgd_step(undropped(model), *data)
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    assert_step(tmp_path, model, expected, TOLERANCE[model])


@pytest.mark.parametrize("model", ["cnn-sam", "cnn-bn"])
def test_one_sharpness_aware_step_is_the_one_that_numpy_takes(tmp_path, trainer, model) -> None:
    """Two passes, the running statistics of the first, and not the plain step."""
    train(tmp_path, trainer, model, rho=0.5)
    batch, before = np.load(tmp_path / "batch.npz"), load_weights(tmp_path / "before.safetensors", NETWORKS[model])
    data = before, batch["images"], batch["labels"], RATE
    _, expected = gradient.sam_step(undropped(model), *data, rho=0.5)
    assert_step(tmp_path, model, expected, 5e-3)
    with pytest.raises(AssertionError):
        assert_step(tmp_path, model, gradient.sgd_step(undropped(model), *data)[1], 5e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_radius_of_zero_is_the_optimiser_itself_bit_for_bit(tmp_path, trainer, precision) -> None:
    if precision == "bf16" and trainer == "ipex":
        pytest.skip("without a radius the extension splits its weights, with one it does not")
    optimizer = {"momentum": 0.9, "steps": 3, "precision": precision}
    plain, zero = (train(tmp_path, trainer, "cnn-bn", rho=rho, **optimizer) for rho in (None, 0.0))
    assert (plain["digest"], plain["losses"]) == (zero["digest"], zero["losses"])


def test_momentum_is_that_of_the_formula(tmp_path, trainer) -> None:
    """With v = 0.9 v + g and w = w - rate * v, over two steps."""
    train(tmp_path, trainer, "cnn-small", momentum=0.9, steps=2)
    batch, before = (
        np.load(tmp_path / "batch.npz"),
        load_weights(tmp_path / "before.safetensors", CNN_SMALL),
    )
    data = batch["images"], batch["labels"]
    _, first = gradient.sgd_step(CNN_SMALL, before, *data, RATE)
    _, plain = gradient.sgd_step(CNN_SMALL, first, *data, RATE)
    expected = {name: plain[name] + 0.9 * (first[name] - before[name]) for name in plain}
    assert_step(tmp_path, "cnn-small", expected, 1e-2)


@pytest.mark.parametrize("wish", [
    {"optimizer": "adam", "rate": 1e-3},
    {"optimizer": "adam", "rate": 1e-3, "precision": "bf16"},
    {"momentum": 0.9, "rate": 1e-2, "rho": 0.05},
    {"momentum": 0.9, "rate": 1e-2, "rho": 0.05, "precision": "bf16"},
], ids=lambda wish: "-".join(map(str, wish.values())))  # fmt: skip
def test_training_goes_on_from_what_was_stored(tmp_path, trainer, wish) -> None:
    """With dropout; the same losses, whether the process goes on or another takes over."""
    found = train(tmp_path, trainer, "cnn-bn", steps=5, dropout=True, resume=True, size=64, **wish)
    assert found["resumed"] == pytest.approx(found["went_on"], rel=2e-2 if wish.get("precision") else 1e-4)


def test_every_training_proves_what_it_ran(tmp_path, training_use) -> None:
    stack, variant, precision = training_use
    found = train(tmp_path, stack, "cnn-small", variant=variant, precision=precision, prove=True, size=16)
    assert found["proof"]["precision"] == precision
    assert found["proof"]["threads"] == 2
    assert found["proof"]["kernels"]
    assert found["logits"] == ["float32", 16, 10]


def test_bf16_is_not_fp32(tmp_path, trainer) -> None:
    digests = {train(tmp_path, trainer, "cnn-small", precision=each)["digest"] for each in ("fp32", "bf16")}
    assert len(digests) == 2


def test_steps_lower_the_loss_and_a_seed_repeats_them(tmp_path, trainer) -> None:
    """With Adam, and with dropout, whose chances follow from the seed."""
    wish = {"optimizer": "adam", "rate": 3e-3, "steps": 40, "dropout": True, "size": 64}
    first, again = (train(tmp_path, trainer, "cnn-bn", **wish)["losses"] for _ in range(2))
    assert first[-1] < 0.8 * first[0]
    assert first == pytest.approx(again, rel=1e-4)


def test_weights_survive_the_way_to_a_stack_and_back(tmp_path, trainer) -> None:
    for model, network in NETWORKS.items():
        assert train(tmp_path, trainer, model, steps=0)["digest"] == digest(lively_weights(network))


def test_a_training_that_is_not_there_is_refused(tmp_path, trainer) -> None:
    with pytest.raises(AssertionError, match="has no training train at int8"):
        train(tmp_path, trainer, "cnn-small", precision="int8")


def test_layers_have_the_declared_parameters(trainer) -> None:
    """Ask the framework's own count, the running statistics of batch normalisation included."""
    code = (
        "import json, sys\n"
        "from models.zoo import NETWORKS\n"
        "from models.weights import initial_weights\n"
        "found = {}\n"
        "for name, network in NETWORKS.items():\n"
        "    weights = initial_weights(network, 0)\n"
        "    if sys.argv[1].startswith(('tensorflow', 'itex')):\n"
        "        from backends.tensorflow_models import build_model\n"
        "        layers = {each.name: each.count_params() for each in build_model(network, weights).layers}\n"
        "    else:\n"
        "        from backends.pytorch_modules import build_module\n"
        "        layers = {key: sum(tensor.numel() for tensor in child.state_dict().values() if tensor.ndim)\n"
        "                  for key, child in build_module(network, weights).named_children()}\n"
        "    found[name] = {key: count for key, count in layers.items() if count}\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, trainer], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {
        name: {layer.name: layer.parameters for layer in network.place() if layer.parameters}
        for name, network in NETWORKS.items()
    }
