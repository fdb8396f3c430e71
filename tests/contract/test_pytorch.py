"""What only PyTorch and its extension can be asked."""

import statistics
import subprocess
import sys
from itertools import repeat

import numpy as np
import pytest

from bench.machine import usable_cores
from bench.measure import time_slice
from models.zoo import CNN_SMALL

torch = pytest.importorskip("torch")

from torch.utils.benchmark import Timer  # noqa: E402 - only where PyTorch is

from backends.pytorch import as_nchw, build_module, neutral_weights  # noqa: E402 - as above


def test_weights_survive_the_way_to_pytorch_and_back(weights) -> None:
    back = neutral_weights(CNN_SMALL, build_module(CNN_SMALL, weights))
    assert all(np.array_equal(back[name], weights[name]) for name in weights)


def test_layers_have_the_declared_parameters(weights) -> None:
    module = build_module(CNN_SMALL, weights)
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in module.named_children()}
    assert counts == {layer.name: layer.parameters for layer in CNN_SMALL.place()}


@pytest.mark.parametrize(
    ("memory_format", "strides"),
    [(torch.contiguous_format, (784, 784, 28, 1)), (torch.channels_last, (784, 1, 28, 1))],
)
def test_a_batch_of_one_channel_has_the_strides_of_its_memory_format(images, memory_format, strides) -> None:
    """PyTorch can't tell the formats apart by contiguity where there is one channel, and picks its path by strides."""
    assert as_nchw(images, memory_format).stride() == strides


def test_our_latency_agrees_with_torch_utils_benchmark(weights, images, capsys) -> None:
    """Alternate both timers on one module in one process; the median of the ratios must be within 2 % of 1."""
    torch.set_num_threads(usable_cores())
    module, batch = build_module(CNN_SMALL, weights).eval(), as_nchw(images[:16], torch.channels_last)
    timer = Timer("module(batch)", globals={"module": module, "batch": batch}, num_threads=usable_cores())
    ratios = []
    with torch.no_grad():
        for _ in range(31):
            ours = time_slice(module, repeat(batch), 20_000_000, 50)
            theirs = timer.timeit(len(ours.samples_ns)).median * 1e9
            ratios.append(statistics.fmean(ours.samples_ns) / theirs)
    ratio = statistics.median(ratios)
    with capsys.disabled():
        print(f"\nlatency by our loop / by torch.utils.benchmark: {ratio:.4f}")  # noqa: T201 - the figure is the point
    assert abs(ratio - 1) < 0.02


def test_a_training_step_lowers_the_loss_and_a_seed_repeats_it(tmp_path) -> None:
    """Trained in a process of its own: sessions leave theirs in inference mode."""
    code = (
        "import numpy as np\n"
        "from backends.protocol import open_backend\n"
        "from models.recipes import ADAM\n"
        "from models.weights import initial_weights, digest\n"
        "from models.zoo import CNN_SMALL\n"
        "random = np.random.default_rng(0)\n"
        "images = random.standard_normal((64, 28, 28, 1)).astype(np.float32)\n"
        "labels = random.integers(0, 10, 64)\n"
        "training = open_backend('pytorch', 1).training(CNN_SMALL, initial_weights(CNN_SMALL, 0), ADAM)\n"
        "losses = [training.step(images, labels, 1e-3) for _ in range(20)]\n"
        "print(losses[0], losses[-1], digest(training.weights()))\n"
    )
    outputs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
               for _ in range(2)}  # fmt: skip
    assert len(outputs) == 1
    first, last, _ = outputs.pop().split()
    assert float(last) < 0.7 * float(first)
