from dataclasses import replace

import numpy as np
import pytest

from bench.engine import proof as module
from bench.engine.proof import combined_proof, compare, compute_references, predict, prove_arms, read_back
from bench.engine.workers import WorkerError
from bench.records import Failure, Parity, Proof, Reference, Start
from bench.worker.messages import (
    Build,
    BuildReply,
    Predict,
    PredictReply,
    ProofReply,
    Prove,
    Save,
    SaveReply,
)
from tests.engine.conftest import FOUR, ONE, ORACLE, REPLICA, FakeGroup

PROOF = ProofReply("fp32", 1, ("k",), {"v": "1"}, 5)


class CountedSteps(list):
    def step(self, weight: float, what: str) -> None:
        self.append((weight, what))


def write_logits(logits):
    """Return a reply to Predict that writes these logits."""

    def reply(request: Predict) -> PredictReply:
        np.save(request.file, logits[: request.images])
        return PredictReply(request.images)

    return reply


@pytest.fixture
def start(monkeypatch, context, tally):
    """Return a function that makes arms start as the groups that it is given, one after the other."""
    compute_references(context, tally, CountedSteps())
    monkeypatch.setattr(module, "quiet_cores", lambda count: list(range(count)))

    def start(*groups):
        remaining = iter(groups)
        monkeypatch.setattr(module, "start_group", lambda *_: next(remaining))

    return start


def group(logits, prove=lambda _: PROOF) -> FakeGroup:
    return FakeGroup({
        Build: lambda _: BuildReply(1, 2, 3),
        Predict: write_logits(logits),
        Prove: prove,
        Save: lambda _: SaveReply(7),
    })  # fmt: skip


def test_outputs_are_compared_by_their_largest_difference_and_their_labels() -> None:
    ours, theirs = np.float32([[1, 2], [3, 0]]), np.array([[1, 2.5], [0, 1]])
    assert compare(ours, theirs) == (3.0, 0.5)


def test_references_are_stored_and_then_read_from_the_cache(context, tally, monkeypatch) -> None:
    steps = CountedSteps()
    compute_references(context, tally, steps)
    monkeypatch.setattr(module.oracle, "logits", None)
    compute_references(context, tally, steps)
    first, again = tally.journal
    assert first == again
    assert isinstance(first, Reference)
    assert first.truth == "".join(map(str, context.data.test_labels))
    assert len(first.labels) == len(first.truth) == len(tally.oracle["cnn-small"])
    assert [weight for weight, _ in steps] == [module.ORACLE_WEIGHT] * 2


def test_a_proof_of_several_workers_is_that_of_the_first_with_the_memory_of_all() -> None:
    replies = [PROOF, replace(PROOF, kernels=("other",), memory_bytes=7)]
    assert combined_proof(replies, ORACLE, 1) == replace(PROOF, memory_bytes=12)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (replace(PROOF, precision="bf16"), "precision read back as bf16, asked for fp32"),
        (replace(PROOF, threads=2), "threads read back as 2, asked for 1"),
    ],
)
def test_any_worker_that_ran_something_else_fails_the_proof(context, reply, reason) -> None:
    replies = iter([PROOF, reply])
    with pytest.raises(WorkerError, match=f"proof failed: {reason}"):
        read_back(context, FakeGroup({Prove: lambda _: next(replies)}, workers=2), ORACLE, ONE)


def test_predictions_are_read_and_their_files_removed(context) -> None:
    logits = np.arange(120, dtype=np.float32).reshape(12, 10)
    outputs = predict(context, FakeGroup({Predict: write_logits(logits)}, workers=2), ONE, 5)
    assert [output.tolist() for output in outputs] == [logits[:5].tolist()] * 2
    assert not list(context.scratch.glob("logits-*"))


@pytest.mark.parametrize(
    ("logits", "reason"),
    [
        (np.full((12, 10), np.nan), r"proof failed: 5 images, logits of shape \(5, 10\), all finite: False"),
        (np.zeros((12, 9)), r"proof failed: 5 images, logits of shape \(5, 9\), all finite: True"),
        (np.zeros((4, 10)), r"proof failed: 5 images, logits of shape \(4, 10\), all finite: True"),
    ],
)
def test_logits_that_are_not_finite_or_too_few_fail_the_proof(context, logits, reason) -> None:
    with pytest.raises(WorkerError, match=reason):
        predict(context, FakeGroup({Predict: write_logits(logits)}), ONE, 5)


def test_a_worker_that_writes_no_logits_is_an_error(context) -> None:
    with pytest.raises(WorkerError, match="wrote no logits"):
        predict(context, FakeGroup({Predict: lambda request: PredictReply(request.images)}), ONE, 5)


def test_an_arm_proves_all_cases_in_one_process(context, tally, start) -> None:
    discarded, proven = (group(tally.oracle["cnn-small"]) for _ in range(2))
    start(discarded, proven)
    steps = CountedSteps()
    prove_arms(context, tally, steps)
    assert [(record.case, record.cached, record.total_ns) for record in tally.journal.of(Start)] == [
        (ONE.id, False, 6), (FOUR.id, False, 6),
    ]  # fmt: skip
    proofs = tally.journal.of(Proof)
    assert [(proof.case, proof.agreement, proof.saved_bytes, proof.memory_bytes) for proof in proofs] == [
        (ONE.id, 1.0, 7, 5), (FOUR.id, 1.0, 7, 5),
    ]  # fmt: skip
    assert tally.labels.keys() == {(ORACLE.id, ONE.id), (ORACLE.id, FOUR.id)}
    assert tally.memory_of(ORACLE) == 5
    assert [weight for weight, _ in steps] == [module.PROOF_WEIGHT]
    assert discarded.stopped
    assert proven.stopped


def test_a_replica_is_compared_by_the_proof_of_its_original(context, tally, start) -> None:
    start(*(group(tally.oracle["cnn-small"]) for _ in range(2)))
    prove_arms(context, tally, CountedSteps())
    assert tally.journal.of(Parity) == [Parity(REPLICA.id, ORACLE.id, case.id, 0.0, 1.0) for case in (ONE, FOUR)]


def test_after_a_failure_the_next_case_is_proved_in_a_new_process(context, tally, start) -> None:
    logits = tally.oracle["cnn-small"]
    start(group(logits), group(logits + 0.01), group(logits))
    prove_arms(context, tally, CountedSteps())
    (failure,) = tally.journal.of(Failure)
    assert (failure.arm, failure.case, failure.block, failure.skipped) == (ORACLE.id, ONE.id, None, False)
    assert failure.reason.startswith("proof failed: logits differ from the oracle's by 0.01")
    assert tally.labels.keys() == {(ORACLE.id, FOUR.id)}
