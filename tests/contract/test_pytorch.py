"""What holds for PyTorch and its extension only."""

import pytest

from tests.contract.conftest import in_process


@in_process
@pytest.mark.parametrize(
    ("memory_format", "strides"), [("contiguous_format", (784, 784, 28, 1)), ("channels_last", (784, 1, 28, 1))]
)
def test_a_batch_of_one_channel_has_the_strides_of_its_memory_format(images, memory_format, strides) -> None:
    """With one channel contiguity is the same in both formats, and PyTorch selects its path by the strides."""
    torch = pytest.importorskip("torch")
    from backends.pytorch.layers import as_nchw

    assert as_nchw(images, getattr(torch, memory_format)).stride() == strides
