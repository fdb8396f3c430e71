"""What holds for PyTorch and its extension only."""

import gc
import statistics
from itertools import repeat

import pytest

from bench.machine.facts import usable_cores
from bench.worker.timing import time_slice
from models.zoo import CNN_SMALL

torch = pytest.importorskip("torch")

from torch.utils.benchmark import Timer  # noqa: E402

from backends.pytorch.layers import as_nchw, build_module  # noqa: E402


@pytest.mark.parametrize(
    ("memory_format", "strides"),
    [(torch.contiguous_format, (784, 784, 28, 1)), (torch.channels_last, (784, 1, 28, 1))],
)
def test_a_batch_of_one_channel_has_the_strides_of_its_memory_format(images, memory_format, strides) -> None:
    """With one channel contiguity is the same in both formats, and PyTorch selects its path by the strides."""
    assert as_nchw(images, memory_format).stride() == strides


def test_our_latency_agrees_with_torch_utils_benchmark(weights, images, capsys) -> None:
    """Alternate both timers on one module in one process; the median of the ratios must be within 2 % of 1.

    Each measurement takes ten milliseconds, and both orders occur, so that slow changes of the machine cancel out.
    """
    module, batch = build_module(CNN_SMALL, weights).eval(), as_nchw(images[:16], torch.channels_last)
    timer = Timer("module(batch)", globals={"module": module, "batch": batch}, num_threads=usable_cores())

    def ours() -> float:
        return statistics.fmean(time_slice(module, repeat(batch), 10_000_000, 5).samples_ns)

    def theirs() -> float:
        return timer.timeit(calls).median * 1e9

    # As a worker does, because our loop collects garbage before each slice.
    gc.freeze()
    threads = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        with torch.no_grad():
            calls = len(time_slice(module, repeat(batch), 10_000_000, 50).samples_ns)
            ratios = [ratio for _ in range(150) for ratio in (ours() / theirs(), 1 / (theirs() / ours()))]
    finally:
        torch.set_num_threads(threads)
        gc.unfreeze()
    ratio = statistics.median(ratios)
    with capsys.disabled():
        print(f"\nlatency by our loop / by torch.utils.benchmark: {ratio:.4f}")  # noqa: T201 - the figure is the point
    assert abs(ratio - 1) < 0.02
