"""The shared state of a run: a context that never changes, and the results that later steps need."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.analysis.gates import MAX_FAILED_SHARE
from bench.engine.files import CALIBRATION, IMAGES
from bench.engine.workers import Unsupported
from bench.journal import LOGS
from bench.records import Failure
from bench.suite.arms import LOADGEN, Split, usual_split
from bench.suite.suite import variant_of
from models.errors import UserError
from models.weights import (
    Weights,
    checkpoint_path,
    initial_weights,
    load_weights,
    save_weights,
    standardised_as_in,
)
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from bench.engine.files import Converted
    from bench.engine.workers import WorkerError
    from bench.journal import Journal
    from bench.suite.arms import Arm, Case
    from bench.suite.plan import Plan
    from models.data import DataSet

UNTRAINED_SEED = 0


@dataclass(frozen=True)
class RunModel:
    weights: Weights
    file: Path
    trained: bool


def load_models(names: Sequence[str], scratch: Path) -> dict[str, RunModel]:
    """Load each network's trained checkpoint; a network without one gets random weights, written to `scratch`."""
    models = {}
    for name in names:
        network, file = NETWORKS[name], checkpoint_path(NETWORKS[name])
        trained = file.exists()
        if trained and (own := standardised_as_in(file, network)) != network:
            raise UserError(
                f"{file}: its weights belong to pixels standardised with {own.mean:g},{own.std:g}, not "
                f"{network.mean:g},{network.std:g}; set mean and std of the network {name} to these"
            )
        weights = load_weights(file, network) if trained else initial_weights(network, UNTRAINED_SEED)
        if not trained:
            file = scratch / f"{name}.safetensors"
            save_weights(file, weights, {})
        models[name] = RunModel(weights, file, trained)
    return models


@dataclass(frozen=True)
class RunContext:
    """What never changes during a run. `folder` holds its results; `scratch` is removed at its end."""

    plan: Plan
    data: DataSet
    folder: Path
    scratch: Path
    models: dict[str, RunModel]

    @property
    def images(self) -> Path:
        return self.scratch / IMAGES

    @property
    def calibration(self) -> Path:
        return self.scratch / CALIBRATION

    def split_of(self, tally: Tally, arm: Arm, case: Case) -> Split:
        """Return how an arm uses its cores on a case: as was chosen for it, or as all arms do.

        Under LoadGen an asynchronous variant has a stream for each core, and an arm with workers a worker.
        """
        cores = self.plan.threads_of(case)
        if case.scenario in LOADGEN and (arm.workers or variant_of(arm).asynchronous):
            return Split(cores, 1)
        return tally.splits.get((arm.original.id, case.id)) or usual_split(case.scenario, cores)

    def caches(self, arm: Arm, case: Case) -> Path:
        """Return the folder for what an arm's stack compiles; its cold start finds the folder empty."""
        return self.scratch / "caches" / "-".join((arm.original.slug, *case.group)).replace(" ", "-")

    def log(self, name: str) -> Path:
        return self.folder / LOGS / f"{name}.log"


@dataclass
class Tally:
    """The journal of a run, and what its later steps need of the earlier ones.

    `oracle` holds the NumPy oracle's logits of the test images by model, `labels` those that an arm predicted in the
    proof pass by arm and case, `splits` the best split of an arm's cores by arm and case, `memory_bytes` the peak
    memory by arm and number of workers that train together. `proved_in_full` are the arms and models with a proof on
    all test images. `rates` are the highest rates of a server's queries by arm and case. `oversized` are the groups
    that did not fit into memory beside others, with the reason.
    """

    journal: Journal
    oracle: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    labels: dict[tuple[str, str], NDArray[np.int64]] = field(default_factory=dict)
    proved_in_full: set[tuple[str, str]] = field(default_factory=set)
    splits: dict[tuple[str, str], Split] = field(default_factory=dict)
    rates: dict[tuple[str, str], float] = field(default_factory=dict)
    memory_bytes: dict[tuple[str, int], int] = field(default_factory=dict)
    oversized: dict[str, str] = field(default_factory=dict)
    unsupported: set[tuple[str, str]] = field(default_factory=set)
    failed_blocks: Counter[tuple[str, str]] = field(default_factory=Counter)
    converted: dict[tuple[str, ...], Converted] = field(default_factory=dict)

    def add_memory(self, arm: Arm, memory_bytes: int, workers: int = 0) -> None:
        self.memory_bytes[arm.original.id, workers] = max(self.memory_of(arm, workers), memory_bytes)

    def memory_of(self, arm: Arm, workers: int = 0) -> int:
        return self.memory_bytes.get((arm.original.id, workers), 0)

    def add_failure(self, arm: Arm, case: Case, block: int | None, error: WorkerError) -> None:
        """Store that an arm failed in a block (None: outside of blocks), or that its stack does not support it."""
        if isinstance(error, Unsupported):
            self.unsupported.add((arm.original.id, case.id))
            self.journal.append(Failure(arm.id, case.id, None, str(error), skipped=True))
            return
        if block is not None:
            self.failed_blocks[arm.id, case.id] += 1
        self.journal.append(Failure(arm.id, case.id, block, str(error)))

    def exceeds_failure_budget(self, arm: Arm, case: Case, blocks: int) -> bool:
        """Return whether an arm has failed in so many of the `blocks` that its result will be withheld."""
        return self.failed_blocks[arm.id, case.id] > max(1, MAX_FAILED_SHARE * blocks)
