"""What every stack that trains keeps: all trainings of one precision in one process, judged one by one."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from backends.registry import stacks
from models.spec import BatchNorm, Dropout
from models.weights import digest, load_weights, save_weights
from models.zoo import CNN_SMALL, NETWORKS
from tests.contract.conftest import lively_weights
from tests.models import gradient

# One step of plain gradient descent, at a rate at which every parameter moves visibly, against NumPy in float64: the
# norm of what a parameter is off by, over the norm of what it moves by. In the deep network fp32 decides some of the
# near-ties of ReLU and max-pooling otherwise; PyTorch in float64 agrees there to six digits.
TOLERANCE, RATE = {"cnn-small": 1e-3, "cnn-sam": 1e-3, "cnn-bn": 1e-3, "cnn-vgg": 5e-2}, 0.1
RHO, SHARP_TOLERANCE = 0.5, 5e-3
CODE = """\
import json, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from backends.protocol import TrainingSpec
from backends.registry import open_training, stacks
from models import zoo
from models.recipes import Recipe
from models.spec import Dropout
from models.weights import digest, load_arrays, load_weights, save_weights
stack, precision, wishes, folder = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), Path(sys.argv[4])

def begin(wish, weights):
    network = zoo.NETWORKS[wish["model"]]
    if not wish["dropout"]:
        layers = tuple(Dropout(0.0) if isinstance(each, Dropout) else each for each in network.layers)
        network = replace(network, layers=layers)
    how = wish["optimizer"], wish["rate"], wish["momentum"], wish["rho"]
    recipe = Recipe("r", "", wish["model"], 1, wish["size"], *how)
    variant = wish["variant"] or stacks()[stack].default_training
    return open_training(stack, 2, TrainingSpec(network, weights, variant, precision, recipe, 11))

def fulfil(key, wish):
    batch, report = np.load(folder / f"batch-{wish['size']}.npz"), {}
    images, labels = batch["images"], batch["labels"]
    train = lambda training, steps: [training.step(images, labels, wish["rate"]) for _ in range(steps)]
    training = begin(wish, load_weights(folder / f"{wish['model']}.safetensors", zoo.NETWORKS[wish["model"]]))
    report["losses"] = train(training, wish["steps"])
    save_weights(folder / f"{precision}-{key}.safetensors", training.weights(), {})
    report["digest"] = digest(training.weights())
    if wish["resume"]:
        save_weights(folder / "state.safetensors", training.state(), {})
        state, weights = load_arrays(folder / "state.safetensors"), training.weights()
        training.begin_epoch(5)
        report["went_on"] = train(training, 3)
        again = begin(wish, weights)
        again.restore(state)
        again.begin_epoch(5)
        report["resumed"] = train(again, 3)
    if wish["prove"]:
        logits = training.logits(images)
        report["logits"] = [str(logits.dtype), *logits.shape]
        report["proof"] = vars(training.prove(images, labels))
    return report

print(json.dumps({key: fulfil(key, wish) for key, wish in wishes.items()}))
"""
PLAIN = {
    "model": "cnn-small", "optimizer": "sgd", "rate": RATE, "momentum": 0.0, "rho": None, "steps": 1, "size": 8,
    "dropout": False, "variant": "", "resume": False, "prove": False,
}  # fmt: skip
LEARN = {"model": "cnn-bn", "optimizer": "adam", "rate": 3e-3, "steps": 40, "dropout": True, "size": 64}
RESUMED = {
    "plain": {"model": "cnn-bn", "rate": 1e-2, "steps": 5, "dropout": True, "size": 64},
    "adam": {"model": "cnn-bn", "optimizer": "adam", "rate": 1e-3, "steps": 5, "dropout": True, "size": 64},
    "sharp": {"model": "cnn-bn", "momentum": 0.9, "rate": 1e-2, "rho": 0.05, "steps": 5, "dropout": True, "size": 64},
}
MOMENTUM = {"model": "cnn-bn", "momentum": 0.9, "steps": 3}
WISHES = {
    "one": {},
    "proven": {"prove": True, "size": 16},
    "momentum-plain": MOMENTUM,
    "momentum-zero": MOMENTUM | {"rho": 0.0},
    **{f"resume-{name}": wish | {"resume": True} for name, wish in RESUMED.items()},
}
WISHES_FP32 = {
    **{f"step-{model}": {"model": model} for model in NETWORKS},
    **{f"none-{model}": {"model": model, "steps": 0} for model in NETWORKS},
    **{f"sharp-{model}": {"model": model, "rho": RHO} for model in ("cnn-sam", "cnn-bn")},
    "momentum": {"momentum": 0.9, "steps": 2},
    "learn": LEARN,
    "learn-again": LEARN,
}


def run(folder, stack, precision, wishes):
    """Fulfil wishes in one process; return what it reports of each."""
    random = np.random.default_rng(1)
    for size in (8, 16, 64):
        images = random.standard_normal((size, 28, 28, 1)).astype(np.float32)
        np.savez(folder / f"batch-{size}.npz", images=images, labels=random.integers(0, 10, size))
    for model, network in NETWORKS.items():
        save_weights(folder / f"{model}.safetensors", lively_weights(network), {})
    whole = {key: PLAIN | wish for key, wish in wishes.items()}
    names = {wish["variant"] for wish in whole.values()} - {""}
    own = {key: value for name in names for key, value in stacks()[stack].variants[name].settings.items()}
    call = [sys.executable, "-c", CODE, stack, precision, json.dumps(whole), str(folder)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=os.environ | own)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def trained(request, tmp_path_factory):
    """Return the folder and the reports of all trainings of a stack, by precision."""
    folder = tmp_path_factory.mktemp(request.param)
    found = {"fp32": run(folder, request.param, "fp32", WISHES | WISHES_FP32)}
    return request.param, folder, found | {"bf16": run(folder, request.param, "bf16", WISHES)}


def undropped(model):
    """Return a network without chances."""
    network = NETWORKS[model]
    layers = tuple(Dropout(0.0) if isinstance(each, Dropout) else each for each in network.layers)
    return replace(network, layers=layers)


def start(folder, model, size=8):
    """Return the network, the weights that a training began with, and its batch."""
    batch = np.load(folder / f"batch-{size}.npz")
    weights = load_weights(folder / f"{model}.safetensors", NETWORKS[model])
    return undropped(model), weights, batch["images"], batch["labels"]


def assert_step(folder, key, model, expected, tolerance):
    """Hold the weights after a training against NumPy's."""
    before = load_weights(folder / f"{model}.safetensors", NETWORKS[model])
    after = load_weights(folder / f"fp32-{key}.safetensors", NETWORKS[model])
    for name, wanted in expected.items():
        moved = np.linalg.norm(wanted - before[name])
        assert np.linalg.norm(after[name] - wanted) <= tolerance * moved, name
        assert moved > 0, name


