"""What holds for every stack that trains; one process runs all trainings of one precision."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from backends.registry import stacks
from models.spec import BatchNorm, Dropout
from models.weights import digest, load_weights, save_weights
from models.zoo import CNN_SMALL, NETWORKS
from tests.contract.conftest import nontrivial_weights
from tests.models import gradient

# The tolerated error of one plain gradient step, compared with NumPy in float64: the norm of a parameter's error over
# the norm of its change, at a rate that changes every parameter clearly. In the deep networks fp32 decides some
# near-ties of ReLU and max-pooling differently; PyTorch in float64 agrees with NumPy to six digits there.
TOLERANCE = {"cnn-small": 1e-3, "cnn-sam": 1e-3, "cnn-bn": 1e-3, "cnn-vgg": 5e-2, "cnn-fast": 5e-2}
RATE = 0.1
RHO, SHARP_TOLERANCE = 0.5, 5e-3
SMOOTHING, DECAY = 0.3, 0.5
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
stack, precision, trials, folder = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), Path(sys.argv[4])

def begin(trial, weights):
    network = zoo.NETWORKS[trial["model"]]
    if not trial["dropout"]:
        layers = tuple(Dropout(0.0) if isinstance(layer, Dropout) else layer for layer in network.layers)
        network = replace(network, layers=layers)
    options = {name: trial[name] for name in ("momentum", "nesterov", "weight_decay", "label_smoothing", "rho")}
    recipe = Recipe("r", "", trial["model"], 1, trial["size"], trial["optimizer"], trial["rate"], **options)
    variant = trial["variant"] or stacks()[stack].default_training
    return open_training(stack, 2, TrainingSpec(network, weights, variant, precision, recipe, 11))

def run(key, trial):
    batch, report = np.load(folder / f"batch-{trial['size']}.npz"), {}
    images, labels = batch["images"], batch["labels"]
    train = lambda training, steps: [training.step(images, labels, trial["rate"]) for _ in range(steps)]
    training = begin(trial, load_weights(folder / f"{trial['model']}.safetensors", zoo.NETWORKS[trial["model"]]))
    report["losses"] = train(training, trial["steps"])
    save_weights(folder / f"{precision}-{key}.safetensors", training.weights(), {})
    report["digest"] = digest(training.weights())
    if trial["resume"]:
        save_weights(folder / "state.safetensors", training.state(), {})
        state, weights = load_arrays(folder / "state.safetensors"), training.weights()
        training.begin_epoch(5)
        report["continued"] = train(training, 3)
        other = begin(trial, weights)
        other.restore(state)
        other.begin_epoch(5)
        report["resumed"] = train(other, 3)
    if trial["prove"]:
        logits = training.logits(images)
        report["logits"] = [str(logits.dtype), *logits.shape]
        report["proof"] = vars(training.prove(images, labels))
    return report

print(json.dumps({key: run(key, trial) for key, trial in trials.items()}))
"""
PLAIN = {
    "model": "cnn-small", "optimizer": "sgd", "rate": RATE, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0,
    "label_smoothing": 0.0, "rho": None, "steps": 1, "size": 8, "dropout": False, "variant": None, "resume": False,
    "prove": False,
}  # fmt: skip
LEARN = {"model": "cnn-bn", "optimizer": "adam", "rate": 3e-3, "steps": 40, "dropout": True, "size": 64}
RESUMED = {
    "plain": {"model": "cnn-bn", "rate": 1e-2, "steps": 5, "dropout": True, "size": 64},
    "adam": {"model": "cnn-bn", "optimizer": "adam", "rate": 1e-3, "steps": 5, "dropout": True, "size": 64},
    "sharp": {"model": "cnn-bn", "momentum": 0.9, "rate": 1e-2, "rho": 0.05, "steps": 5, "dropout": True, "size": 64},
}
MOMENTUM = {"model": "cnn-bn", "momentum": 0.9, "steps": 3}
TRIALS = {
    "one": {},
    "proven": {"prove": True, "size": 16},
    "momentum-plain": MOMENTUM,
    "momentum-zero": MOMENTUM | {"rho": 0.0},
    **{f"resume-{name}": trial | {"resume": True} for name, trial in RESUMED.items()},
}
FP32_TRIALS = {
    **{f"step-{model}": {"model": model} for model in NETWORKS},
    **{f"none-{model}": {"model": model, "steps": 0} for model in NETWORKS},
    **{f"sharp-{model}": {"model": model, "rho": RHO} for model in ("cnn-sam", "cnn-bn")},
    "momentum": {"momentum": 0.9, "steps": 2},
    "nesterov": {"momentum": 0.9, "nesterov": True, "steps": 2},
    "smoothed": {"label_smoothing": SMOOTHING},
    "decayed": {"weight_decay": DECAY},
    "learn": LEARN,
    "learn-again": LEARN,
}


