"""What a training reports of its cost and its target."""

from dataclasses import replace

import pytest

from bench.training.cost import cost_of, target_text
from bench.training.history import Epoch
from bench.worker.messages import EpochReply

SECOND = 1_000_000_000
EPOCH = Epoch(1, 0.1, EpochReply(10, 1.0, 4 * SECOND, 3 * SECOND, 0, "", 1, 0), 0.5, 1.0, None, None)


def test_the_cost_is_that_of_all_epochs_and_of_every_start() -> None:
    """A training that was interrupted has started twice."""
    started = replace(EPOCH, start_cpu_ns=2 * SECOND, start_wall_ns=5 * SECOND)
    assert cost_of([EPOCH, EPOCH]).text == "epochs 6.0 CPU-seconds, 8.0 s"
    expected = "epochs 9.0 CPU-seconds, 12.0 s; with start 13.0 CPU-seconds, 22.0 s"
    assert cost_of([started, EPOCH, started]).text == expected


@pytest.mark.parametrize(("accuracies", "text"), [
    ((0.5, 0.91, 0.92), "target 91.00% reached in epoch 2"),
    ((0.5, 0.92, 0.9), "target 91.00% reached in epoch 2, but missed at the end"),
    ((0.5, 0.9099), "target 91.00% missed"),
])  # fmt: skip
def test_the_target_is_reached_in_the_first_epoch_with_its_accuracy(accuracies, text) -> None:
    history = [replace(EPOCH, epoch=epoch, test_accuracy=accuracy) for epoch, accuracy in enumerate(accuracies, 1)]
    assert target_text(0.91, history) == text
