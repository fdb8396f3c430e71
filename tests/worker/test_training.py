import time

import numpy as np
import pytest

from backends.protocol import Proof
from bench.worker import training as module
from bench.worker.messages import (
    Evaluate,
    OpenTraining,
    ProveTraining,
    RestoreOptimizer,
    RunEpoch,
    SaveCheckpoint,
)
from bench.worker.process import NotReadyError
from bench.worker.timing import DivergedError
from bench.worker.training import TrainingWorker, cross_entropy
from models.feed import Feed
from models.recipes import Recipe
from models.weights import initial_weights, load_arrays, load_weights, save_weights
from models.zoo import CNN_SMALL

RECIPE = Recipe("r", "", "cnn-small", epochs=1, batch_size=4, optimizer="sgd", learning_rate=0.1)


class FakeTraining:
    """Records its calls; its logits favour class 1."""

    def __init__(self, spec) -> None:
        self.spec, self.seeds, self.rates, self.restored = spec, [], [], None

    def begin_epoch(self, seed):
        self.seeds.append(seed)

    def step(self, images, labels, learning_rate):
        self.rates.append(learning_rate)
        return float(len(labels))

    def logits(self, images):
        return np.tile(np.eye(10, dtype=np.float32)[1], (len(images), 1))

    def weights(self):
        return self.spec.weights

    def state(self):
        return {"steps": np.full(1, len(self.rates), np.float32)}

    def restore(self, state):
        self.restored = state

    def prove(self, images, labels):
        return Proof("fp32", 1, ("k",), {"v": "1"})


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Return a worker with a training on 10 images, in batches of 4, and the fake training."""
    created = []

    def open_training(stack, threads, spec):
        created.append(FakeTraining(spec))
        return created[-1]

    monkeypatch.setattr(module, "open_training", open_training)
    np.save(tmp_path / "images.npy", np.zeros((10, 28, 28), np.uint8))
    np.save(tmp_path / "labels.npy", np.ones(10, np.uint8))
    save_weights(tmp_path / "weights.safetensors", initial_weights(CNN_SMALL, 0), {})
    worker = TrainingWorker()
    paths = {name: str(tmp_path / f"{name}.npy") for name in ("images", "labels")}
    worker.open(
        OpenTraining(
            stack="oracle", variant="train", precision="fp32", recipe=RECIPE, seed=3, threads=1, cores=None,
            weights=str(tmp_path / "weights.safetensors"), **paths,
        )
    )  # fmt: skip
    return worker, created[0], paths


def test_an_epoch_includes_the_last_partial_batch(opened) -> None:
    worker, training, _ = opened
    reply = worker.run_epoch(RunEpoch(epoch=0, seed=3, learning_rates=(0.1, 0.2, 0.3)))
    assert training.rates == [0.1, 0.2, 0.3]
    assert (reply.images, reply.loss) == (10, (4 * 4 + 4 * 4 + 2 * 2) / 10)


def test_an_epoch_in_parts_is_the_same_as_a_whole_one(opened) -> None:
    worker, training, _ = opened
    whole = worker.run_epoch(RunEpoch(0, 3, (0.1, 0.2, 0.3)))
    first = worker.run_epoch(RunEpoch(0, 3, (0.1,)))
    last = worker.run_epoch(RunEpoch(0, 3, (0.2, 0.3), goes_on=True))
    assert training.rates == [0.1, 0.2, 0.3] * 2
    assert len(training.seeds) == 2
    assert (first.images, last.images) == (4, 10)
    assert first.wall_ns < last.wall_ns
    assert (last.digest, last.loss, last.losses) == (whole.digest, whole.loss, whole.losses)
    assert first.digest != last.digest


def test_an_epoch_that_was_not_started_can_not_go_on(opened) -> None:
    with pytest.raises(NotReadyError, match="no epoch was started"):
        opened[0].run_epoch(RunEpoch(0, 3, (0.1,), goes_on=True))


def test_after_a_part_no_thread_makes_further_batches(opened, monkeypatch) -> None:
    worker, *_ = opened
    made, batch = [], Feed.batch

    def slow(self, order, epoch, index):
        time.sleep(0.02)
        made.append(index)
        return batch(self, order, epoch, index)

    monkeypatch.setattr(Feed, "batch", slow)
    worker.run_epoch(RunEpoch(0, 3, (0.1,)))
    # One that is used, and two in advance.
    assert sorted(made) == [0, 1, 2]


def test_the_dropout_seed_and_the_digest_depend_on_seed_and_epoch(opened) -> None:
    worker, training, _ = opened
    epochs = [worker.run_epoch(RunEpoch(epoch, seed, (0.1,) * 3)) for epoch, seed in ((0, 3), (0, 3), (1, 3), (0, 4))]
    first, again, second, other = training.seeds
    assert first == again
    assert len({first, second, other}) == 3
    assert epochs[0].digest == epochs[1].digest


def test_accuracy_and_loss_are_those_of_the_logits(opened) -> None:
    worker, _, paths = opened
    reply = worker.evaluate(Evaluate(**paths))
    assert (reply.accuracy, reply.images) == (1.0, 10)
    assert reply.loss == pytest.approx(np.log(np.e + 9) - 1)


def test_logits_that_are_not_finite_have_diverged(opened, monkeypatch) -> None:
    worker, training, paths = opened
    monkeypatch.setattr(training, "logits", lambda images: np.full((len(images), 10), np.nan))
    with pytest.raises(DivergedError, match="not all finite"):
        worker.evaluate(Evaluate(**paths))


def test_a_checkpoint_restores_weights_and_optimizer(opened, tmp_path) -> None:
    worker, training, _ = opened
    worker.run_epoch(RunEpoch(0, 3, (0.1,) * 3))
    weights, state = tmp_path / "w.safetensors", tmp_path / "s.safetensors"
    worker.save_checkpoint(SaveCheckpoint(str(weights), str(state)))
    assert all(
        np.array_equal(load_weights(weights, CNN_SMALL)[name], array) for name, array in training.spec.weights.items()
    )
    worker.restore_optimizer(RestoreOptimizer(str(state)))
    assert training.restored["steps"] == load_arrays(state)["steps"] == 3


def test_a_training_is_proved(opened) -> None:
    proof = opened[0].prove(ProveTraining())
    assert (proof.precision, proof.threads, proof.kernels, proof.versions) == ("fp32", 1, ("k",), {"v": "1"})
    assert proof.memory_bytes > 0


def test_an_epoch_before_a_training_is_opened_is_an_error() -> None:
    with pytest.raises(NotReadyError, match="no training was opened"):
        TrainingWorker().run_epoch(RunEpoch(0, 0, (0.1,)))


def test_cross_entropy_does_not_overflow() -> None:
    logits = np.array([[1000.0, 0.0], [0.0, 0.0]])
    assert cross_entropy(logits, np.array([0, 1])) == pytest.approx(np.log(2) / 2)
