"""What holds for every variant at every precision, checked inside the stack's own environment."""

import subprocess
import sys

import numpy as np
import pytest

from backends.protocol import InferenceSpec, TrainingSpec, UnsupportedError
from backends.registry import open_backend, open_training, stacks
from bench.machine.facts import usable_cores
from bench.worker.messages import Prove, Save
from conftest import HERE
from models import oracle
from models.data import standardise
from models.recipes import Recipe
from models.zoo import CNN_SMALL, NETWORKS
from tests.contract.conftest import TIMEOUT_S, in_process
from tests.contract.connections import COMPILER, Connections

# The larger networks have one batch size, of 3: it divides neither the number of images nor any vector width.
BUILDS = [("cnn-small", 1), ("cnn-small", 64), ("cnn-bn", 3), ("cnn-vgg", 3)]


def oracle_logits(variant, model, images=64):
    network = NETWORKS[model]
    return oracle.logits(network, variant.weights[model], standardise(network, variant.images[:images]))


@pytest.mark.parametrize(("model", "batch_size"), BUILDS, ids=str)
def test_logits_agree_with_the_oracle(variant, model, batch_size) -> None:
    """Covers layers, flatten order, padding, the statistics of batch normalisation, dropout, and distinct batches."""
    if variant.precision != "fp32" and model != "cnn-small":
        pytest.skip("lower precisions are compared by accuracy, which needs the trained network")
    images = 64 if model == "cnn-small" else 6
    logits, reference = variant.predict(variant.build(model, batch_size), images), oracle_logits(variant, model, images)
    assert logits.dtype == np.float32
    difference = np.abs(logits - reference).max()
    if variant.precision == "fp32":
        assert difference < 1e-3
    else:
        assert 1e-4 < difference < 0.2 * np.abs(reference).max()
        assert (logits.argmax(axis=1) == reference.argmax(axis=1)).mean() >= 0.95


def test_precision_threads_and_kernels_are_read_back(variant) -> None:
    for batch_size in (1, 64):
        proof = variant.worker.request(Prove(variant.build("cnn-small", batch_size)), TIMEOUT_S)
        assert (proof.precision, proof.threads) == (variant.precision, usable_cores())
        assert proof.kernels
        assert all(proof.versions.values())


def test_the_files_to_deploy_have_a_plausible_size(variant) -> None:
    saved = variant.worker.request(Save(variant.build("cnn-small", 1)), TIMEOUT_S).saved_bytes
    # A package of compiled code holds libraries and sources besides the weights.
    code_bytes = 4 << 20 if variant.name == "aot" else 0
    assert CNN_SMALL.parameters < saved < 8 * CNN_SMALL.parameters + code_bytes


def test_nothing_tries_to_reach_a_network(variant) -> None:
    """No framework may report to its makers; the process that converts the model has the recorder, too."""
    if variant.connections is None:
        pytest.skip("needs a C compiler")
    variant.predict(variant.build("cnn-small", 1))
    assert variant.connections.attempts() == []


def test_the_recorder_notices_python_and_what_it_starts(tmp_path) -> None:
    if COMPILER is None:
        pytest.skip("needs a C compiler")
    connections = Connections(tmp_path)
    code = (
        "import socket, subprocess, sys\n"
        "with socket.socket() as one:\n"
        "    one.connect_ex(('127.0.0.1', 9))\n"
        "subprocess.run([sys.executable, '-c', 'import socket; socket.getaddrinfo(\"127.0.0.1\", 9)'])\n"
    )
    subprocess.run([sys.executable, "-c", code], env=connections.variables, check=True)
    assert connections.attempts() == ["connect", "127.0.0.1"]


@in_process
def test_an_unknown_variant_or_precision_is_refused(own_stack, trained) -> None:
    backend = open_backend(own_stack, usable_cores())
    calibration = np.zeros((1, 28, 28, 1), np.float32)
    for variant, precision in (("warp", "fp32"), (stacks()[own_stack].default_variant, "fp8")):
        with pytest.raises(UnsupportedError):
            backend.inference(InferenceSpec(CNN_SMALL, trained, variant, precision, 1, calibration))


@in_process
def test_a_training_on_a_stack_that_cannot_train_is_refused() -> None:
    recipe = Recipe("r", "", "cnn-small", 1, 1, "sgd", 0.1)
    for stack in HERE:
        if not stack.trainings:
            with pytest.raises(UnsupportedError, match=f"{stack.name} has no training .* it does not train"):
                open_training(stack.name, 1, TrainingSpec(CNN_SMALL, {}, "train", "fp32", recipe, 0))
