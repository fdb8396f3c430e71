"""A case of one's own: the step and what comes before and after it."""

import pytest


@pytest.mark.parametrize("model", ["cnn-small", "cnn-bn"], indirect=True)
@pytest.mark.parametrize("batch", [8], indirect=True)
def test_from_images_to_labels(benchmark, stack, model, batch) -> None:
    session = stack.session(model, batch)

    def labels():
        return session.to_numpy(session.step(session.prepare(batch))).argmax(axis=1)

    assert len(benchmark(labels)) == len(batch)
