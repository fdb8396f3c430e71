"""A run under way: the models and data that every arm gets, where things are, and what has failed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.registry import stacks
from bench.analysis.gates import MAX_FAILED_SHARE
from bench.engine.files import Converted, Source, convert, kind, needs_conversion
from bench.engine.team import WorkerGroup
from bench.engine.workers import Unsupported, Worker, WorkerError
from bench.machine import counters
from bench.records import Failure
from bench.suite import variables as settings
from bench.suite.arms import LATENCY, TRAINING
from bench.suite.schedule import MAX_SEED
from bench.training.train import training_request
from models.learning_rate import learning_rates
from models.weights import Weights, checkpoint_path, initial_weights, load_weights, save_weights
from models.weights import digest as digest_of
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bench.console import Steps
    from bench.journal import Journal
    from bench.suite.arms import Arm, Case
    from bench.suite.plan import Plan
    from models.data import DataSet
    from models.recipes import Recipe
    from models.spec import Network

BUILD_TIMEOUT_S, PREDICT_TIMEOUT_S, SLICE_TIMEOUT_S = 600, 600, 60
UNTRAINED_SEED = 0
CLASSES = 10


@dataclass(frozen=True)
class Model:
    """A network with the weights that every arm loads."""

    weights: Weights
    file: Path
    trained: bool


def load_models(names: Sequence[str], scratch: Path) -> dict[str, Model]:
    """Load each network's trained checkpoint, or draw its initial weights where there is none yet."""
    models = {}
    for name in names:
        network, file = NETWORKS[name], checkpoint_path(NETWORKS[name])
        trained = file.exists()
        weights = load_weights(file, network) if trained else initial_weights(network, UNTRAINED_SEED)
        if not trained:
            file = scratch / f"{name}.safetensors"
            save_weights(file, weights, {})
        models[name] = Model(weights, file, trained)
    return models


def describe_models(models: dict[str, Model]) -> dict[str, Any]:
    """Return what run.json holds of each model: digests, whether its weights are trained, and the work of an image."""
    return {
        name: {
            "spec": NETWORKS[name].digest,
            "weights": digest_of(model.weights),
            "trained": model.trained,
            "work": _work(NETWORKS[name]),
        }
        for name, model in models.items()
    }


def _work(network: Network) -> dict[str, int]:
    return {
        "multiply_adds": network.multiply_adds,
        "parameters": network.parameters,
        "input_elements": prod(network.input_shape),
        "output_elements": CLASSES,
    }


