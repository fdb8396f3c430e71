"""Two ranks with one core each train one network as a single worker does, on every stack that trains."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from backends.registry import stacks
from bench.engine.scaling.ranks import request_of_ranks
from bench.engine.workers import Worker, WorkerError, WorkerGroup
from bench.suite.arms import Arm
from bench.suite.variables import arm_variables, restart_variables
from bench.worker.messages import DigestWeights, Listen, OpenTraining, ProveTraining, RunEpoch, SaveCheckpoint
from models import synthetic
from models.feed import union_digest
from models.recipes import Recipe
from models.weights import initial_weights, load_arrays, save_weights
from models.zoo import CNN_SMALL
from tests.network import HOSTS, WIRE, two_namespaces

TIMEOUT_S = 600
IMAGES, BATCH, RATE = 256, 32, 0.05
SGD = Recipe("sgd", "", "cnn-small", 1, BATCH, "sgd", RATE, momentum=0.9)
ADAM = Recipe("adam", "", "cnn-small", 1, BATCH, "adam", 1e-3)
# Relative, after eight steps.
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 1e-4


@contextmanager
def opened_group(folder, caches, stack, workers=2, interface="lo", places=(), recipes=(SGD,)):
    """Yield a group of ranks that have opened a training of each recipe."""
    arm, cores = Arm(stack, stacks()[stack].default_training), sorted(os.sched_getaffinity(0))
    variables = arm_variables(arm, 1, caches) | restart_variables()
    start = partial(Worker, Path(sys.executable), variables, folder / f"log-{workers}", folder)
    with WorkerGroup([partial(start, place=places[rank] if places else ()) for rank in range(workers)]) as group:
        group.wait_until_ready()
        group.addresses = ()
        if workers > 1:
            replies = request_of_ranks(group, [Listen(interface)] * workers, TIMEOUT_S)
            group.addresses = tuple(reply.address for reply in replies)
        for recipe in recipes:
            opening = OpenTraining(
                stack=stack, variant=arm.variant, precision="fp32", recipe=recipe, seed=3, threads=1, cores=None,
                weights=str(folder / "initial.safetensors"), images=str(folder / "images.npy"),
                labels=str(folder / "labels.npy"), name=recipe.name, addresses=group.addresses, timeout_s=60.0,
            )  # fmt: skip
            own = [replace(opening, rank=rank, cores=(cores[rank % len(cores)],)) for rank in range(workers)]
            request_of_ranks(group, own, TIMEOUT_S)
        yield group


class Trained:
    """A group that has trained an epoch of each recipe: its ranks' replies, weights and proofs."""

    def __init__(self, folder, caches, stack, workers, interface="lo", places=(), recipes=(SGD, ADAM)) -> None:
        self.epochs, self.digests, self.weights = {}, {}, {}
        with opened_group(folder, caches, stack, workers, interface, places, recipes) as group:
            self.addresses = group.addresses
            for recipe in recipes:
                rates = (recipe.learning_rate,) * (IMAGES // BATCH)
                epoch = RunEpoch(0, 3, rates, recipe.name)
                self.epochs[recipe.name] = request_of_ranks(group, [epoch] * workers, TIMEOUT_S)
                replies = request_of_ranks(group, [DigestWeights(recipe.name)] * workers, TIMEOUT_S)
                self.digests[recipe.name] = {reply.digest for reply in replies}
                self.listening = {address for reply in replies for address in reply.listening}
                files = [folder / f"{recipe.name}-{workers}-{rank}.safetensors" for rank in range(workers)]
                saves = [SaveCheckpoint(str(file), f"{file}-state", recipe.name) for file in files]
                request_of_ranks(group, saves, TIMEOUT_S)
                self.weights[recipe.name] = load_arrays(files[-1])
            self.proofs = request_of_ranks(group, [ProveTraining(recipes[0].name)] * workers, TIMEOUT_S)


@pytest.fixture(scope="module")
def training_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scaling")
    images, labels = synthetic.draw(IMAGES, stream=4)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    save_weights(folder / "initial.safetensors", initial_weights(CNN_SMALL, 7), {})
    return folder


def test_two_ranks_train_as_one_worker_does(training_files, caches, trainer) -> None:
    one, two = (Trained(training_files, caches, trainer, workers) for workers in (1, 2))
    for recipe in (SGD, ADAM):
        (whole,), shares = one.epochs[recipe.name], two.epochs[recipe.name]
        assert [share.images for share in shares] == [IMAGES // 2] * 2
        # Together the ranks have consumed exactly the images of the one worker, in its order.
        assert union_digest(share.digest for share in shares) == whole.digest
        assert len(whole.losses) == IMAGES // BATCH
        joint = np.mean([share.losses for share in shares], axis=0)
        np.testing.assert_allclose(joint, whole.losses, rtol=LOSS_TOLERANCE)
        assert whole.losses[-1] < whole.losses[0]
        assert len(two.digests[recipe.name]) == 1
        for name, array in one.weights[recipe.name].items():
            difference = np.linalg.norm(two.weights[recipe.name][name] - array)
            assert difference <= WEIGHT_TOLERANCE * np.linalg.norm(array), name
    # Nobody but this machine can connect to the ranks.
    assert two.listening
    assert {address.rpartition("%")[2] for address in two.listening} == {"lo"}
    assert [(proof.precision, proof.threads) for proof in two.proofs] == [("fp32", 1)] * 2
    engines = {"pytorch": "DistributedDataParallel, gloo", "tensorflow": "CollectiveAllReduceStrategy, gRPC"}
    vanilla = stacks()[trainer].baselines or (trainer,)
    assert {proof.versions["engine"] for proof in two.proofs} == {engines[vanilla[0]]}


def test_ranks_in_two_network_namespaces_train_together_over_a_wire(training_files, caches, trainer) -> None:
    if stacks()[trainer].baselines:
        pytest.skip("its engine is that of its stock stack")
    with two_namespaces() as places:
        two = Trained(training_files, caches, trainer, 2, WIRE, places, (SGD,))
    one = Trained(training_files, caches, trainer, 1, recipes=(SGD,))
    assert tuple(address.split(":")[0] for address in two.addresses) == HOSTS
    (whole,), shares = one.epochs["sgd"], two.epochs["sgd"]
    assert union_digest(share.digest for share in shares) == whole.digest
    np.testing.assert_allclose(np.mean([share.losses for share in shares], axis=0), whole.losses, rtol=LOSS_TOLERANCE)
    assert len(two.digests["sgd"]) == 1


def train_on(group, epochs) -> None:
    for number in range(epochs):
        epoch = RunEpoch(number, 3, (1e-3,) * (IMAGES // BATCH), "sgd")
        request_of_ranks(group, [epoch] * len(group.workers), TIMEOUT_S)


def test_a_rank_that_dies_in_an_epoch_ends_its_group_with_one_reason(training_files, caches, trainer) -> None:
    """The other rank waits in the exchange of gradients, and must not wait for ever."""
    with opened_group(training_files, caches, trainer) as group:
        killer = threading.Timer(1.0, os.kill, (group.workers[1].pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(WorkerError, match="rank 1 of 2: was killed by SIGKILL"):
            train_on(group, epochs=10**4)
        killer.join()
        for worker in group.workers:
            assert worker._process.wait(TIMEOUT_S) == -signal.SIGKILL
