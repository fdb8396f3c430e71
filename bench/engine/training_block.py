"""Blocks whose arms train, alternated in epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.engine.block import LiveBlock
from bench.engine.session import PREDICT_TIMEOUT_S, proven
from bench.records import TrainedEpoch
from bench.training.train import EPOCH_TIMEOUT_S

if TYPE_CHECKING:
    from pathlib import Path

    from bench.engine.session import Rig
    from bench.engine.team import WorkerGroup
    from bench.suite.arms import Arm, Case
    from bench.suite.schedule import Block


class TrainingBlock(LiveBlock):
    """A block whose arms train from equal weights on equal batches, alternated in epochs; its number is its seed."""

    def __init__(self, rig: Rig, block: Block, caches: Path) -> None:
        """Draw the weights that all arms begin with, before any of them is built."""
        super().__init__(rig, block, caches)
        for case in self.cases:
            rig.draw_initial(case, block.number)

    @property
    def _is_whole(self) -> bool:
        """Tell whether this block trains to the end, on as many images as an accuracy is worth looking at."""
        plan = self.rig.plan
        return self.block.number <= plan.preset.seeds and not plan.suite.images

    def has_turn(self, arm: Arm, case: Case) -> bool:
        """Tell whether an arm can train, as far as is known, and has not failed too often."""
        return (arm.original.id, case.id) not in self.rig.unable and not self.rig.gives_up(arm, case)

    def prepare(self, team: WorkerGroup, arm: Arm, case: Case) -> None:
        """Open the arm's training."""
        self.rig.train(team, arm, case, self.block.number, self.cores)

    def check(self, arm: Arm, case: Case) -> None:
        """Leave warming up to the first epoch, and comparing to what all epochs leave behind."""

    def take_turn(self, number: int, position: int, arm: Arm, case: Case) -> None:
        """Time one epoch; judge it apart."""
        rig, team = self.rig, self.teams[arm.id]
        request = {"epoch": number, "seed": rig.seed_of(self.block.number), "learning_rates": rig.rates(case, number)}
        (epoch,), meanwhile = self.watched(arm, lambda: team.request("epoch", EPOCH_TIMEOUT_S, **request))
        place: dict[str, Any] = {
            "arm": arm.id,
            "case": case.id,
            "block": self.block.number,
            "round": number,
            "position": position,
        }
        accuracy = rig.test_accuracy(team) if self._is_whole else None
        self.store(TrainedEpoch(**place, test_accuracy=accuracy, **epoch, **meanwhile))

    def evidence(self, arm: Arm, case: Case) -> dict[str, Any]:
        """Return what the arm's process reads back; its training is of no use afterwards."""
        found = proven(self.rig, self.teams[arm.id].request("prove_training", PREDICT_TIMEOUT_S), arm, case)
        self.rig.memory[arm.original.id] = max(self.rig.memory.get(arm.original.id, 0), found["memory_bytes"])
        return found
