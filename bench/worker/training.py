"""Training."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backends.protocol import TrainingSpec
from backends.registry import open_training
from bench.clock import now_ns
from bench.worker import messages
from bench.worker.process import (
    NotReadyError,
    involuntary_switches,
    peak_memory_bytes,
    pin_to_cores,
    require_no_other_framework,
    require_preloaded,
)
from bench.worker.timing import DivergedError, time_epoch
from models.data import standardise
from models.feed import DigestingIterator, Feed
from models.weights import load_arrays, load_weights, save_weights
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backends.protocol import Training
    from models.spec import Network

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class OpenedTraining:
    """A training, and the batches that it is fed."""

    stack: str
    network: Network
    training: Training
    feed: Feed


class TrainingWorker:
    """The training of a process; it has one at most."""

    def __init__(self) -> None:
        self._current: OpenedTraining | None = None

    @property
    def _opened(self) -> OpenedTraining:
        if self._current is None:
            raise NotReadyError("no training was opened")
        return self._current

    def open(self, request: messages.OpenTraining) -> messages.OpenTrainingReply:
        start = now_ns()
        pin_to_cores(request.cores)
        # Read before the framework is imported, as its runtime may bind this thread to one of the cores.
        cores = frozenset(os.sched_getaffinity(0))
        recipe, network = request.recipe, NETWORKS[request.recipe.network]
        weights = load_weights(Path(request.weights), network)
        spec = TrainingSpec(network, weights, request.variant, request.precision, recipe, request.seed)
        training = open_training(request.stack, request.threads, spec)
        require_preloaded()
        feed = Feed(
            network=network,
            images=np.load(request.images, allow_pickle=False),
            labels=np.load(request.labels, allow_pickle=False).astype(np.int64),
            batch_size=recipe.batch_size,
            augmentation=recipe.augmentation,
            seed=request.seed,
            threads=request.threads,
            cores=cores,
        )
        self._current = OpenedTraining(request.stack, network, training, feed)
        return messages.OpenTrainingReply(now_ns() - start)

    def run_epoch(self, request: messages.RunEpoch) -> messages.EpochReply:
        training, feed = self._opened.training, self._opened.feed
        training.begin_epoch(int(np.random.RandomState([request.seed, request.epoch]).randint(2**31)))
        started: list[DigestingIterator] = []

        def begin() -> DigestingIterator:
            started.append(DigestingIterator(feed.epoch(request.epoch), feed.batches))
            return started[0]

        switches = involuntary_switches()
        timing = time_epoch(training.step, begin, request.learning_rates)
        return messages.EpochReply(
            images=timing.images,
            loss=timing.loss,
            wall_ns=timing.wall_ns,
            cpu_ns=timing.cpu_ns,
            wait_ns=timing.wait_ns,
            digest=started[0].digest,
            memory_bytes=peak_memory_bytes(),
            involuntary_switches=involuntary_switches() - switches,
        )

    def evaluate(self, request: messages.Evaluate) -> messages.EvaluateReply:
        training, network = self._opened.training, self._opened.network
        images = np.load(request.images, mmap_mode="r", allow_pickle=False)
        labels = np.load(request.labels, allow_pickle=False).astype(np.int64)
        batches = [
            training.logits(standardise(network, images[start : start + EVALUATION_BATCH]))
            for start in range(0, len(images), EVALUATION_BATCH)
        ]
        logits = np.concatenate(batches).astype(np.float64)
        if not np.isfinite(logits).all():
            raise DivergedError("diverged: its logits are not all finite numbers")
        accuracy = float((logits.argmax(axis=1) == labels).mean())
        return messages.EvaluateReply(accuracy, cross_entropy(logits, labels), len(labels))

    def save_checkpoint(self, request: messages.SaveCheckpoint) -> messages.Done:
        save_weights(Path(request.weights), self._opened.training.weights(), {})
        save_weights(Path(request.state), self._opened.training.state(), {})
        return messages.Done()

    def restore_optimizer(self, request: messages.RestoreOptimizer) -> messages.Done:
        self._opened.training.restore(load_arrays(Path(request.state)))
        return messages.Done()

    def prove(self, _: messages.ProveTraining) -> messages.ProofReply:
        """Return the training's proof, with the peak memory before the profiler added its own."""
        feed = self._opened.feed
        images, labels = feed.batch(feed.order(0), 0, 0)
        memory_bytes, proof = peak_memory_bytes(), self._opened.training.prove(images, labels)
        require_no_other_framework(self._opened.stack)
        return messages.ProofReply(**vars(proof), memory_bytes=memory_bytes)


def cross_entropy(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the mean over images, from logits of shape (images, classes)."""
    # The highest logit is subtracted so that no exponential overflows.
    highest = logits.max(axis=1)
    total = np.log(np.exp(logits - highest[:, None]).sum(axis=1)) + highest
    return float((total - logits[np.arange(len(labels)), labels]).mean())
