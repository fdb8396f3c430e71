from dataclasses import replace

import numpy as np
import pytest

from bench.engine.proof.evidence import combined_proof, compare, predict, read_back
from bench.engine.workers import WorkerError
from bench.suite.arms import Split
from bench.worker.messages import Predict, PredictReply, ProofReply, Prove
from tests.engine.conftest import ONE, ORACLE, FakeGroup
from tests.engine.proof.conftest import write_logits

PROOF = ProofReply("fp32", 1, ("k",), {"v": "1"}, 5)


def test_outputs_are_compared_by_their_largest_difference_and_their_labels() -> None:
    ours, theirs = np.float32([[1, 2], [3, 0]]), np.array([[1, 2.5], [0, 1]])
    assert compare(ours, theirs) == (3.0, 0.5)


def test_a_proof_of_several_workers_is_that_of_the_first_with_the_memory_and_the_cores_of_all() -> None:
    replies = [replace(PROOF, cores=(2, 3)), replace(PROOF, kernels=("other",), memory_bytes=7, cores=(0, 1))]
    assert combined_proof(replies, ORACLE, 1, {}) == replace(PROOF, memory_bytes=12, cores=(0, 1, 2, 3))


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
        read_back(FakeGroup({Prove: lambda _: next(replies)}, workers=2), ORACLE, ONE, Split(2, 1), {})


def test_a_kernel_that_the_settings_forbid_fails_the_proof() -> None:
    limited, reply = replace(ORACLE, settings="no-amx"), replace(PROOF, kernels=("conv avx512", "conv avx512_AMX"))
    assert combined_proof([reply], ORACLE, 1, {}) == reply
    with pytest.raises(WorkerError, match="proof failed: conv avx512_AMX ran, which settings no-amx forbid"):
        combined_proof([reply], limited, 1, {})
    with pytest.raises(WorkerError, match="no kernel's name shows that settings no-amx were in effect"):
        combined_proof([PROOF], limited, 1, {})
    assert combined_proof([replace(PROOF, kernels=("conv avx512",))], limited, 1, {})


def test_a_kernel_that_the_user_forbids_fails_the_proof() -> None:
    reply, given = replace(PROOF, kernels=("conv avx512_core",)), {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    with pytest.raises(WorkerError, match="proof failed: conv avx512_core ran, which ONEDNN_MAX_CPU_ISA=AVX2 forbids"):
        combined_proof([PROOF, reply], ORACLE, 1, given)
    assert combined_proof([reply], ORACLE, 1, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"})


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
