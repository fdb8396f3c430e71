"""Blocks of training."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from bench.engine.block import BlockRunner
from bench.engine.build import BUILD_TIMEOUT_S, EPOCH_TIMEOUT_S
from bench.engine.proof.evidence import PREDICT_TIMEOUT_S, combined_proof
from bench.records import Conditions, TrainedEpoch
from bench.suite.schedule import MAX_SEED
from bench.worker.messages import EpochReply, Evaluate, OpenTraining, ProveTraining, RunEpoch
from models.recipes.learning_rate import learning_rates
from models.weights import initial_weights, save_weights
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.engine.context import RunContext, Tally
    from bench.engine.workers import WorkerGroup
    from bench.suite.arms import Arm, Case
    from bench.suite.schedule import Block, Round
    from bench.worker.messages import ProofReply
    from models.recipes import Recipe

# How long a turn of the fastest arm should last. Most speeds of a shared machine last longer, so all arms meet them.
PART_NS = 100_000_000


class TrainingBlock(BlockRunner):
    """Alternates arms in parts of epochs; all of them train from the same initial weights on the same batches."""

    def __init__(self, context: RunContext, tally: Tally, block: Block) -> None:
        super().__init__(context, tally, block)
        suite = context.plan.suite
        if suite.recipe is None or suite.epochs is None:
            raise ValueError(f"suite {suite.name} has no recipe or no epochs")
        self._suite_recipe, self._epochs = suite.recipe, suite.epochs
        self._seed = (context.plan.seed + block.number) % MAX_SEED
        # The turns of an epoch, and by arm what has been trained of the current one, and how long its last one took.
        self._parts = 1
        self._trained = defaultdict[str, list[tuple[EpochReply, Conditions]]](list)
        self._epochs_ns: dict[str, int] = {}
        for case in self.cases:
            weights = initial_weights(NETWORKS[case.model], self._seed, self._recipe(case).initial)
            save_weights(self._initial_weights(case), weights, {})

    def takes_part(self, arm: Arm, case: Case) -> bool:
        return (arm.original.id, case.id) not in self.tally.unsupported and super().takes_part(arm, case)

    def prepare(self, group: WorkerGroup, arm: Arm, case: Case, cores: Sequence[int]) -> None:
        group.request(self.opening(arm, case, self.splits[arm.id].cores, cores), BUILD_TIMEOUT_S)

    def opening(self, arm: Arm, case: Case, threads: int, cores: Sequence[int]) -> OpenTraining:
        return OpenTraining(
            stack=arm.stack,
            variant=arm.variant,
            precision=arm.precision,
            recipe=self._recipe(case),
            seed=self._seed,
            threads=threads,
            cores=tuple(cores),
            weights=str(self._initial_weights(case)),
            images=str(self.context.scratch / "train-images.npy"),
            labels=str(self.context.scratch / "train-labels.npy"),
        )

    def epoch(self, case: Case, number: int) -> RunEpoch:
        batches = -(-self.context.plan.epoch_images // case.global_batch_size)
        return RunEpoch(number, self._seed, tuple(learning_rates(self._recipe(case), self._epochs, batches, number)))

    def check(self, arm: Arm, case: Case) -> None:
        """Do nothing: analysis compares the losses of all epochs."""

    def warm_up(self, arm: Arm, case: Case) -> None:
        """Do nothing: the first epoch is the warm-up."""

    def begin_round(self, turn: Round) -> int:
        """Divide an epoch by how long the one before it took; the first one is whole."""
        if self._epochs_ns:
            steps = len(self.epoch(self._cases[turn.case], turn.number).learning_rates)
            self._parts = min(steps, max(1, round(min(self._epochs_ns.values()) / PART_NS)))
        return self._parts

    def take_turn(self, number: int, position: int, arm: Arm, case: Case) -> None:
        plan, group, trained = self.context.plan, self.groups[arm.id], self._trained[arm.id]
        whole = self.epoch(case, number)
        rates, part = whole.learning_rates, len(trained)
        first, end = (len(rates) * edge // self._parts for edge in (part, part + 1))
        request = replace(whole, learning_rates=rates[first:end], goes_on=part > 0)
        (result,), conditions = self.observe(arm.id, lambda: group.request(request, EPOCH_TIMEOUT_S))
        trained.append((result, conditions))
        if len(trained) < self._parts:
            return
        self._epochs_ns[arm.id] = result.wall_ns
        accuracy = None
        # Accuracy means little after a short training, or on a part of the training images.
        if self.block.number <= plan.preset.seeds and not plan.suite.images:
            images, labels = (str(self.context.scratch / f"test-{part}.npy") for part in ("images", "labels"))
            accuracy = group.request(Evaluate(images, labels), PREDICT_TIMEOUT_S)[0].accuracy
        self.store(
            TrainedEpoch(
                arm=arm.id,
                case=case.id,
                block=self.block.number,
                round=number,
                position=position,
                result=result,
                test_accuracy=accuracy,
                conditions=_sum_of([conditions for _, conditions in trained]),
                parts_ns=tuple(now - before for before, now in pairwise((0, *(reply.wall_ns for reply, _ in trained)))),
            )
        )
        trained.clear()

    def read_back(self, arm: Arm, _: Case) -> ProofReply:
        replies = self.groups[arm.id].request(ProveTraining(), PREDICT_TIMEOUT_S)
        proof = combined_proof(replies, arm, self.splits[arm.id].cores, self.context.plan.variables.given)
        self.tally.add_memory(arm, proof.memory_bytes)
        return proof

    def _recipe(self, case: Case) -> Recipe:
        return replace(self._suite_recipe, network=case.model, batch_size=case.global_batch_size)

    def _initial_weights(self, case: Case) -> Path:
        """Return the file of the weights that all arms of the current block start from."""
        return self.context.scratch / f"initial-{case.model}.safetensors"


def _sum_of(parts: Sequence[Conditions]) -> Conditions:
    """Return the conditions of an epoch: the counters of all its parts, load and frequency at its end."""

    def total(name: str) -> int | None:
        values = [getattr(part, name) for part in parts]
        return None if None in values else sum(values)

    counters = "steal_ns", "throttled_ns", "foreign_ns", "watched_ns", "counted_ns"
    return replace(
        parts[-1],
        idle_cpu_ns=sum(part.idle_cpu_ns for part in parts),
        harness_cpu_ns=sum(part.harness_cpu_ns for part in parts),
        **{name: total(name) for name in counters},
    )
