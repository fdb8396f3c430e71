"""Fixtures, and the stack that pytest-benchmark times.

In a stack's environment `pytest --benchmark-enable tests/contract -k benchmark` times every variant of its first
stack, or of the one that BENCH_STACK names.
"""

from __future__ import annotations

import os
import signal
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from _pytest.nodeid import NodeId
from hypothesis import HealthCheck, settings

from models import data
from models.weights import checkpoint_path, initial_weights, load_weights
from models.zoo import CNN_SMALL
from tests.command_line import run_bench

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from numpy.typing import NDArray

    from models.weights import Weights

# A slow example is no error: on a loaded machine any of them may be slow.
settings.register_profile("loaded", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded")

# What other processes of the tests measure is no disturbance that a test is about.
os.environ["BENCH_LOCK"] = str(Path(tempfile.gettempdir()) / f"cnn-stack-bench-tests-{os.getpid()}.lock")
# A shell that starts the tests in the background lets them, and what they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent
SMALL = """\
name = "small"
summary = "two arms that work"
scenarios = ["latency"]
models = ["cnn-small"]
batch_sizes = [64]
precisions = ["fp32"]
arms = ["oracle/numpy", "toy/good"]
baselines = ["oracle/numpy"]
primary = ["toy/good"]
"""


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Let xdist keep in one process what shares a measured run, and runs that need much memory."""
    for item in items:
        if {"measured", "swept"} & set(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
        elif item.get_closest_marker("stacks"):
            item.add_marker(pytest.mark.xdist_group("stacks"))
        # The version 3.8 of xdist appends a test's group to an attribute that pytest 9 no longer has.
        if "PYTEST_XDIST_WORKER" in os.environ and (group := item.get_closest_marker("xdist_group")):
            item._id = NodeId.parse(f"{item.nodeid}@{group.args[0]}")


@pytest.fixture(scope="session")
def weights() -> Weights:
    """Return seeded, untrained weights of `cnn-small`."""
    return initial_weights(CNN_SMALL, seed=0)


@pytest.fixture(scope="session")
def trained() -> Weights:
    return load_weights(checkpoint_path(CNN_SMALL), CNN_SMALL)


@pytest.fixture(scope="session")
def images() -> NDArray[np.float32]:
    """Return 64 standardised random NHWC images."""
    return np.random.default_rng(1).standard_normal((64, 28, 28, 1)).astype(np.float32)


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the command line in an empty folder, as `run_bench` does."""
    return lambda *arguments, **variables: run_bench(tmp_path, *arguments, **variables)


def use_few_test_images(patched: pytest.MonkeyPatch, count: int = 500) -> None:
    """Let this process load only some of the synthetic test images, so that proofs are fast."""
    full = data.load("synthetic")
    test = {"test_images": full.test_images[:count], "test_labels": full.test_labels[:count]}
    few = replace(full, digest=f"{full.digest}-{count}", **test)
    patched.setattr(data, "load", lambda _: few)
