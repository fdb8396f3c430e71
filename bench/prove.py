"""The proof pass: every arm alone on the idle machine, once, never timed in a comparison."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.launch import WorkerError
from bench.plan import PROOF_WEIGHT, planned_pairs
from bench.records import Parity, Proof, Start
from bench.rig import BUILD_TIMEOUT_S, compare, predict, read_back

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.records import Arm, Case
    from bench.rig import Rig


def prove_all(rig: Rig) -> None:
    """Start each arm alone on the idle machine: cold start, predictions of all test images, proof of what ran."""
    for case in rig.plan.suite.cases:
        logits: dict[str, NDArray[np.float32]] = {}
        for arm in rig.plan.arms:
            if not arm.replica:
                found = _prove(rig, arm, case)
                if found is not None:
                    logits[arm.id] = found
                rig.steps.step(PROOF_WEIGHT, f"{arm.label}: proof, {case.label}")
        for pair in planned_pairs(rig.plan):
            arm, baseline = replace(pair[0], replica=False), pair[1]
            if pair[2] == case and {arm.id, baseline.id} <= logits.keys():
                ours, theirs = logits[arm.id], logits[baseline.id]
                rig.journal.append(Parity(pair[0].id, baseline.id, case.id, *compare(ours, theirs)))


def _prove(rig: Rig, arm: Arm, case: Case) -> NDArray[np.float32] | None:
    """Return the arm's logits of all test images, or None when it failed."""
    worker = None
    try:
        worker = rig.start(arm, Path(tempfile.mkdtemp(dir=rig.scratch)))
        built = worker.wait_until_ready().request("build", BUILD_TIMEOUT_S, **rig.build_request(arm, case))
        logits = predict(rig, worker, len(rig.labels))
        evidence = read_back(rig, worker, case)
    except WorkerError as error:
        rig.fail(arm, case, None, "proof", error)
        return None
    finally:
        if worker is not None:
            worker.stop()
    rig.journal.append(Start(arm.id, case.id, None, worker.pid, **built))
    rig.journal.append(_proof(rig, arm, case, evidence, logits))
    rig.proven.add((arm.id, case.id))
    return logits


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
