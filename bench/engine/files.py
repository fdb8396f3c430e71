"""The files that workers read: images, and the converted models that some variants start from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.registry import stacks
from bench.engine import cache
from bench.engine.workers import Worker
from bench.suite.arms import DEFAULT_SETTINGS
from bench.suite.variables import environment_variables
from bench.worker.messages import Convert

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bench.suite.arms import Arm
    from bench.suite.environments import Environment
    from models.data import DataSet

CONVERT_TIMEOUT_S = 600
IMAGES, CALIBRATION = "test-images.npy", "calibration.npy"
# As many images as NNCF uses by default.
CALIBRATION_IMAGES, CALIBRATION_SEED = 300, 0


@dataclass(frozen=True)
class Source:
    """The model to convert: digests of its specification and weights, and the files that are read."""

    model: str
    spec: str
    weights: str
    weights_file: Path
    calibration: Path


@dataclass(frozen=True)
class Converted:
    """The folder of converted files, how long the conversion took, and whether an earlier run made it."""

    folder: Path
    convert_ns: int
    cached: bool


def calibration_images(data: DataSet) -> NDArray[np.uint8]:
    """Return the training images from which int8 takes its ranges."""
    chosen = np.random.RandomState(CALIBRATION_SEED).permutation(len(data.train_images))[:CALIBRATION_IMAGES]
    images: NDArray[np.uint8] = data.train_images[chosen]
    return images


def lay_out_images(data: DataSet, scratch: Path) -> None:
    np.save(scratch / IMAGES, data.test_images, allow_pickle=False)
    np.save(scratch / CALIBRATION, calibration_images(data), allow_pickle=False)


def needs_conversion(arm: Arm) -> bool:
    return stacks()[arm.stack].variants[arm.variant].conversion is not None


def conversion_key(arm: Arm, model: str) -> tuple[str, ...]:
    """Return what distinguishes conversions within a run: arms with equal keys share their files."""
    return arm.stack, stacks()[arm.stack].variants[arm.variant].conversion or "", _file_precision(arm), model


def convert(arm: Arm, environment: Environment, source: Source, threads: int, log: Path, scratch: Path) -> Converted:
    """Return an arm's converted files, from the cache if weights, images, code and package versions are the same.

    Raises WorkerError when the conversion fails, OSError when the disk refuses.
    """
    stack, precision = stacks()[arm.stack], _file_precision(arm)
    digest = cache.key(
        kind=conversion_key(arm, source.model),
        spec=source.spec,
        weights=source.weights,
        images=hashlib.sha256(source.calibration.read_bytes()).hexdigest() if precision == "int8" else "",
        versions={name: environment.packages.get(name) for name in stack.packages},
    )
    variables = environment_variables(DEFAULT_SETTINGS, threads)

    def make(folder: Path) -> dict[str, Any]:
        request = Convert(
            stack=arm.stack,
            conversion=stack.variants[arm.variant].conversion or "",
            variant=arm.variant,
            model=source.model,
            precision=precision,
            weights=str(source.weights_file),
            folder=str(folder),
            calibration=str(source.calibration),
        )
        convert_ns = 0
        # The time of the second conversion is stored: the first one also reads the frameworks' files from disk.
        for _ in range(2):
            with Worker(environment.python, variables, log, scratch) as worker:
                convert_ns = worker.wait_until_ready().request(request, CONVERT_TIMEOUT_S).convert_ns
        return {"convert_ns": convert_ns}

    folder, facts, cached = cache.entry("converted", digest, make)
    return Converted(folder, int(facts["convert_ns"]), cached)


def _file_precision(arm: Arm) -> str:
    """Return the precision of an arm's files: bf16 starts from fp32 files."""
    return "int8" if arm.precision == "int8" else "fp32"
