"""A stack for tests: the NumPy oracle, correct or with one fault per variant."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backends.oracle import OracleSession
from backends.protocol import Proof, ProofError, Stack, UnsupportedError, Variant
from models.weights import load_weights, save_weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.protocol import F32, InferenceSpec, TrainingSpec

# In the folder that all processes of a run share.
PROVED, STEPS_BEFORE_STALL = Path("stalls.proved"), 20

STACK = Stack(
    name="toy",
    summary="a stack for tests",
    environment=None,
    packages=("numpy",),
    variants={
        "good": Variant("Compute what the oracle computes"),
        "wrong": Variant("Add 0.01 to every logit"),
        "nan": Variant("Return NaN for every logit"),
        "dies": Variant("Exit during a prediction"),
        "chatty": Variant("Print garbage"),
        "rubbish": Variant("Write garbage into the channel to the orchestrator"),
        "brief": Variant("Write an empty reply into the channel to the orchestrator"),
        "hangs": Variant("Never return"),
        "stalls": Variant("Never return, in a block's process"),
        "segfaults": Variant("Read from an address that is none"),
        "aborts": Variant("Abort the process"),
        "greedy": Variant("Need more memory than is allowed"),
        "floods": Variant("Print without end"),
        "pours": Variant("Write without end into the channel to the orchestrator"),
        "forks": Variant("Exit, and leave a process that keeps the channel open"),
        "daemon": Variant("Exit, and leave a process in a session of its own"),
        "bf16": Variant("Read back another precision than requested"),
        "unproven": Variant("Fail its proof"),
        "unsupported": Variant("Refuse"),
        "rounded": Variant("Round the logits to 64ths", precisions=("int8",)),
        "exact": Variant("Claim int8 but compute in fp32", precisions=("int8",)),
        "inaccurate": Variant("Misclassify most images", precisions=("int8",)),
        "foreign": Variant("Import the framework of another stack"),
        "threads": Variant("Start a thread on each usable core"),
        "queued": Variant("Compute all batches when the queue is drained", asynchronous=True),
        "converted": Variant("Start from a converted file", conversion="copy"),
        "unconvertible": Variant("Start from a file whose conversion fails", conversion="fail"),
        "train": Variant("Add up the inputs", trains=True),
        "train-again": Variant("Add up the inputs, as a second training", trains=True),
        "train-diverges": Variant("End with a loss of NaN", trains=True),
        "train-dies": Variant("Exit in the third epoch", trains=True),
        "train-rank-dies": Variant("Exit in the second epoch as rank 1, for which the others wait", trains=True),
        "train-alone": Variant("Change the weights by the inputs of the own rank only", trains=True),
        "train-otherwise": Variant("Have another loss as one of several ranks", trains=True),
        "train-reduced": Variant("Read back another precision than requested", trains=True),
    },
    default_variant="good",
    default_training="train",
    baselines=("oracle", "pupil"),
)


def need_memory() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
    np.ones(1 << 30)


def print_without_end() -> None:
    while True:
        sys.stdout.write("rubbish " * 1000 + "\n")


def reply(content: bytes) -> None:
    os.write(int(sys.argv[2]), content)


def reply_without_end() -> None:
    while True:
        reply(bytes(1 << 16))


def leave_process(*, own_session: bool) -> None:
    reading, writing = os.pipe()
    if not os.fork():
        if own_session:
            os.setsid()
        os.write(writing, b"it has come that far")
        time.sleep(1000)
    os.read(reading, 1)
    os._exit(7)


FAULTS: dict[str, Callable[[], object]] = {
    "rubbish": partial(reply, b"rubbish\n"),
    "brief": partial(reply, b"{}\n"),
    "hangs": partial(time.sleep, 1000),
    "segfaults": partial(ctypes.string_at, 0),
    "aborts": os.abort,
    "greedy": need_memory,
    "floods": print_without_end,
    "pours": reply_without_end,
    "forks": partial(leave_process, own_session=False),
    "daemon": partial(leave_process, own_session=True),
}


class ToySession(OracleSession):
    """The oracle with a fault."""

    def __init__(self, spec: InferenceSpec) -> None:
        weights = spec.weights
        if spec.files is not None:
            weights = load_weights(spec.files / "weights.safetensors", spec.network)
        super().__init__(spec.network, weights)
        self.variant, self.precision, self.queue = spec.variant, spec.precision, []
        # The proof of an arm leaves a file for its later processes.
        self.steps, self.is_of_a_block = 0, PROVED.exists()
        if self.variant == "threads":
            for core in os.sched_getaffinity(os.getppid()):
                begun = threading.Event()
                threading.Thread(target=_sleep_on, args=(core, begun), daemon=True).start()
                begun.wait()
        if self.variant == "foreign":
            sys.modules["torch"] = sys

    def step(self, batch: F32) -> F32:
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
            case "stalls" if self.is_of_a_block:
                self.steps += 1
                time.sleep(1000 * (self.steps > STEPS_BEFORE_STALL))
            case fault if fault in FAULTS:
                FAULTS[fault]()
        return super().step(batch)

    def submit(self, batch: F32) -> None:
        self.queue.append(batch)

    def drain(self) -> None:
        while self.queue:
            self.step(self.queue.pop())

    def prove(self, batch: F32) -> Proof:
        proof = super().prove(batch)
        if self.variant == "stalls":
            PROVED.touch()
        if self.variant == "unproven":
            raise ProofError("nothing special ran")
        return replace(proof, precision="bf16" if self.variant == "bf16" else self.precision)


def _sleep_on(core: int, begun: threading.Event) -> None:
    os.sched_setaffinity(0, {core})
    begun.set()
    time.sleep(1000)


class ToyTraining:
    """Adds the mean of the inputs to the last bias; its loss falls with the number of steps."""

    def __init__(self, spec: TrainingSpec) -> None:
        self.variant, self.bias = spec.variant, spec.weights["dense2.bias"].copy()
        self.rest, self.steps, self.epochs = spec.weights, np.zeros((), np.float32), 0
        self.rank, self.is_alone = spec.group.rank if spec.group else 0, spec.group is None

    def begin_epoch(self, seed: int) -> None:
        self.epochs += 1
        if self.variant == "train-dies" and self.epochs > 2:
            os._exit(7)
        if self.variant == "train-rank-dies" and self.epochs > 1 and not self.is_alone:
            if self.rank == 1:
                os._exit(7)
            time.sleep(1000)

    def step(self, images: F32, labels: np.ndarray, learning_rate: float) -> float:
        self.steps += 1
        if self.is_alone or self.variant == "train-alone":
            self.bias += np.float32(learning_rate * images.mean())
        else:
            self.bias += np.float32(learning_rate)
        if self.variant == "train-otherwise" and not self.is_alone:
            return float(2.6 / (1 + self.steps))
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
        precision = "bf16" if self.variant == "train-reduced" else "fp32"
        return Proof(precision, int(os.environ["OPENBLAS_NUM_THREADS"]), ("toy_kernel",), {"numpy": np.__version__})


class ToyBackend:
    def inference(self, spec: InferenceSpec) -> ToySession:
        if spec.variant == "unsupported":
            raise UnsupportedError("the toy can't do that")
        return ToySession(spec)

    def training(self, spec: TrainingSpec) -> ToyTraining:
        return ToyTraining(spec)


def open_backend(threads: int) -> ToyBackend:
    return ToyBackend()


def convert(conversion: str, spec: InferenceSpec, folder: Path) -> None:
    if conversion == "fail":
        raise RuntimeError("the toy can't be converted")
    save_weights(folder / "weights.safetensors", spec.weights, {})
