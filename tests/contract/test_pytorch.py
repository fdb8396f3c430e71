"""What only PyTorch and its extension can be asked."""

import gc
import statistics
from itertools import repeat

import pytest

from bench.machine.facts import usable_cores
from bench.worker.timing import time_slice
from models.zoo import CNN_SMALL

torch = pytest.importorskip("torch")

from torch.utils.benchmark import Timer  # noqa: E402 - only where PyTorch is

from backends.pytorch.layers import as_nchw, build_module  # noqa: E402 - as above


@pytest.mark.parametrize(
    ("memory_format", "strides"),
    [(torch.contiguous_format, (784, 784, 28, 1)), (torch.channels_last, (784, 1, 28, 1))],
)
def test_a_batch_of_one_channel_has_the_strides_of_its_memory_format(images, memory_format, strides) -> None:
    """PyTorch can't tell the formats apart by contiguity where there is one channel, and picks its path by strides."""
    assert as_nchw(images, memory_format).stride() == strides


def test_our_latency_agrees_with_torch_utils_benchmark(weights, images, capsys) -> None:
    """Alternate both timers on one module in one process; the median of the ratios must be within 2 % of 1.

    Turns are of ten milliseconds and in both orders: shorter than the moods of a noisy machine.
    """
    module, batch = build_module(CNN_SMALL, weights).eval(), as_nchw(images[:16], torch.channels_last)
    timer = Timer("module(batch)", globals={"module": module, "batch": batch}, num_threads=usable_cores())

    def ours() -> float:
        return statistics.fmean(time_slice(module, repeat(batch), 10_000_000, 5).samples_ns)

    def theirs() -> float:
        return timer.timeit(calls).median * 1e9

    gc.freeze()  # as a worker does: our loop collects garbage before each turn
    threads = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        with torch.no_grad():
            calls = len(time_slice(module, repeat(batch), 10_000_000, 50).samples_ns)
            ratios = [each for _ in range(150) for each in (ours() / theirs(), 1 / (theirs() / ours()))]
    finally:
        torch.set_num_threads(threads)
        gc.unfreeze()
    ratio = statistics.median(ratios)
    with capsys.disabled():
        print(f"\nlatency by our loop / by torch.utils.benchmark: {ratio:.4f}")  # noqa: T201 - the figure is the point
    assert abs(ratio - 1) < 0.02
