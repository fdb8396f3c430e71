"""Training."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backends.protocol import RankGroup, TrainingSpec
from backends.registry import open_training
from bench.clock import now_ns
from bench.worker import messages
from bench.worker.network import Reserved, keep_to_loopback, listening_addresses, reserve_address
from bench.worker.process import (
    NotReadyError,
    allowed_cores,
    involuntary_switches,
    peak_memory_bytes,
    pin_to_cores,
    require_no_other_framework,
    require_preloaded,
)
from bench.worker.timing import DivergedError, TimedEpoch
from models.data import standardise
from models.feed import Batch, DigestingIterator, Feed
from models.weights import digest, load_arrays, load_weights, save_weights
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backends.protocol import Training
    from models.spec import Network

EVALUATION_BATCH = 500


@dataclass
class StartedEpoch:
    """An epoch that may go on, its batches, and how often the kernel has taken a core from it."""

    timed: TimedEpoch
    batches: DigestingIterator
    involuntary_switches: int = 0


@dataclass
class OpenedTraining:
    """A training, the batches that it is fed, and its last epoch."""

    stack: str
    network: Network
    training: Training
    feed: Feed
    epoch: StartedEpoch | None = None


class TrainingWorker:
    """The trainings of a process, by name. All but those of a group of ranks have the empty name."""

    def __init__(self) -> None:
        self._trainings: dict[str, OpenedTraining] = {}
        self._reserved: Reserved | None = None

    def _opened(self, name: str = "") -> OpenedTraining:
        if name not in self._trainings:
            raise NotReadyError("no training was opened")
        return self._trainings[name]

    def listen(self, request: messages.Listen) -> messages.ListenReply:
        self._reserved = reserve_address(request.interface)
        return messages.ListenReply(self._reserved.address)

    def _group(self, request: messages.OpenTraining) -> RankGroup | None:
        if not request.addresses:
            return None
        if self._reserved is None:
            raise NotReadyError("no address was reserved")
        own = self._reserved
        return RankGroup(request.rank, request.addresses, own.interface, request.timeout_s, own.listener.fileno())

    def open(self, request: messages.OpenTraining) -> messages.OpenTrainingReply:
        start = now_ns()
        pin_to_cores(request.cores)
        # Read before the framework is imported, as its runtime may bind this thread to one of the cores.
        cores = frozenset(os.sched_getaffinity(0))
        recipe, network = request.recipe, NETWORKS[request.recipe.network]
        weights = load_weights(Path(request.weights), network)
        group = self._group(request)
        spec = TrainingSpec(network, weights, request.variant, request.precision, recipe, request.seed, group)
        training = open_training(request.stack, request.threads, spec)
        require_preloaded()
        if group:
            keep_to_loopback(group.interface)
        feed = Feed(
            network=network,
            images=np.load(request.images, allow_pickle=False),
            labels=np.load(request.labels, allow_pickle=False).astype(np.int64),
            batch_size=recipe.batch_size,
            augmentation=recipe.augmentation,
            seed=request.seed,
            threads=request.threads,
            cores=cores,
            rank=request.rank,
            workers=group.size if group else 1,
        )
        self._trainings[request.name] = OpenedTraining(request.stack, network, training, feed)
        return messages.OpenTrainingReply(now_ns() - start)

    def run_epoch(self, request: messages.RunEpoch) -> messages.EpochReply:
        opened = self._opened(request.name)
        if not request.goes_on:
            opened.epoch = start_epoch(opened, request)
        if opened.epoch is None:
            raise NotReadyError("no epoch was started")
        epoch, switches = opened.epoch, involuntary_switches()
        timing = epoch.timed.train(request.learning_rates)
        epoch.involuntary_switches += involuntary_switches() - switches
        return messages.EpochReply(
            images=timing.images,
            loss=timing.loss,
            wall_ns=timing.wall_ns,
            cpu_ns=timing.cpu_ns,
            wait_ns=timing.wait_ns,
            digest=epoch.batches.digest,
            memory_bytes=peak_memory_bytes(),
            involuntary_switches=epoch.involuntary_switches,
            losses=timing.losses,
        )

    def evaluate(self, request: messages.Evaluate) -> messages.EvaluateReply:
        training, network = self._opened().training, self._opened().network
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
        training = self._opened(request.name).training
        save_weights(Path(request.weights), training.weights(), {})
        save_weights(Path(request.state), training.state(), {})
        return messages.Done()

    def restore_optimizer(self, request: messages.RestoreOptimizer) -> messages.Done:
        self._opened().training.restore(load_arrays(Path(request.state)))
        return messages.Done()

    def digest_weights(self, request: messages.DigestWeights) -> messages.WeightsReply:
        weights = self._opened(request.name).training.weights()
        return messages.WeightsReply(digest(weights), listening_addresses(), allowed_cores())

    def prove(self, request: messages.ProveTraining) -> messages.ProofReply:
        """Return the training's proof, with the peak memory before the profiler added its own."""
        opened = self._opened(request.name)
        images, labels = opened.feed.batch(opened.feed.order(0), 0, 0)
        memory_bytes, proof = peak_memory_bytes(), opened.training.prove(images, labels)
        require_no_other_framework(opened.stack)
        return messages.ProofReply(**vars(proof), memory_bytes=memory_bytes)


def start_epoch(opened: OpenedTraining, request: messages.RunEpoch) -> StartedEpoch:
    training, feed = opened.training, opened.feed
    # Each rank drops units of its own.
    seed = [request.seed, request.epoch, *([feed.rank] if feed.rank else [])]
    training.begin_epoch(int(np.random.RandomState(seed).randint(2**31)))
    in_work = deque[Future[Batch]]()
    batches = DigestingIterator(feed.epoch(request.epoch, in_work), feed)
    return StartedEpoch(TimedEpoch(training.step, batches, lambda: wait(in_work)), batches)


def cross_entropy(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the mean over images, from logits of shape (images, classes)."""
    # The highest logit is subtracted so that no exponential overflows.
    highest = logits.max(axis=1)
    total = np.log(np.exp(logits - highest[:, None]).sum(axis=1)) + highest
    return float((total - logits[np.arange(len(labels)), labels]).mean())
