"""Fixtures, those for pytest-benchmark among them.

In a stack's environment `python -m pytest tests/benchmarks --benchmark-only` times the first stack of this environment,
or the one that BENCH_STACK names. A case of your own needs a function that takes `benchmark`, `stack`, `model` and
`batch`; tests/benchmarks has examples.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from _pytest.nodeid import NodeId
from hypothesis import HealthCheck, settings

from backends.protocol import InferenceSpec
from backends.registry import convert, open_backend, stacks
from bench.machine.facts import usable_cores
from bench.suite.variables import restart_variables, stack_variables
from models import synthetic
from models.data import standardise
from models.weights import checkpoint_path, initial_weights, load_weights
from models.zoo import CNN_SMALL, NETWORKS
from tests.command_line import run_bench

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from backends.protocol import F32, Backend, Session
    from models.spec import Network
    from models.weights import Weights

# A slow example is no error: on a loaded machine any of them may be slow.
settings.register_profile("loaded", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded")

# What other processes of the tests measure is no disturbance that a test is about.
os.environ["BENCH_LOCK"] = str(Path(tempfile.gettempdir()) / f"cnn-stack-bench-tests-{os.getpid()}.lock")
# A shell that starts the tests in the background lets them, and what they start, ignore Ctrl-C; nohup does so with a
# closed terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).parent
# The stacks of the environment that these tests run in. tox names it; without tox it is the folder of the interpreter.
ENVIRONMENT = os.environ.get("TOX_ENV_NAME") or Path(sys.prefix).name
HERE = [stack for stack in stacks().values() if stack.environment == ENVIRONMENT]
# A process can import one framework.
OWN_STACK = os.environ.get("BENCH_STACK") or next((stack.name for stack in HERE), "oracle")
# For temporary files, in the folder of the compilers' caches.
SCRATCH = "scratch"
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


def pytest_configure(config: pytest.Config) -> None:
    """Let benchmarks run once, untimed, unless the command line asks for times."""
    if not (config.getoption("benchmark_only", False) or config.getoption("benchmark_enable", False)):
        config.option.benchmark_disable = True


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Let xdist keep in one process what shares a measured run."""
    for item in items:
        if {"measured", "swept"} & set(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
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


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let all processes, those of xdist as well, share the compilers' caches; return their folder.

    They compile as workers do, in one process: by default PyTorch starts a pool of others.
    PyTorch keeps the headers that it compiles in the folder for temporary files.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "caches"
    scratch = folder / SCRATCH
    scratch.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", str(scratch))
        # Python has remembered the folder that it found first.
        patched.setattr(tempfile, "tempdir", str(scratch))
        # PyTorch names a folder by the user, and workers have this user if there is no other name.
        patched.setenv("USER", os.environ.get("USER", str(os.getuid())))
        for name in {name for stack in HERE for name in stack.cache_variables}:
            patched.setenv(name, str(folder / name.lower()))
        for name, value in (stack_variables() | restart_variables()).items():
            patched.setenv(name, value)
        yield folder


@dataclass(frozen=True)
class Model:
    network: Network
    weights: Weights


@dataclass(frozen=True)
class OpenStack:
    """The stack of this environment; its framework is imported into this process."""

    name: str
    backend: Backend
    folder: Path

    def session(self, model: Model, batch: F32, variant: str | None = None, precision: str = "fp32") -> Session:
        """Build a session for batches of this size: `session.step(session.prepare(batch))` returns their logits."""
        name = variant or stacks()[self.name].default_variant or ""
        spec = InferenceSpec(model.network, model.weights, name, precision, len(batch), batch)
        if conversion := stacks()[self.name].variants[name].conversion:
            spec = replace(spec, files=Path(tempfile.mkdtemp(dir=self.folder)))
            convert(self.name, conversion, replace(spec, batch_size=1), spec.files)
        return self.backend.inference(spec)


@pytest.fixture(scope="session")
def stack(caches: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenStack:
    return OpenStack(OWN_STACK, open_backend(OWN_STACK, usable_cores()), tmp_path_factory.mktemp("converted"))


@pytest.fixture(params=["cnn-small"])
def model(request: pytest.FixtureRequest) -> Model:
    """Return a network by name, with its trained weights if there are any."""
    network = NETWORKS[request.param]
    file = checkpoint_path(network)
    return Model(network, load_weights(file, network) if file.exists() else initial_weights(network, seed=0))


@pytest.fixture(params=[1, 64])
def batch(request: pytest.FixtureRequest, model: Model) -> F32:
    """Return so many standardised NHWC images."""
    return standardise(model.network, synthetic.draw(request.param, stream=5)[0])


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the command line in an empty folder, as `run_bench` does."""
    return lambda *arguments, **variables: run_bench(tmp_path, *arguments, **variables)
