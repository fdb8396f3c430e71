"""What every variant of every stack keeps at every precision, checked inside the stack's own environment."""

import numpy as np
import pytest

from backends.protocol import InferenceSpec, TrainingSpec, UnsupportedError
from backends.registry import open_backend, open_training, stacks
from bench.machine.facts import usable_cores
from models import oracle
from models.data import standardise
from models.recipes import Recipe
from models.zoo import CNN_SMALL, NETWORKS
from tests.contract.conftest import HERE

# The larger networks at one batch size: a batch of 3 divides neither the images nor any vector width.
BUILDS = [("cnn-small", 1), ("cnn-small", 64), ("cnn-bn", 3), ("cnn-vgg", 3)]


def expected(use, model, images=64):
    """Return the oracle's logits."""
    network = NETWORKS[model]
    return oracle.logits(network, use.weights[model], standardise(network, use.images[:images]))


@pytest.mark.parametrize(("model", "batch_size"), BUILDS, ids=str)
def test_logits_are_the_oracle_s(use, model, batch_size) -> None:
    """All layers, flatten order, padding, statistics of batch normalisation, dropout off; each batch its own input."""
    if use.precision != "fp32" and model != "cnn-small":
        pytest.skip("lower precisions are judged by accuracy, for which only the trained network will do")
    images = 64 if model == "cnn-small" else 6
    logits, reference = use.predict(use.build(model, batch_size), images), expected(use, model, images)
    assert logits.dtype == np.float32
    difference = np.abs(logits - reference).max()
    if use.precision == "fp32":
        assert difference < 1e-3
    else:
        assert 1e-4 < difference < 0.2 * np.abs(reference).max()
        assert (logits.argmax(axis=1) == reference.argmax(axis=1)).mean() >= 0.95


def test_precision_threads_and_kernels_are_read_back(use) -> None:
    for batch_size in (1, 64):
        proof = use.worker.request("prove", 60, case=use.build("cnn-small", batch_size))
        assert (proof["precision"], proof["threads"]) == (use.precision, usable_cores())
        assert proof["kernels"]
        assert all(proof["versions"].values())


def test_what_a_user_would_ship_has_a_size(use) -> None:
    saved = use.worker.request("save", 60, case=use.build("cnn-small", 1))["saved_bytes"]
    assert CNN_SMALL.parameters < saved < 8 * CNN_SMALL.parameters


def test_a_variant_or_precision_that_is_not_there_is_refused(own_stack, trained) -> None:
    backend = open_backend(own_stack, usable_cores())
    known = next(iter(stacks()[own_stack].variants))
    for variant, precision in (("warp", "fp32"), (known, "fp8")):
        with pytest.raises(UnsupportedError):
            backend.inference(
                InferenceSpec(CNN_SMALL, trained, variant, precision, 1, np.zeros((1, 28, 28, 1), np.float32))
            )


def test_a_stack_that_does_not_train_says_so() -> None:
    recipe = Recipe("r", "", "cnn-small", 1, 1, "sgd", 0.1)
    for stack in HERE:
        if not stack.trainings:
            with pytest.raises(UnsupportedError, match=f"{stack.name} has no training .* it does not train"):
                open_training(stack.name, 1, TrainingSpec(CNN_SMALL, {}, "train", "fp32", recipe, 0))


def test_benchmark(session, images, benchmark) -> None:
    """The pytest-benchmark way in: times a variant's step when benchmarks are enabled."""
    batch = session.prepare(images[: session.batch_size])
    benchmark(session.step, batch)
