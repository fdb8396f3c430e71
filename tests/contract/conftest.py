"""Start the stacks of the environment that these tests run in, each use of them in a worker of its own."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from backends.protocol import InferenceSpec
from backends.registry import convert, open_backend, stacks
from bench.engine.workers import Unsupported, Worker
from bench.machine.facts import usable_cores
from bench.suite import variables as settings
from bench.suite.arms import DEFAULT_SETTINGS
from models import synthetic
from models.weights import checkpoint_path, initial_weights, load_weights, save_weights
from models.zoo import CNN_SMALL, NETWORKS

HERE = [stack for stack in stacks().values() if stack.environment == os.environ.get("TOX_ENV_NAME")]
USES = [
    (stack.name, variant, precision)
    for stack in HERE
    for variant, each in stack.variants.items()
    for precision in each.precisions
    if not each.trains
]
OTHER_TRAININGS = [
    (stack.name, variant, precision)
    for stack in HERE
    for variant, each in list(stack.trainings.items())[1:]
    for precision in each.precisions
]
# One process takes one framework: that of the environment's first stack, or of the one that BENCH_STACK names. What is
# built in it needs no environment variables of its own, and changes nothing for the others.
OWN_STACK = os.environ.get("BENCH_STACK") or next((stack.name for stack in HERE), "")
ALONE = {("itex", "off"), ("openvino", "default")}
IN_PROCESS = [
    (stack, variant)
    for stack, variant, precision in USES
    if (stack, precision) == (OWN_STACK, "fp32")
    if not stacks()[stack].variants[variant].settings and (stack, variant) not in ALONE
]
TIMEOUT_S = 300


def pytest_generate_tests(metafunc):
    """Run a test once for each use, each session, or each stack that trains, of this environment."""
    if "use" in metafunc.fixturenames:
        metafunc.parametrize("use", USES, indirect=True, ids=map("-".join, USES), scope="module")
    elif "session" in metafunc.fixturenames:
        uses = [(*use, batch_size) for use in IN_PROCESS for batch_size in (1, 64)]
        metafunc.parametrize("session", uses, indirect=True, ids=lambda use: "-".join(map(str, use)), scope="module")
    elif "own_stack" in metafunc.fixturenames:
        metafunc.parametrize("own_stack", [OWN_STACK])
    elif "trained" in metafunc.fixturenames and metafunc.module.__name__.endswith("test_training"):
        names = [stack.name for stack in HERE if stack.trainings]
        metafunc.parametrize("trained", names, indirect=True, scope="module")
    elif "other_training" in metafunc.fixturenames:
        metafunc.parametrize("other_training", OTHER_TRAININGS, ids=map("-".join, OTHER_TRAININGS))
    elif "trainer" in metafunc.fixturenames:
        metafunc.parametrize("trainer", [stack.name for stack in HERE if stack.trainings])


def lively_weights(network):
    """Return weights in which every parameter matters: trained ones, or drawn ones whose statistics are not 0 and 1."""
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


class Use:
    """One variant at one precision, in a live worker."""

    def __init__(self, folder: Path, stack: str, variant: str, precision: str) -> None:
        self.stack, self.variant, self.precision, self.folder = stack, variant, precision, folder
        self.images, _ = synthetic.draw(64, stream=5)
        self.weights = {name: lively_weights(network) for name, network in NETWORKS.items()}
        np.save(folder / "images.npy", self.images)
        for name, weights in self.weights.items():
            save_weights(folder / f"{name}.safetensors", weights, {})
        own = stacks()[stack].variants[variant].settings
        self.variables = settings.variables(DEFAULT_SETTINGS, usable_cores()) | own
        self.worker = self.start()

    def start(self) -> Worker:
        return Worker(Path(sys.executable), self.variables, self.folder / "log", self.folder).wait_until_ready()

    def request(self, model: str, batch_size: int) -> dict:
        return {
            "stack": self.stack, "variant": self.variant, "precision": self.precision, "model": model,
            "batch_size": batch_size, "threads": usable_cores(), "cores": None,
            "images": str(self.folder / "images.npy"), "calibration": str(self.folder / "images.npy"),
            "weights": str(self.folder / f"{model}.safetensors"), "delay": 0.0, "wait": 0.0,
        }  # fmt: skip

    def converted(self, model: str) -> str:
        """Convert in a worker of its own, as the harness does."""
        conversion = stacks()[self.stack].variants[self.variant].conversion
        folder = self.folder / f"converted-{model}"
        if conversion and not folder.exists():
            folder.mkdir()
            with self.start() as worker:
                request = self.request(model, 1) | {"files": "", "conversion": conversion, "folder": str(folder)}
                worker.request("convert", TIMEOUT_S, **request)
        return str(folder) if conversion else ""

    def build(self, model: str, batch_size: int) -> str:
        """Build a session and return the name of its case; what runs at another precision by default is left out."""
        case = f"{model}-{batch_size}"
        request = self.request(model, batch_size) | {"case": case, "files": self.converted(model)}
        try:
            self.worker.request("build", TIMEOUT_S, **request)
        except Unsupported as error:
            if self.variant != "default":
                raise
            pytest.skip(str(error))
        return case

    def predict(self, case: str, images: int = 64) -> np.ndarray:
        """Return the logits of the first images."""
        file = self.folder / "logits.npy"
        answer = self.worker.request("predict", TIMEOUT_S, case=case, images=images, file=str(file))
        assert answer["images"] == images
        return np.load(file, allow_pickle=False)


@pytest.fixture(scope="module")
def use(request, tmp_path_factory):
    """Return a use of a stack in a live worker."""
    found = Use(tmp_path_factory.mktemp("use"), *request.param)
    yield found
    found.worker.stop()


@pytest.fixture(scope="module")
def session(request, trained, tmp_path_factory):
    """Return a session in this process, for pytest-benchmark."""
    stack, variant, batch_size = request.param
    files, calibration = None, np.zeros((1, 28, 28, 1), np.float32)
    if conversion := stacks()[stack].variants[variant].conversion:
        files = tmp_path_factory.mktemp("files")
        convert(stack, conversion, InferenceSpec(CNN_SMALL, trained, variant, "fp32", 1, calibration), files)
    deployment = InferenceSpec(CNN_SMALL, trained, variant, "fp32", batch_size, calibration, files)
    built = open_backend(stack, usable_cores()).inference(deployment)
    built.batch_size = batch_size
    return built
