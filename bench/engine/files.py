"""The files that workers read: images, and the converted models that some variants start from."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.registry import stacks
from bench import cache
from bench.engine.workers import Worker
from bench.machine import resources
from bench.machine.compiler import COMPILE_TIMEOUT_S, compiler
from bench.suite.suite import variant_of
from bench.suite.variables import environment_variables
from bench.worker.messages import Convert
from models.timeouts import timeout_factor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from bench.suite.arms import Arm
    from bench.suite.environments import Environment
    from models.data import DataSet

CONVERT_TIMEOUT_S, CONVERSION_SETTINGS = 600, "malloc"
# Threads that read at the same time, and the most bytes of one call.
READERS, READ_BYTES = 4, 1 << 30
# Linux reads a file of this size in the background if it is told that the file is needed; of a larger one only a part.
SMALL_BYTES = 1 << 17
# TorchInductor reads all of torch's sources, to know whether its cache is valid.
READ_AHEAD = (".so", ".py", ".pyc", ".h")
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


def read_ahead(folders: Iterable[Path], scratch: Path) -> None:
    """Read what starts and compilers need in these environments, so that no cold start includes reading it from disk.

    The largest files are last, and left out where all of them would fill more than half of the available memory.
    """
    with ThreadPoolExecutor(READERS) as pool:
        pool.submit(_start_compiler, scratch)
        # Environments share files, as hard links.
        found = {identity: file for folder in folders for identity, file in _files_to_read(folder).items()}
        files = sorted(found.values())
        sums = accumulate(size for size, _ in files)
        available = resources.memory_available_bytes()
        left = sys.maxsize if available is None else available // 2
        chosen = [file for file, total in zip(files, sums, strict=True) if total <= left]
        # There are fifty times as many small files as large ones; threads would only wait for each other.
        for size, path in chosen:
            if size <= SMALL_BYTES:
                _announce(path)
        list(pool.map(_read, (Path(path) for size, path in chosen if size > SMALL_BYTES)))


def _files_to_read(folder: Path) -> dict[tuple[int, int], tuple[int, str]]:
    """Return size and path of each library, module and header in a folder, by device and inode."""
    found, folders = {}, [os.fspath(folder)]
    while folders:
        # What can't be read here fails later, in the arm that needs it.
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.name.endswith(READ_AHEAD) or ".so." in entry.name:
                    # A link may be broken.
                    with suppress(OSError):
                        stat = entry.stat()
                        found[stat.st_dev, stat.st_ino] = (stat.st_size, entry.path)
    return found


def _announce(path: str) -> None:
    """Let the kernel read a small file in the background."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def _read(path: Path) -> None:
    # Nothing is copied from the page cache, so that files that are in it already cost little.
    with suppress(OSError), path.open("rb") as file, Path(os.devnull).open("wb") as nowhere:
        while os.sendfile(nowhere.fileno(), file.fileno(), None, READ_BYTES):
            pass


def _start_compiler(scratch: Path) -> None:
    """Compile an empty program with the standard headers; a machine without a compiler has no file to read."""
    command = [compiler(), "-fopenmp", "-shared", "-x", "c++", "-", "-o", str(scratch / "nothing.so")]
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(  # noqa: S603 - the compiler that the stacks use
            command,
            input=b"#include <bits/stdc++.h>\n",
            capture_output=True,
            check=False,
            timeout=COMPILE_TIMEOUT_S * timeout_factor(),
        )


def needs_conversion(arm: Arm) -> bool:
    return variant_of(arm).conversion is not None


def conversion_key(arm: Arm, model: str) -> tuple[str, ...]:
    """Return what distinguishes conversions within a run: arms with equal keys share their files."""
    return arm.stack, variant_of(arm).conversion or "", _file_precision(arm), model


def convert(
    arm: Arm,
    environment: Environment,
    source: Source,
    threads: int,
    log: Path,
    scratch: Path,
    given: Mapping[str, str],
) -> Converted:
    """Return an arm's converted files, from the cache if all that they depend on is the same.

    They depend on weights, images, code, package versions, and the variables that the user has `given`.
    Raises WorkerError when the conversion fails, OSError when the disk refuses.
    """
    stack, precision = stacks()[arm.stack], _file_precision(arm)
    digest = cache.key(
        kind=conversion_key(arm, source.model),
        spec=source.spec,
        weights=source.weights,
        images=hashlib.sha256(source.calibration.read_bytes()).hexdigest() if precision == "int8" else "",
        versions={name: environment.packages.get(name) for name in stack.packages},
        **({"given": dict(given)} if given else {}),
    )
    # Not bound: with OMP_PROC_BIND, importing PyTorch leaves one core to the threads that other libraries start.
    variables = environment_variables(CONVERSION_SETTINGS, threads, given)

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
