"""What workers predict and read back, and whether it is what their arm claims."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.analysis import gates
from bench.engine.build import (
    workers_and_threads,
)
from bench.engine.workers import WorkerError
from bench.suite.user_variables import limit_fault
from bench.suite.variables import ISA_LIMITS
from bench.worker.messages import Predict, Prove
from models.data import CLASSES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bench.engine.context import RunContext
    from bench.engine.workers import WorkerGroup
    from bench.suite.arms import Arm, Case, Split
    from bench.suite.variables import IsaLimit
    from bench.worker.messages import ProofReply

PREDICT_TIMEOUT_S = 600


def predict(context: RunContext, group: WorkerGroup, case: Case, images: int) -> list[NDArray[np.float32]]:
    """Return each worker's logits of the first test images, of shape (images, classes).

    Raises WorkerError when a worker predicted another number of images, or when logits are not finite.
    """
    files = [context.scratch / f"logits-{pid}.npy" for pid in group.pids]
    try:
        requests = [Predict(case.id, images, str(file)) for file in files]
        replies = group.request_each(requests, PREDICT_TIMEOUT_S)
        outputs: list[NDArray[np.float32]] = [np.load(file, allow_pickle=False) for file in files]
    except (OSError, ValueError) as error:
        raise WorkerError(f"wrote no logits ({error})") from error
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    for reply, logits in zip(replies, outputs, strict=True):
        finite = bool(np.isfinite(logits).all())
        if (reply.images, logits.shape, finite) != (images, (images, len(CLASSES)), True):
            shape = f"logits of shape {logits.shape}, all finite: {finite}"
            raise WorkerError(f"proof failed: {reply.images} images, {shape}")
    return outputs


def read_back(group: WorkerGroup, arm: Arm, case: Case, split: Split, given: Mapping[str, str]) -> ProofReply:
    """Return what a group reads back of a session; raises WorkerError as `combined_proof` does."""
    replies = group.request(Prove(case.id), PREDICT_TIMEOUT_S)
    return combined_proof(replies, arm, workers_and_threads(arm, split)[1], given)


def combined_proof(replies: Sequence[ProofReply], arm: Arm, threads: int, given: Mapping[str, str]) -> ProofReply:
    """Return the first worker's proof, with the memory and the cores of all workers.

    Raises WorkerError when a worker ran at another precision, with another number of threads, or with more instruction
    sets than was asked for, by settings or by the variables that the user has `given`.
    """
    for reply in replies:
        for what, actual, expected in (
            ("precision", reply.precision, arm.precision),
            ("threads", reply.threads, threads),
        ):
            if actual != expected:
                raise WorkerError(f"proof failed: {what} read back as {actual}, asked for {expected}")
        if limit := ISA_LIMITS.get(arm.settings):
            _require_limit(limit, arm.settings, reply.kernels)
        if fault := limit_fault(given, reply.kernels, reply.versions):
            raise WorkerError(f"proof failed: {fault}")
    cores = sorted({core for reply in replies for core in reply.cores})
    return replace(replies[0], memory_bytes=sum(reply.memory_bytes for reply in replies), cores=tuple(cores))


def _require_limit(limit: IsaLimit, settings: str, kernels: Sequence[str]) -> None:
    """Raise WorkerError unless the kernels' names show that they kept to a limit of the instruction sets."""
    if broken := [kernel for kernel in kernels if limit.forbidden in kernel.lower()]:
        raise WorkerError(f"proof failed: {broken[0]} ran, which settings {settings} forbid")
    if not any("avx" in kernel.lower() for kernel in kernels):
        raise WorkerError(f"proof failed: no kernel's name shows that settings {settings} were in effect")


def output_fault(precision: str, difference: float, agreement: float) -> str | None:
    """Return why outputs that differ from the oracle's by this much are not those of this precision, or None."""
    parity_fault = gates.parity_fault(precision, difference, agreement, "oracle")
    return parity_fault or gates.reduction_fault(precision, difference)


def compare(ours: NDArray[Any], theirs: NDArray[Any]) -> tuple[float, float]:
    """Return the largest absolute difference between two arrays of logits, and the fraction of equal labels."""
    difference = float(np.abs(ours.astype(np.float64) - theirs).max())
    return difference, float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())
