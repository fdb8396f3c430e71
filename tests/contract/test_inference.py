"""What every variant of every stack keeps, checked inside the stack's own environment."""

import numpy as np
import pytest

from backends.protocol import UnsupportedError, open_backend
from bench.machine import usable_cores
from models import oracle
from models.zoo import CNN_SMALL


def predict(session, images):
    """Return a session's logits of one batch."""
    return session.to_numpy(session.step(session.prepare(images))).copy()


def test_logits_equal_the_oracle_s(session, trained, images) -> None:
    batch = images[: session.batch_size]
    assert np.abs(predict(session, batch) - oracle.logits(CNN_SMALL, trained, batch)).max() < 1e-4


def test_logits_are_float32_in_host_memory(session, images) -> None:
    logits = predict(session, images[: session.batch_size])
    assert logits.dtype == np.float32
    assert logits.shape == (session.batch_size, 10)


def test_every_call_computes_its_own_input(session, trained, images) -> None:
    """Nothing is kept from one call to the next: three inputs in turn, twice, give their own logits each time."""
    size = session.batch_size
    inputs = [np.ascontiguousarray(images[:size] * scale) for scale in (1, 2, 3)] * 2
    batches = [session.prepare(batch) for batch in inputs]
    for batch, prepared in zip(inputs, batches, strict=True):
        logits = session.to_numpy(session.step(prepared))
        assert np.abs(logits - oracle.logits(CNN_SMALL, trained, batch)).max() < 1e-3


def test_flattening_follows_nhwc_order(session, trained) -> None:
    """An image that is bright in one corner tells a permuted flatten apart."""
    batch = np.zeros((session.batch_size, 28, 28, 1), np.float32)
    batch[:, :5, 20:] = 3
    assert np.abs(predict(session, batch) - oracle.logits(CNN_SMALL, trained, batch)).max() < 1e-4


def test_the_proof_reads_back_precision_threads_and_kernels(session, images) -> None:
    proof = session.prove(session.prepare(images[: session.batch_size]))
    assert (proof.precision, proof.threads) == ("fp32", usable_cores())
    assert proof.kernels
    assert all(proof.versions.values())


def test_a_variant_or_precision_that_is_not_there_is_refused(stack, trained) -> None:
    backend = open_backend(stack, usable_cores())
    for variant, precision in (("warp", "fp32"), ("eager", "fp8")):
        with pytest.raises(UnsupportedError):
            backend.inference(CNN_SMALL, trained, variant, precision, 1)


def test_benchmark(session, images, benchmark) -> None:
    """The pytest-benchmark way in: times a variant's step when benchmarks are enabled."""
    batch = session.prepare(images[: session.batch_size])
    benchmark(session.step, batch)