@dataclass
class Rig:
    """A run under way: where things are, and what has failed."""

    plan: Plan
    folder: Path
    scratch: Path
    journal: Journal
    models: dict[str, Model]
    images: Path
    calibration: Path
    data: DataSet
    steps: Steps
    oracle: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    proven: dict[tuple[str, str], NDArray[np.int64]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    unable: set[tuple[str, str]] = field(default_factory=set)
    failed_blocks: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    _converted: dict[tuple[str, ...], Converted] = field(default_factory=dict)

    def start(self, arm: Arm, case: Case, caches: Path, extra: Mapping[str, str] | None = None) -> WorkerGroup:
        """Start a team in the arm's environment; what it compiles is cached below `caches`.

        Raises WorkerError, or Unsupported when the environment lacks what the arm's settings need.
        """
        environment = self.plan.environments[arm.stack]
        members, threads = self.members(arm, case)
        try:
            preloaded = settings.preloaded(arm.settings, environment.folder)
        except FileNotFoundError as error:
            raise Unsupported(str(error)) from error
        variables = preloaded | dict(extra or {}) | settings.of_process(arm, threads, caches)
        log = self.folder / "logs" / f"{arm.slug}.log"
        return WorkerGroup([lambda: Worker(environment.python, variables, log, self.scratch, urgent=True)] * members)

    def members(self, arm: Arm, case: Case) -> tuple[int, int]:
        """Return how many processes an arm is measured with, and how many threads each has.

        For throughput there is one of one thread for each core, except where one process keeps all of them busy.
        """
        alone = case.scenario in (LATENCY, TRAINING) or stacks()[arm.stack].variants[arm.variant].asynchronous
        threads = self.plan.threads_of(case)
        return (1, threads) if alone else (threads, 1)

    def build(self, team: WorkerGroup, arm: Arm, case: Case, cores: list[int]) -> dict[str, Any]:
        """Build the arm's session for a case, on these cores; return the figures of the slowest member."""
        places = [[core] for core in cores] if len(team.members) > 1 else [cores]
        request = self.deployment(arm, case) | {"threads": self.members(arm, case)[1]}
        answers = team.request_each("build", BUILD_TIMEOUT_S, [request | {"cores": place} for place in places])
        return {name: max(answer[name] for answer in answers) for name in answers[0]}

    def train(self, team: WorkerGroup, arm: Arm, case: Case, block: int, cores: list[int]) -> None:
        """Let a team, on these cores, open its training from the block's initial weights; raises WorkerError."""
        seed = self.seed_of(block)
        threads = self.plan.threads_of(case)
        way = arm.stack, arm.variant, arm.precision
        request = training_request(way, self.recipe(case), seed, threads, self.scratch, self.initial(case))
        team.request("train", BUILD_TIMEOUT_S, **request | {"cores": cores})

    def quiet_cores(self, case: Case) -> list[int]:
        """Return as many cores as an arm has threads on a case, those on which least is going on now."""
        return counters.quiet_cores(self.plan.threads_of(case))

    def initial(self, case: Case) -> Path:
        """Return the file of the weights that all arms of the block under way begin with."""
        return self.scratch / f"initial-{case.model}.safetensors"

    def draw_initial(self, case: Case, block: int) -> None:
        """Write those weights over the last block's."""
        save_weights(
            self.initial(case),
            initial_weights(NETWORKS[case.model], self.seed_of(block), self.recipe(case).initial),
            {},
        )

    def recipe(self, case: Case) -> Recipe:
        """Return the suite's recipe, for a case's model and batch size."""
        if self.plan.suite.recipe is None:
            raise ValueError(f"suite {self.plan.suite.name} does not train")
        return replace(self.plan.suite.recipe, network=case.model, batch_size=case.batch_size)

    def rates(self, case: Case, epoch: int) -> list[float]:
        """Return the learning rate of each step of an epoch, numbered from 0."""
        recipe, images = self.recipe(case), self.plan.epoch_images
        return learning_rates(recipe, self.plan.suite.epochs, -(-images // case.batch_size), epoch)

    def seed_of(self, block: int) -> int:
        """Return what the chances of a block's trainings follow from."""
        return (self.plan.seed + block) % MAX_SEED

    def test_accuracy(self, team: WorkerGroup) -> float:
        """Return the accuracy on the test images of what a team has trained; raises WorkerError."""
        files = {name: str(self.scratch / f"test-{name}.npy") for name in ("images", "labels")}
        return float(team.request("evaluate", PREDICT_TIMEOUT_S, **files)[0]["accuracy"])

    def deployment(self, arm: Arm, case: Case) -> dict[str, Any]:
        """Return what a worker needs to know of an arm and a case."""
        files = self.models[case.model].file, self.images, self.calibration
        return build_request(arm, case, files, self.converted(arm, case), self.plan.suite.wait)

    def converted(self, arm: Arm, case: Case) -> Converted | None:
        """Return the files that an arm starts from, or None when it needs none; raises WorkerError."""
        if not needs_conversion(arm):
            return None
        key = kind(arm, case.model)
        if key not in self._converted:
            model, environment = self.models[case.model], self.plan.environments[arm.stack]
            spec, weights = NETWORKS[case.model].digest, digest_of(model.weights)
            source = Source(case.model, spec, weights, model.file, self.calibration)
            log = self.folder / "logs" / f"{arm.stack}-convert.log"
            self._converted[key] = convert(arm, environment, source, self.plan.threads, log, self.scratch)
        return self._converted[key]

    def fail(self, arm: Arm, case: Case, block: int | None, error: WorkerError) -> None:
        """Store that an arm could not be measured."""
        skipped = isinstance(error, Unsupported)
        self.journal.append(Failure(arm.id, case.id, None if skipped else block, str(error), skipped))
        if skipped:
            self.unable.add((arm.original.id, case.id))
        if block is not None and not skipped:
            self.failed_blocks[arm.id, case.id] += 1

    def gives_up(self, arm: Arm, case: Case) -> bool:
        """Tell whether an arm has failed in so many blocks that its result is withheld anyway."""
        return self.failed_blocks[arm.id, case.id] > max(1, MAX_FAILED_SHARE * self.plan.preset.blocks)


def build_request(
    arm: Arm, case: Case, files: tuple[Path, Path, Path], converted: Converted | None, wait: float = 0.0
) -> dict[str, Any]:
    """Return what a worker needs to know of an arm and a case; `files` are of weights, images, calibration images."""
    weights, images, calibration = map(str, files)
    return {
        "case": case.id,
        "stack": arm.stack,
        "variant": arm.variant,
        "model": case.model,
        "precision": arm.precision,
        "batch_size": case.batch_size,
        "weights": weights,
        "images": images,
        "calibration": calibration,
        "files": str(converted.folder) if converted else "",
        "delay": arm.delay,
        "wait": wait,
    }


def predict(rig: Rig, team: WorkerGroup, case: Case, images: int) -> list[NDArray[np.float32]]:
    """Return each member's logits of the first test images, shape (images, classes).

    Raises WorkerError when one counted other images, or when logits are not finite numbers of that shape.
    """
    files = [rig.scratch / f"logits-{pid}.npy" for pid in team.pids]
    requests = [{"case": case.id, "images": images, "file": str(file)} for file in files]
    try:
        answers = team.request_each("predict", PREDICT_TIMEOUT_S, requests)
        found: list[NDArray[np.float32]] = [np.load(file, allow_pickle=False) for file in files]
    except (OSError, ValueError) as error:
        raise WorkerError(f"wrote no logits ({error})") from error
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    for answer, logits in zip(answers, found, strict=True):
        finite = bool(np.isfinite(logits).all())
        if (answer["images"], logits.shape, finite) != (images, (images, CLASSES), True):
            shape = f"logits of shape {logits.shape}, all finite: {finite}"
            raise WorkerError(f"proof failed: {answer['images']} images, {shape}")
    return found


def read_back(rig: Rig, team: WorkerGroup, arm: Arm, case: Case) -> dict[str, Any]:
    """Return what a team proves of itself: its first member's evidence, when all members pass.

    Raises WorkerError when one can't, or when it ran at another precision or with other threads than was asked.
    """
    return proven(rig, team.request("prove", PREDICT_TIMEOUT_S, case=case.id), arm, case)


def proven(rig: Rig, found: list[dict[str, Any]], arm: Arm, case: Case) -> dict[str, Any]:
    """Return the first member's evidence, with the memory of all; raises WorkerError as `read_back` does."""
    threads = rig.members(arm, case)[1]
    for evidence in found:
        if not evidence.keys() >= {"precision", "threads", "kernels", "versions", "memory_bytes"}:
            raise WorkerError("proof failed: it is not complete")
        for what, asked in (("precision", arm.precision), ("threads", threads)):
            if evidence[what] != asked:
                raise WorkerError(f"proof failed: {what} read back as {evidence[what]}, asked for {asked}")
    return found[0] | {"memory_bytes": sum(evidence["memory_bytes"] for evidence in found)}


def compare(ours: NDArray[Any], theirs: NDArray[Any]) -> tuple[float, float]:
    """Return the largest absolute difference of two arrays of logits, and the share of equal labels."""
    difference = float(np.abs(ours.astype(np.float64) - theirs).max())
    return difference, float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())