def run(folder, stack, precision, trials):
    """Run trials in one process; return its report of each."""
    random = np.random.default_rng(1)
    for size in (8, 16, 64):
        images = random.standard_normal((size, 28, 28, 1)).astype(np.float32)
        np.savez(folder / f"batch-{size}.npz", images=images, labels=random.integers(0, 10, size))
    for model, network in NETWORKS.items():
        save_weights(folder / f"{model}.safetensors", nontrivial_weights(network), {})
    complete = {key: PLAIN | trial for key, trial in trials.items()}
    names = {trial["variant"] for trial in complete.values()} - {None}
    own = {key: value for name in names for key, value in stacks()[stack].variants[name].settings.items()}
    call = [sys.executable, "-c", CODE, stack, precision, json.dumps(complete), str(folder)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=os.environ | own)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def trained(request, tmp_path_factory):
    """Return the stack, its folder, and the reports of all its trials by precision."""
    folder = tmp_path_factory.mktemp(request.param)
    reports = {"fp32": run(folder, request.param, "fp32", TRIALS | FP32_TRIALS)}
    return request.param, folder, reports | {"bf16": run(folder, request.param, "bf16", TRIALS)}


def without_dropout(model):
    network = NETWORKS[model]
    layers = tuple(Dropout(0.0) if isinstance(layer, Dropout) else layer for layer in network.layers)
    return replace(network, layers=layers)


def start(folder, model, size=8):
    """Return the network, the initial weights and the batch of a trial."""
    batch = np.load(folder / f"batch-{size}.npz")
    weights = load_weights(folder / f"{model}.safetensors", NETWORKS[model])
    return without_dropout(model), weights, batch["images"], batch["labels"]


def biases_without_effect(model):
    """Return the biases that a normalisation subtracts again: only rounding errors change them."""
    layers = [layer for layer in NETWORKS[model].place() if layer.kind != "MaxPool2d"]
    kinds = ("Conv2d", "BatchNorm")
    return {f"{layer.name}.bias" for layer, after in pairwise(layers) if (layer.kind, after.kind) == kinds}


def assert_step(folder, key, model, expected, tolerance):
    """Compare the weights after a trial with NumPy's."""
    before = load_weights(folder / f"{model}.safetensors", NETWORKS[model])
    after = load_weights(folder / f"fp32-{key}.safetensors", NETWORKS[model])
    for name in biases_without_effect(model):
        np.testing.assert_allclose(after[name], before[name], atol=1e-5)
    for name in expected.keys() - biases_without_effect(model):
        array, change = expected[name], np.linalg.norm(expected[name] - before[name])
        assert np.linalg.norm(after[name] - array) <= tolerance * change, name
        assert change > 0, name


@pytest.mark.parametrize("model", NETWORKS)
def test_one_step_agrees_with_numpy(trained, model) -> None:
    """Covers the loss, the gradients of every layer, and the batch and running statistics of batch normalisation."""
    _, folder, reports = trained
    expected_loss, expected = gradient.sgd_step(*start(folder, model), RATE)
    assert reports["fp32"][f"step-{model}"]["losses"] == [pytest.approx(expected_loss, rel=1e-4)]
    assert_step(folder, f"step-{model}", model, expected, TOLERANCE[model])
    has_norm = any(isinstance(layer, BatchNorm) for layer in NETWORKS[model].layers)
    assert has_norm == any(name.endswith(".mean") for name in expected)


@pytest.mark.parametrize("model", ["cnn-sam", "cnn-bn"])
def test_one_sharpness_aware_step_agrees_with_numpy(trained, model) -> None:
    """It takes two passes, keeps the running statistics of the first, and differs from the plain step."""
    _, folder, _ = trained
    _, expected = gradient.sam_step(*start(folder, model), RATE, rho=RHO)
    assert_step(folder, f"sharp-{model}", model, expected, SHARP_TOLERANCE)
    with pytest.raises(AssertionError):
        assert_step(folder, f"sharp-{model}", model, gradient.sgd_step(*start(folder, model), RATE)[1], SHARP_TOLERANCE)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_radius_of_zero_equals_the_plain_optimiser_bit_for_bit(trained, precision) -> None:
    stack, _, reports = trained
    if (stack, precision) == ("ipex", "bf16"):
        pytest.skip("the extension splits its weights only without a radius")
    plain, zero = (reports[precision][f"momentum-{name}"] for name in ("plain", "zero"))
    assert (plain["digest"], plain["losses"]) == (zero["digest"], zero["losses"])


def test_momentum_follows_its_formula(trained) -> None:
    """Two steps of v = 0.9 v + g and w = w - rate * v."""
    _, folder, _ = trained
    _, before, *data = start(folder, "cnn-small")
    _, first = gradient.sgd_step(CNN_SMALL, before, *data, RATE)
    _, plain = gradient.sgd_step(CNN_SMALL, first, *data, RATE)
    expected = {name: plain[name] + 0.9 * (first[name] - before[name]) for name in plain}
    assert_step(folder, "momentum", "cnn-small", expected, 1e-2)


