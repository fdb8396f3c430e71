"""A stack for tests, in one file: the NumPy oracle, well-behaved or faulty in one way per variant."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from backends.oracle import OracleSession
from backends.protocol import Proof, ProofError, Stack, UnsupportedError, Variant
from models.weights import load_weights, save_weights

if TYPE_CHECKING:
    from pathlib import Path

    from backends.protocol import F32, InferenceSpec, TrainingSpec

STACK = Stack(
    name="toy",
    summary="a stack for tests",
    environment=None,
    packages=("numpy",),
    variants={
        "good": Variant("Compute what the oracle computes"),
        "wrong": Variant("Add 0.01 to every logit"),
        "nan": Variant("Return no numbers"),
        "dies": Variant("Exit in the middle of a prediction"),
        "chatty": Variant("Print rubbish"),
        "rubbish": Variant("Write rubbish into the channel to the orchestrator"),
        "hangs": Variant("Never answer"),
        "bf16": Variant("Read back another precision than was asked for"),
        "unproven": Variant("Can't prove that it ran"),
        "unsupported": Variant("Refuse"),
        "rounded": Variant("Round the logits to 64ths", precisions=("int8",)),
        "exact": Variant("Claim a precision that was not active", precisions=("int8",)),
        "inaccurate": Variant("Get most images wrong", precisions=("int8",)),
        "foreign": Variant("Import a framework of another stack"),
        "queued": Variant("Work on batches when it is told to finish", asynchronous=True),
        "converted": Variant("Start from a file that was made before", conversion="copy"),
        "unconvertible": Variant("Start from a file that can't be made", conversion="fail"),
        "train": Variant("Add up what it was fed", trains=True),
        "train-again": Variant("Do the same", trains=True),
        "train-diverges": Variant("End with a loss that is no number", trains=True),
        "train-dies": Variant("Exit in the third epoch", trains=True),
    },
    baselines=("oracle", "pupil"),
)


class ToySession(OracleSession):
    """The oracle with a fault."""

    def __init__(self, deployment: InferenceSpec) -> None:
        weights, file = deployment.weights, deployment.files
        if file is not None:
            weights = load_weights(file / "weights.safetensors", deployment.network)
        super().__init__(deployment.network, weights)
        self.variant, self.calls, self.queue = deployment.variant, 0, []
        self.precision = deployment.precision
        if self.variant == "foreign":
            sys.modules["torch"] = sys

    def step(self, batch: F32) -> F32:
        self.calls += 1
        match self.variant:
            case "wrong":
                return super().step(batch) + np.float32(0.01)
            case "rounded":
                return np.round(super().step(batch) * 64) / np.float32(64)
            case "inaccurate":
                return -super().step(batch)
            case "nan":
                return super().step(batch) * np.float32("nan")
            case "dies":
                sys.stderr.write("the toy is broken\n")
                sys.stderr.flush()
                os._exit(7)
            case "chatty":
                sys.stdout.write('{"rubbish": 1}\n\x00\xff')
            case "rubbish":
                os.write(int(sys.argv[2]), b"rubbish\n")
            case "hangs":
                time.sleep(1000)
        return super().step(batch)

    def submit(self, batch: F32) -> None:
        self.queue.append(batch)

    def drain(self) -> None:
        while self.queue:
            self.step(self.queue.pop())

    def prove(self, batch: F32) -> Proof:
        proof = super().prove(batch)
        if self.variant == "unproven":
            raise ProofError("nothing special ran")
        return replace(proof, precision="bf16" if self.variant == "bf16" else self.precision)


class ToyTraining:
    """Moves the last bias by the mean of what it was fed; which is what its loss falls with, too."""

    def __init__(self, course: TrainingSpec) -> None:
        self.variant, self.bias = course.variant, course.weights["dense2.bias"].copy()
        self.rest, self.steps, self.epochs = course.weights, np.zeros((), np.float32), 0

    def begin_epoch(self, seed: int) -> None:
        self.epochs += 1
        if self.variant == "train-dies" and self.epochs > 2:
            os._exit(7)

    def step(self, images: F32, labels: np.ndarray, learning_rate: float) -> float:
        self.steps += 1
        self.bias += np.float32(learning_rate * images.mean())
        if self.variant == "train-diverges" and self.steps > 3:
            return float("nan")
        return float(2.3 / (1 + self.steps) + abs(labels.mean()) / 1e6)

    def logits(self, images: F32) -> F32:
        return np.tile(self.bias + np.eye(10, dtype=np.float32)[int(self.steps) % 10], (len(images), 1))

    def weights(self) -> dict[str, np.ndarray]:
        return self.rest | {"dense2.bias": self.bias}

    def state(self) -> dict[str, np.ndarray]:
        return {"steps": self.steps}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.steps = state["steps"].copy()

    def prove(self, images: F32, labels: np.ndarray) -> Proof:
        return Proof("fp32", int(os.environ["OPENBLAS_NUM_THREADS"]), ("toy_kernel",), {"numpy": np.__version__})


class ToyBackend:
    """Opens toy sessions."""

    def inference(self, deployment: InferenceSpec) -> ToySession:
        if deployment.variant == "unsupported":
            raise UnsupportedError("the toy can't do that")
        return ToySession(deployment)

    def training(self, course: TrainingSpec) -> ToyTraining:
        return ToyTraining(course)


def open_backend(threads: int) -> ToyBackend:
    return ToyBackend()


def convert(conversion: str, deployment: InferenceSpec, folder: Path) -> None:
    if conversion == "fail":
        raise RuntimeError("the toy can't be converted")
    save_weights(folder / "weights.safetensors", deployment.weights, {})
