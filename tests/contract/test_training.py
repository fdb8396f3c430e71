"""What every stack that trains keeps; each step is taken in a process of its own, as sessions change theirs."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from conftest import lively_weights
from models import gradient
from models.spec import BatchNorm, Dropout
from models.weights import digest, load_weights, save_weights
from models.zoo import NETWORKS

# One step of plain gradient descent, at a rate at which every parameter moves visibly, against NumPy in float64: the
# norm of what a parameter is off by, over the norm of what it moves by. In the deep network fp32 decides some of the
# near-ties of ReLU and max-pooling otherwise; PyTorch in float64 agrees there to six digits.
TOLERANCE, RATE = {"cnn-small": 1e-3, "cnn-bn": 1e-3, "cnn-vgg": 5e-2}, 0.1
CODE = """\
import json, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from backends.protocol import open_backend
from models import zoo
from models.recipes import ADAM
from models.spec import Dropout
from models.weights import digest, load_weights, save_weights
stack, name, optimizer, rate, steps, dropout, folder = sys.argv[1:]
folder, network = Path(folder), zoo.NETWORKS[name]
if dropout == "no":
    layers = tuple(Dropout(0.0) if isinstance(each, Dropout) else each for each in network.layers)
    network = replace(network, layers=layers)
batch = np.load(folder / "batch.npz")
recipe = replace(ADAM, optimizer=optimizer)
weights = load_weights(folder / "before.safetensors", network)
training = open_backend(stack, 2).training(network, weights, recipe, 11)
losses = [training.step(batch["images"], batch["labels"], float(rate)) for _ in range(int(steps))]
save_weights(folder / "after.safetensors", training.weights(), {})
print(json.dumps([losses, digest(training.weights())]))
"""


def train(folder, stack, model, *, optimizer="sgd", rate=RATE, steps=1, dropout="no", size=8):
    """Train on one random batch; return the losses and the digest of the weights."""
    random, weights = np.random.default_rng(1), lively_weights(NETWORKS[model])
    images = random.standard_normal((size, 28, 28, 1)).astype(np.float32)
    np.savez(folder / "batch.npz", images=images, labels=random.integers(0, 10, size))
    save_weights(folder / "before.safetensors", weights, {})
    call = [sys.executable, "-c", CODE, stack, model, optimizer, str(rate), str(steps), dropout, str(folder)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("model", NETWORKS)
def test_one_step_is_the_one_that_numpy_takes(tmp_path, trainer, model) -> None:
    """Loss, gradients of every layer, batch normalisation by the batch's statistics, and the running ones."""
    (loss,), _ = train(tmp_path, trainer, model)
    layers = NETWORKS[model].layers
    network = replace(
        NETWORKS[model], layers=tuple(Dropout(0.0) if isinstance(each, Dropout) else each for each in layers)
    )
    batch = np.load(tmp_path / "batch.npz")
    before = load_weights(tmp_path / "before.safetensors", network)
    after = load_weights(tmp_path / "after.safetensors", network)
    expected_loss, expected = gradient.sgd_step(network, before, batch["images"], batch["labels"], RATE)
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    for name, wanted in expected.items():
        moved = np.linalg.norm(wanted - before[name])
        assert np.linalg.norm(after[name] - wanted) <= TOLERANCE[model] * moved, name
        assert moved > 0, name
    assert any(isinstance(each, BatchNorm) for each in layers) == any(name.endswith(".mean") for name in expected)


def test_steps_lower_the_loss_and_a_seed_repeats_them(tmp_path, trainer) -> None:
    """With Adam, and with dropout, whose chances follow from the seed."""
    runs = [train(tmp_path, trainer, "cnn-bn", optimizer="adam", rate=3e-3, steps=40, dropout="yes", size=64)
            for _ in range(2)]  # fmt: skip
    assert runs[0][0][-1] < 0.8 * runs[0][0][0]
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-4)


def test_weights_survive_the_way_to_a_stack_and_back(tmp_path, trainer) -> None:
    for model, network in NETWORKS.items():
        _, found = train(tmp_path, trainer, model, steps=0)
        assert found == digest(lively_weights(network))


def test_an_optimiser_that_is_not_there_is_refused(tmp_path, trainer) -> None:
    with pytest.raises(AssertionError, match="no optimiser lion; there are adam, sgd"):
        train(tmp_path, trainer, "cnn-small", optimizer="lion")


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
        "        from backends.tensorflow import build_model\n"
        "        layers = {each.name: each.count_params() for each in build_model(network, weights).layers}\n"
        "    else:\n"
        "        from backends.pytorch import build_module\n"
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
