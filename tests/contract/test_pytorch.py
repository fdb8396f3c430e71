"""What only PyTorch and its extension can be asked."""

import statistics
from itertools import repeat

import pytest

from bench.machine import usable_cores
from bench.measure import time_slice
from models.zoo import CNN_SMALL

torch = pytest.importorskip("torch")

from torch.utils.benchmark import Timer  # noqa: E402 - only where PyTorch is

from backends.pytorch_modules import as_nchw, build_module  # noqa: E402 - as above


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
