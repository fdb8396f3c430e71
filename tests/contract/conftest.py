"""Start the stacks of the environment that these tests run in, each variant and precision in its own worker."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backends.registry import stacks
from bench.engine.workers import Unsupported, Worker
from bench.machine.facts import usable_cores
from bench.suite.arms import Arm
from bench.suite.variables import arm_variables, restart_variables
from bench.worker.messages import Build, Convert, Predict
from conftest import HERE, OWN_STACK, SCRATCH
from models import synthetic
from models.weights import checkpoint_path, initial_weights, load_weights, save_weights
from models.zoo import NETWORKS
from tests.contract.connections import COMPILER, Connections
from tests.shortened import let_threads_sleep

INFERENCE = [
    (stack.name, name, precision)
    for stack in HERE
    for name, variant in stack.variants.items()
    for precision in variant.precisions
    if not variant.trains
]
OTHER_TRAININGS = [
    (stack.name, name, precision)
    for stack in HERE
    for name, variant in stack.trainings.items()
    for precision in variant.precisions
    if name != stack.default_training and not variant.optional
]
# Only a worker that hangs takes so long, whatever else the machine does.
TIMEOUT_S = 1800
# Tests that import the framework into their own process share one.
in_process = pytest.mark.xdist_group("in process")


def pytest_generate_tests(metafunc):
    """Run a test for each variant or each stack that trains in this environment.

    xdist keeps all tests of a variant, and of a stack's training, in one process.
    """
    if "variant" in metafunc.fixturenames:
        parametrize_groups(metafunc, "variant", {"-".join(variant): variant for variant in INFERENCE})
    elif "served" in metafunc.fixturenames:
        parametrize_groups(
            metafunc, "served", {"-".join(variant): variant for variant in INFERENCE if is_served(variant)}
        )
    elif "own_stack" in metafunc.fixturenames:
        metafunc.parametrize("own_stack", [OWN_STACK])
    elif "trained" in metafunc.fixturenames and metafunc.module.__name__.endswith("test_training"):
        parametrize_groups(metafunc, "trained", {stack.name: stack.name for stack in HERE if stack.trainings})
    elif "other_training" in metafunc.fixturenames:
        metafunc.parametrize("other_training", OTHER_TRAININGS, ids=map("-".join, OTHER_TRAININGS))
    elif "trainer" in metafunc.fixturenames:
        metafunc.parametrize("trainer", [stack.name for stack in HERE if stack.trainings])


def is_served(variant):
    """Return whether LoadGen is tested with a variant: the default one and those with a queue of their own, in fp32."""
    stack, name, precision = variant
    is_default = name == stacks()[stack].default_variant
    return precision == "fp32" and (is_default or stacks()[stack].variants[name].asynchronous)


def parametrize_groups(metafunc, fixture, values):
    """Parametrize a fixture with values by name; the tests of each are a group."""
    parameters = [pytest.param(value, id=name, marks=pytest.mark.xdist_group(name)) for name, value in values.items()]
    metafunc.parametrize(fixture, parameters, indirect=True, scope="module")


def nontrivial_weights(network):
    """Return weights in which every parameter matters: trained, or random with statistics other than 0 and 1."""
    if checkpoint_path(network).exists():
        return load_weights(checkpoint_path(network), network)
    random, weights = np.random.default_rng(3), initial_weights(network, seed=3)
    for name, array in weights.items():
        if array.ndim == 1:
            spread = (
                random.uniform(0.5, 1.5, array.shape)
                if name.endswith((".scale", ".variance"))
                else (random.standard_normal(array.shape) / 5)
            )
            weights[name] = spread.astype(np.float32)
    return weights


class RunningVariant:
    """One variant at one precision, in a running worker."""

    def __init__(self, folder: Path, caches: Path, stack: str, name: str, precision: str) -> None:
        self.stack, self.name, self.precision, self.folder = stack, name, precision, folder
        self.images, _ = synthetic.draw(64, stream=5)
        self.weights = {model: nontrivial_weights(network) for model, network in NETWORKS.items()}
        np.save(folder / "images.npy", self.images)
        for model, weights in self.weights.items():
            save_weights(folder / f"{model}.safetensors", weights, {})
        arm = Arm(stack, name, precision)
        self.variables = arm_variables(arm, usable_cores(), caches) | restart_variables()
        self.scratch = caches / SCRATCH
        self.connections = Connections(folder) if COMPILER else None
        if self.connections:
            self.variables |= self.connections.variables
        self.built: set[str] = set()
        self.worker = self.start()

    def start(self) -> Worker:
        return Worker(Path(sys.executable), self.variables, self.folder / "log", self.scratch).wait_until_ready()

    def converted(self, model: str) -> str | None:
        """Convert in a separate worker, as the harness does; return the folder, None if no conversion is needed."""
        conversion = stacks()[self.stack].variants[self.name].conversion
        if conversion is None:
            return None
        folder = self.folder / f"converted-{model}"
        if not folder.exists():
            folder.mkdir()
            request = Convert(
                stack=self.stack, conversion=conversion, variant=self.name, model=model, precision=self.precision,
                weights=str(self.folder / f"{model}.safetensors"), folder=str(folder),
                calibration=str(self.folder / "images.npy"),
            )  # fmt: skip
            with self.start() as worker:
                worker.request(request, TIMEOUT_S)
        return str(folder)

    def build(self, model: str, batch_size: int, streams: int = 1) -> str:
        """Build a session, unless it is there, and return the name of its case.

        Skips a variant that by default runs at another precision.
        """
        case, images = f"{model}-{batch_size}-{streams}", str(self.folder / "images.npy")
        if case in self.built:
            return case
        weights = str(self.folder / f"{model}.safetensors")
        request = Build(
            case=case, stack=self.stack, variant=self.name, model=model, precision=self.precision,
            batch_size=batch_size, threads=usable_cores(), cores=None, weights=weights, images=images,
            calibration=images, streams=streams, files=self.converted(model),
        )  # fmt: skip
        try:
            self.worker.request(request, TIMEOUT_S)
        except Unsupported as error:
            if self.name != "default":
                raise
            pytest.skip(str(error))
        self.built.add(case)
        return case

    def predict(self, case: str, images: int = 64) -> np.ndarray:
        file = self.folder / "logits.npy"
        assert self.worker.request(Predict(case, images, str(file)), TIMEOUT_S).images == images
        return np.load(file, allow_pickle=False)


@pytest.fixture(scope="session", autouse=True)
def shared_caches(caches):
    """Use the caches of compilers in every test, not only where a test asks for their folder."""
    with pytest.MonkeyPatch.context() as patched:
        let_threads_sleep(patched.setattr)
        yield


@pytest.fixture(scope="module")
def variant(request, caches, tmp_path_factory):
    running = RunningVariant(tmp_path_factory.mktemp("variant"), caches, *request.param)
    yield running
    running.worker.stop()


@pytest.fixture(scope="module")
def served(request, caches, tmp_path_factory):
    running = RunningVariant(tmp_path_factory.mktemp("served"), caches, *request.param)
    yield running
    running.worker.stop()


def write_in_own_process(stack: str, weights: Path, file: Path) -> None:
    """Write a file of a stack's framework from weights of cnn-small; a process can import one framework."""
    code = (
        "import sys; from pathlib import Path\n"
        "from backends.registry import write_model\n"
        "from models.weights import load_weights\n"
        "from models.zoo import CNN_SMALL\n"
        "weights = load_weights(Path(sys.argv[2]), CNN_SMALL)\n"
        "write_model(sys.argv[1], Path(sys.argv[3]), CNN_SMALL, weights)\n"
    )
    subprocess.run([sys.executable, "-c", code, stack, str(weights), str(file)], check=True)