def test_nesterov_momentum_follows_its_formula(trained) -> None:
    """Two steps of v = 0.9 v + g and w = w - rate * (g + 0.9 v)."""
    _, folder, _ = trained
    _, before, *data = start(folder, "cnn-small")
    _, plain = gradient.sgd_step(CNN_SMALL, before, *data, RATE)
    velocity = {name: before[name] - plain[name] for name in plain}
    first = {name: before[name] - 1.9 * velocity[name] for name in plain}
    _, plain = gradient.sgd_step(CNN_SMALL, first, *data, RATE)
    expected = {name: first[name] - 1.9 * (first[name] - plain[name]) - 0.81 * velocity[name] for name in plain}
    assert_step(folder, "nesterov", "cnn-small", expected, 1e-2)


def test_a_step_with_smoothed_labels_agrees_with_numpy(trained) -> None:
    _, folder, reports = trained
    loss, expected = gradient.sgd_step(*start(folder, "cnn-small"), RATE, label_smoothing=SMOOTHING)
    assert reports["fp32"]["smoothed"]["losses"] == [pytest.approx(loss, rel=1e-4)]
    assert_step(folder, "smoothed", "cnn-small", expected, TOLERANCE["cnn-small"])


def test_weight_decay_adds_the_weights_to_the_gradient(trained) -> None:
    _, folder, reports = trained
    _, before, *data = start(folder, "cnn-small")
    loss, plain = gradient.sgd_step(CNN_SMALL, before, *data, RATE)
    assert reports["fp32"]["decayed"]["losses"] == [pytest.approx(loss, rel=1e-4)]
    expected = {name: plain[name] - RATE * DECAY * before[name] for name in plain}
    assert_step(folder, "decayed", "cnn-small", expected, TOLERANCE["cnn-small"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", RESUMED)
def test_training_resumes_from_a_saved_state(trained, precision, name) -> None:
    """With dropout, a resumed training has the same losses as one that continues."""
    reports = trained[2][precision][f"resume-{name}"]
    assert reports["resumed"] == pytest.approx(reports["continued"], rel=1e-4 if precision == "fp32" else 2e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_training_proves_its_precision_threads_and_kernels(trained, precision) -> None:
    report = trained[2][precision]["proven"]
    assert (report["proof"]["precision"], report["proof"]["threads"]) == (precision, 2)
    assert report["proof"]["kernels"]
    assert report["logits"] == ["float32", 16, 10]


def test_other_training_variants_prove_their_precision(tmp_path, other_training) -> None:
    stack, variant, precision = other_training
    report = run(tmp_path, stack, precision, {"proven": {"prove": True, "size": 16, "variant": variant}})["proven"]
    assert report["proof"]["precision"] == precision


def test_bf16_and_fp32_give_different_weights(trained) -> None:
    _, _, reports = trained
    assert reports["fp32"]["one"]["digest"] != reports["bf16"]["one"]["digest"]


def test_training_lowers_the_loss_and_a_seed_reproduces_it(trained) -> None:
    """With Adam, and with dropout, which depends on the seed."""
    first, again = (trained[2]["fp32"][name]["losses"] for name in ("learn", "learn-again"))
    assert first[-1] < 0.8 * first[0]
    assert first == pytest.approx(again, rel=1e-4)


def test_weights_are_unchanged_after_loading_into_a_stack_and_back(trained) -> None:
    for model, network in NETWORKS.items():
        assert trained[2]["fp32"][f"none-{model}"]["digest"] == digest(nontrivial_weights(network))


def test_layers_have_the_declared_parameters(trainer) -> None:
    """Compare with the framework's own count, which includes the running statistics of batch normalisation."""
    code = (
        "import json, sys\n"
        "from models.zoo import NETWORKS\n"
        "from models.weights import initial_weights\n"
        "counts = {}\n"
        "for name, network in NETWORKS.items():\n"
        "    weights = initial_weights(network, 0)\n"
        "    if sys.argv[1].startswith(('tensorflow', 'itex')):\n"
        "        from backends.tensorflow.layers import build_model\n"
        "        layers = {layer.name: layer.count_params() for layer in build_model(network, weights).layers}\n"
        "    else:\n"
        "        from backends.pytorch.layers import build_module\n"
        "        layers = {key: sum(tensor.numel() for tensor in child.state_dict().values() if tensor.ndim)\n"
        "                  for key, child in build_module(network, weights).named_children()}\n"
        "    counts[name] = {key: count for key, count in layers.items() if count}\n"
        "print(json.dumps(counts))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, trainer], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {
        name: {layer.name: layer.parameters for layer in network.place() if layer.parameters}
        for name, network in NETWORKS.items()
    }
