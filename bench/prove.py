"""The proof pass: every arm alone on the idle machine, once, never timed in a comparison."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.checks import leak_fault, parity_fault
from bench.launch import WorkerError
from bench.plan import PROOF_WEIGHT, planned_pairs
from bench.records import Parity, Proof, Start
from bench.rig import BUILD_TIMEOUT_S, compare, predict, read_back

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.launch import Worker
    from bench.records import Arm, Case
    from bench.rig import Rig


def prove_all(rig: Rig) -> None:
    """Start each arm alone on the idle machine: cold start, predictions of all test images, proof of what ran."""
    _read_files(rig)
    for case in rig.plan.suite.cases:
        logits: dict[str, NDArray[np.float32]] = {}
        for arm in rig.plan.arms:
            if not arm.replica:
                _prove(rig, arm, case, logits)
                rig.steps.step(PROOF_WEIGHT, f"{arm.label}: proof, {case.label}")
        for pair in planned_pairs(rig.plan.suite):
            ours, theirs = replace(pair.arm, replica=False).id, pair.baseline.id
            if pair.case == case and {ours, theirs} <= logits.keys():
                rig.journal.append(Parity(pair.arm.id, theirs, case.id, *compare(logits[ours], logits[theirs])))


def _read_files(rig: Rig) -> None:
    """Start one arm of each stack and discard it: no arm's cold start pays for reading its stack's files from disk."""
    first = {arm.stack: arm for arm in reversed(rig.plan.arms)}
    for arm in first.values():
        with suppress(WorkerError):  # the arm's own start will tell
            _build(rig, arm, rig.plan.suite.cases[0])[0].stop()


def _build(rig: Rig, arm: Arm, case: Case) -> tuple[Worker, dict[str, Any]]:
    """Return a worker with empty compile caches, and how long its build took; raises WorkerError."""
    worker = rig.start(arm, Path(tempfile.mkdtemp(dir=rig.scratch)))
    try:
        return worker, worker.wait_until_ready().request("build", BUILD_TIMEOUT_S, **rig.build_request(arm, case))
    except BaseException:
        worker.stop()
        raise


def _prove(rig: Rig, arm: Arm, case: Case, logits: dict[str, NDArray[np.float32]]) -> None:
    """Store an arm's cold start and proof, and add its logits of all test images; store why it failed if it did."""
    try:
        worker, built = _build(rig, arm, case)
        with worker:
            rig.journal.append(Start(arm.id, case.id, None, worker.pid, **built))
            found = predict(rig, worker, len(rig.labels))
            proof = _proof(rig, arm, case, read_back(rig, worker, case), found)
        rig.journal.append(proof)
        _gate(rig, case, proof)
    except WorkerError as error:
        rig.fail(arm, case, None, error)
    else:
        rig.proven.add((arm.id, case.id))
        logits[arm.id] = found


def _gate(rig: Rig, case: Case, proof: Proof) -> None:
    parity = parity_fault(case.precision, proof.max_abs_logit_diff, proof.agreement, "oracle")
    if fault := parity or leak_fault(rig.data, proof.accuracy):
        raise WorkerError(f"proof failed: {fault}")


def _proof(rig: Rig, arm: Arm, case: Case, evidence: dict[str, Any], logits: NDArray[np.float32]) -> Proof:
    labels = logits.argmax(axis=1)
    difference, agreement = compare(logits, rig.oracle[case.model])
    return Proof(
        arm=arm.id,
        case=case.id,
        precision=evidence["precision"],
        threads=evidence["threads"],
        kernels=tuple(evidence["kernels"]),
        versions=evidence["versions"],
        images=len(logits),
        labels="".join(map(str, labels)),
        accuracy=float((labels == rig.labels).mean()),
        max_abs_logit_diff=difference,
        agreement=agreement,
    )
