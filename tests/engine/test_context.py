import numpy as np
import pytest

from bench.engine.context import load_models
from bench.engine.workers import Unsupported, WorkerError
from bench.records import Failure
from models.weights import checkpoint_path, load_weights
from models.zoo import NETWORKS
from tests.engine.conftest import FOUR, ONE, ORACLE, REPLICA


def test_a_network_without_a_checkpoint_gets_random_weights_in_a_file(tmp_path) -> None:
    models = load_models(tuple(NETWORKS), tmp_path)
    for name, model in models.items():
        assert model.trained is checkpoint_path(NETWORKS[name]).exists()
        assert (model.file.parent == tmp_path) is not model.trained
        loaded = load_weights(model.file, NETWORKS[name])
        assert all(np.array_equal(loaded[key], array) for key, array in model.weights.items())
    assert not all(model.trained for model in models.values())


def test_a_failure_is_stored_with_its_block(tally) -> None:
    tally.add_failure(ORACLE, ONE, 3, WorkerError("exited"))
    assert tally.journal == [Failure(ORACLE.id, ONE.id, 3, "exited")]
    assert not tally.unsupported


def test_what_a_stack_does_not_support_is_skipped_for_the_arm_and_its_replica(tally) -> None:
    tally.add_failure(REPLICA, ONE, 3, Unsupported("no int8"))
    assert tally.journal == [Failure(REPLICA.id, ONE.id, None, "no int8", skipped=True)]
    assert tally.unsupported == {(ORACLE.id, ONE.id)}
    assert not tally.failed_blocks


@pytest.mark.parametrize(("blocks", "allowed"), [(2, 1), (20, 1), (40, 2), (64, 3)])
def test_an_arm_may_fail_in_five_percent_of_the_blocks_but_at_least_in_one(tally, blocks, allowed) -> None:
    for number in range(1, allowed + 2):
        assert not tally.exceeds_failure_budget(ORACLE, ONE, blocks)
        tally.add_failure(ORACLE, ONE, number, WorkerError("exited"))
    assert tally.exceeds_failure_budget(ORACLE, ONE, blocks)
    assert not tally.exceeds_failure_budget(ORACLE, FOUR, blocks)


def test_failures_outside_of_blocks_do_not_count(tally) -> None:
    for _ in range(9):
        tally.add_failure(ORACLE, ONE, None, WorkerError("exited"))
    assert not tally.exceeds_failure_budget(ORACLE, ONE, 20)


def test_memory_is_the_peak_of_an_arm_and_its_replica(tally) -> None:
    assert tally.memory_of(ORACLE) == 0
    for arm, memory_bytes in ((ORACLE, 5), (REPLICA, 9), (ORACLE, 7)):
        tally.add_memory(arm, memory_bytes)
    assert tally.memory_of(ORACLE) == tally.memory_of(REPLICA) == 9