@pytest.mark.parametrize("model", NETWORKS)
def test_one_step_is_the_one_that_numpy_takes(trained, model) -> None:
    """Loss, gradients of every layer, batch normalisation by the batch's statistics, and the running ones."""
    _, folder, reports = trained
    expected_loss, expected = gradient.sgd_step(*start(folder, model), RATE)
    assert reports["fp32"][f"step-{model}"]["losses"] == [pytest.approx(expected_loss, rel=1e-4)]
    assert_step(folder, f"step-{model}", model, expected, TOLERANCE[model])
    has_norm = any(isinstance(each, BatchNorm) for each in NETWORKS[model].layers)
    assert has_norm == any(name.endswith(".mean") for name in expected)


@pytest.mark.parametrize("model", ["cnn-sam", "cnn-bn"])
def test_one_sharpness_aware_step_is_the_one_that_numpy_takes(trained, model) -> None:
    """Two passes, the running statistics of the first, and not the plain step."""
    _, folder, _ = trained
    _, expected = gradient.sam_step(*start(folder, model), RATE, rho=RHO)
    assert_step(folder, f"sharp-{model}", model, expected, SHARP_TOLERANCE)
    with pytest.raises(AssertionError):
        assert_step(folder, f"sharp-{model}", model, gradient.sgd_step(*start(folder, model), RATE)[1], SHARP_TOLERANCE)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_radius_of_zero_is_the_optimiser_itself_bit_for_bit(trained, precision) -> None:
    stack, _, reports = trained
    if (stack, precision) == ("ipex", "bf16"):
        pytest.skip("without a radius the extension splits its weights, with one it does not")
    plain, zero = (reports[precision][f"momentum-{each}"] for each in ("plain", "zero"))
    assert (plain["digest"], plain["losses"]) == (zero["digest"], zero["losses"])


def test_momentum_is_that_of_the_formula(trained) -> None:
    """With v = 0.9 v + g and w = w - rate * v, over two steps."""
    _, folder, _ = trained
    _, before, *data = start(folder, "cnn-small")
    _, first = gradient.sgd_step(CNN_SMALL, before, *data, RATE)
    _, plain = gradient.sgd_step(CNN_SMALL, first, *data, RATE)
    expected = {name: plain[name] + 0.9 * (first[name] - before[name]) for name in plain}
    assert_step(folder, "momentum", "cnn-small", expected, 1e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", RESUMED)
def test_training_goes_on_from_what_was_stored(trained, precision, name) -> None:
    """With dropout; the same losses, whether the training goes on or another takes over."""
    found = trained[2][precision][f"resume-{name}"]
    assert found["resumed"] == pytest.approx(found["went_on"], rel=1e-4 if precision == "fp32" else 2e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_training_proves_what_it_ran(trained, precision) -> None:
    found = trained[2][precision]["proven"]
    assert (found["proof"]["precision"], found["proof"]["threads"]) == (precision, 2)
    assert found["proof"]["kernels"]
    assert found["logits"] == ["float32", 16, 10]


def test_the_other_ways_to_train_prove_what_they_ran_too(tmp_path, other_training) -> None:
    stack, variant, precision = other_training
    found = run(tmp_path, stack, precision, {"proven": {"prove": True, "size": 16, "variant": variant}})["proven"]
    assert found["proof"]["precision"] == precision


def test_bf16_is_not_fp32(trained) -> None:
    _, _, reports = trained
    assert reports["fp32"]["one"]["digest"] != reports["bf16"]["one"]["digest"]


def test_steps_lower_the_loss_and_a_seed_repeats_them(trained) -> None:
    """With Adam, and with dropout, whose chances follow from the seed."""
    first, again = (trained[2]["fp32"][each]["losses"] for each in ("learn", "learn-again"))
    assert first[-1] < 0.8 * first[0]
    assert first == pytest.approx(again, rel=1e-4)


def test_weights_survive_the_way_to_a_stack_and_back(trained) -> None:
    for model, network in NETWORKS.items():
        assert trained[2]["fp32"][f"none-{model}"]["digest"] == digest(lively_weights(network))


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
        "        from backends.tensorflow.layers import build_model\n"
        "        layers = {each.name: each.count_params() for each in build_model(network, weights).layers}\n"
        "    else:\n"
        "        from backends.pytorch.layers import build_module\n"
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
