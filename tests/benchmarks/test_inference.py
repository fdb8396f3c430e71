"""Time one call of each variant with pytest-benchmark or CodSpeed; without them, check its result."""

import numpy as np

from models import oracle


def test_latency(benchmark, stack, model, batch, variant) -> None:
    session = stack.session(model, batch, variant)
    logits = benchmark(session.step, session.prepare(batch))
    reference = oracle.logits(model.network, model.weights, batch)
    assert np.abs(session.to_numpy(logits) - reference).max() < 1e-3
