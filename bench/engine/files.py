"""The files that some variants start from: made once by a process of their own, and kept in the user's cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.registry import stacks
from bench.engine import cache
from bench.engine.workers import Worker
from bench.suite import variables as settings
from bench.suite.arms import DEFAULT_SETTINGS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bench.suite.arms import Arm
    from bench.suite.environments import Environment
    from models.data import DataSet

CONVERT_TIMEOUT_S = 600
IMAGES, CALIBRATION = "test-images.npy", "calibration.npy"
CALIBRATION_IMAGES, CALIBRATION_SEED = 300, 0  # as many as NNCF takes by itself


@dataclass(frozen=True)
class Source:
    """What is converted: a model's specification and weights, by digest, and the images that int8 is calibrated on."""

    model: str
    spec: str
    weights: str
    weights_file: Path
    calibration: Path


@dataclass(frozen=True)
class Converted:
    """Where the files lie, how long making them took, and whether they were there already."""

    folder: Path
    convert_ns: int
    cached: bool


def calibration_images(data: DataSet) -> NDArray[np.uint8]:
    """Return the training images that int8 takes its ranges from."""
    chosen = np.random.RandomState(CALIBRATION_SEED).permutation(len(data.train_images))[:CALIBRATION_IMAGES]
    images: NDArray[np.uint8] = data.train_images[chosen]
    return images


def lay_out_images(data: DataSet, scratch: Path) -> None:
    """Write the images that workers read: those to predict, and those that int8 is calibrated on."""
    np.save(scratch / IMAGES, data.test_images, allow_pickle=False)
    np.save(scratch / CALIBRATION, calibration_images(data), allow_pickle=False)


def needs_conversion(arm: Arm) -> bool:
    """Tell whether an arm starts from files."""
    return bool(stacks()[arm.stack].variants[arm.variant].conversion)


def kind(arm: Arm, model: str) -> tuple[str, ...]:
    """Return what the files of an arm depend on within one run: arms of the same kind share them."""
    return arm.stack, stacks()[arm.stack].variants[arm.variant].conversion or "", _precision(arm), model


def convert(arm: Arm, environment: Environment, source: Source, threads: int, log: Path, scratch: Path) -> Converted:
    """Return the files of an arm, unless the cache has those of the same spec, weights, images, code and versions.

    Raises WorkerError when they can't be made, OSError when the disk refuses.
    """
    stack, precision = stacks()[arm.stack], _precision(arm)
    digest = cache.key(
        kind=kind(arm, source.model),
        spec=source.spec,
        weights=source.weights,
        images=hashlib.sha256(source.calibration.read_bytes()).hexdigest() if precision == "int8" else "",
        versions={name: environment.packages.get(name) for name in stack.packages},
    )
    request = {
        "stack": arm.stack,
        "variant": arm.variant,
        "conversion": stack.variants[arm.variant].conversion,
        "model": source.model,
        "precision": precision,
        "batch_size": 1,
        "weights": str(source.weights_file),
        "calibration": str(source.calibration),
        "files": "",
    }
    start = partial(Worker, environment.python, settings.variables(DEFAULT_SETTINGS, threads), log, scratch)

    def make(folder: Path) -> dict[str, Any]:
        """Convert twice: the first time reads the frameworks' files from disk."""
        answer: dict[str, Any] = {}
        for _ in range(2):
            with start() as worker:
                worker.wait_until_ready()
                answer = worker.request("convert", CONVERT_TIMEOUT_S, folder=str(folder), **request)
        return answer

    folder, facts, cached = cache.entry("converted", digest, make)
    return Converted(folder, int(facts["convert_ns"]), cached)


def _precision(arm: Arm) -> str:
    """Return the precision of an arm's files: bf16 starts from those of fp32."""
    return "int8" if arm.precision == "int8" else "fp32"
