"""What a training has cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.training.history import Epoch


@dataclass(frozen=True)
class TrainingCost:
    """The CPU time of all threads of a training's processes, and the wall time, in seconds.

    A start lasts until the training is built, imports included. Evaluations and checkpoints do not count.
    """

    start_cpu_s: float
    start_wall_s: float
    epochs_cpu_s: float
    epochs_wall_s: float

    @property
    def text(self) -> str:
        cpu, wall = self.start_cpu_s + self.epochs_cpu_s, self.start_wall_s + self.epochs_wall_s
        epochs = f"epochs {self.epochs_cpu_s:.1f} CPU-seconds, {self.epochs_wall_s:.1f} s"
        # Histories of earlier versions do not have the starts.
        return f"{epochs}; with start {cpu:.1f} CPU-seconds, {wall:.1f} s" if self.start_cpu_s else epochs


def cost_of(history: Sequence[Epoch]) -> TrainingCost:
    return TrainingCost(
        start_cpu_s=sum(epoch.start_cpu_ns for epoch in history) / 1e9,
        start_wall_s=sum(epoch.start_wall_ns for epoch in history) / 1e9,
        epochs_cpu_s=sum(epoch.result.cpu_ns for epoch in history) / 1e9,
        epochs_wall_s=sum(epoch.result.wall_ns for epoch in history) / 1e9,
    )


def target_text(target: float, history: Sequence[Epoch]) -> str:
    """Say in which epoch the test accuracy first reached the target, and whether it does after the last one."""
    first = next((epoch.epoch for epoch in history if epoch.test_accuracy >= target), None)
    if first is None:
        return f"target {target:.2%} missed"
    end = "" if history[-1].test_accuracy >= target else ", but missed at the end"
    return f"target {target:.2%} reached in epoch {first}{end}"
