"""What a worker does when it trains."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.protocol import TrainingSpec
from backends.registry import open_training
from bench.clock import now_ns
from bench.worker.process import (
    involuntary_switches,
    peak_memory_bytes,
    require_no_other_framework,
    require_preloaded,
    take_place,
)
from bench.worker.timing import DivergedError, time_epoch
from models.data import standardise
from models.feed import DigestingIterator, Feed
from models.recipes import from_dict
from models.weights import load_arrays, load_weights, save_weights
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAINING_REQUESTS = ("train", "epoch", "evaluate", "checkpoint", "restore", "prove_training")
EVALUATION_BATCH = 500


class TrainingWorker:
    """The training under way in a process."""

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Build a training from files of weights, images and labels; return how long imports and building took."""
        start = now_ns()
        take_place(request["cores"])
        cores = frozenset(os.sched_getaffinity(0))  # before a runtime binds this thread to one of them
        recipe = from_dict(request["recipe"])
        self._network = NETWORKS[recipe.network]
        weights = load_weights(Path(request["weights"]), self._network)
        choice = request["variant"], request["precision"], recipe, request["seed"]
        self._stack = request["stack"]
        self._training = open_training(self._stack, request["threads"], TrainingSpec(self._network, weights, *choice))
        require_preloaded()
        self._feed = Feed(
            self._network,
            np.load(request["images"], allow_pickle=False),
            np.load(request["labels"], allow_pickle=False).astype(np.int64),
            recipe.batch_size,
            recipe.augmentation,
            request["seed"],
            request["threads"],
            cores,
        )
        return {"build_ns": now_ns() - start}

    def epoch(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train one epoch, the last partial batch included."""
        epoch = request["epoch"]
        self._training.begin_epoch(int(np.random.RandomState([request["seed"], epoch]).randint(2**31)))
        witnesses: list[DigestingIterator] = []

        def begin() -> DigestingIterator:
            witnesses.append(DigestingIterator(self._feed.epoch(epoch), self._feed.batches))
            return witnesses[0]

        before = involuntary_switches()
        timing = time_epoch(self._training.step, begin, request["learning_rates"])
        switches = involuntary_switches() - before
        facts = {"involuntary_switches": switches, "memory_bytes": peak_memory_bytes()}
        return asdict(timing) | facts | {"digest": witnesses[0].digest}

    def evaluate(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return accuracy and mean loss on the images and labels in two files."""
        images = np.load(request["images"], mmap_mode="r", allow_pickle=False)
        labels = np.load(request["labels"], allow_pickle=False).astype(np.int64)
        logits = np.concatenate(
            [
                self._training.logits(standardise(self._network, images[start : start + EVALUATION_BATCH]))
                for start in range(0, len(images), EVALUATION_BATCH)
            ]
        ).astype(np.float64)
        if not np.isfinite(logits).all():
            raise DivergedError("diverged: its logits are not all finite numbers")
        accuracy = float((logits.argmax(axis=1) == labels).mean())
        return {"accuracy": accuracy, "loss": _cross_entropy(logits, labels), "images": len(labels)}

    def checkpoint(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write the weights, and what the optimiser remembers, each into its file."""
        save_weights(Path(request["weights"]), self._training.weights(), {})
        save_weights(Path(request["state"]), self._training.state(), {})
        return {}

    def restore(self, request: dict[str, Any]) -> dict[str, Any]:
        """Continue with what the optimiser remembered."""
        self._training.restore(load_arrays(Path(request["state"])))
        return {}

    def prove_training(self, _: dict[str, Any]) -> dict[str, Any]:
        """Return the proof of what ran; the training is of no use afterwards."""
        images, labels = self._feed.batch(self._feed.order(0), 0, 0)
        memory_bytes, proof = peak_memory_bytes(), self._training.prove(images, labels)
        require_no_other_framework(self._stack)
        return {**vars(proof), "memory_bytes": memory_bytes}


def _cross_entropy(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    highest = logits.max(axis=1)
    total = np.log(np.exp(logits - highest[:, None]).sum(axis=1)) + highest
    return float((total - logits[np.arange(len(labels)), labels]).mean())
