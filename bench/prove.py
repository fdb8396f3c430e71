"""The proof pass: every arm alone on the idle machine, once, never timed in a comparison."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.launch import WorkerError
from bench.plan import PROOF_WEIGHT, planned_pairs
from bench.records import Parity, Proof, Start
from bench.rig import BUILD_TIMEOUT_S, PREDICT_TIMEOUT_S, compare, read_logits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.launch import Worker
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
    file = rig.scratch / "logits.npy"
    caches = Path(tempfile.mkdtemp(dir=rig.scratch))
    worker = None
    try:
        worker = rig.start(arm, caches)
        worker.wait_until_ready()
        built = worker.request("build", BUILD_TIMEOUT_S, **rig.build_request(arm, case))
        images = worker.request("predict", PREDICT_TIMEOUT_S, images=len(rig.labels), file=str(file))["images"]
        evidence = worker.request("prove", PREDICT_TIMEOUT_S)
        logits = read_logits(file, len(rig.labels))
        proof = _proof(rig, arm, case, evidence, images, logits)
    except WorkerError as error:
        rig.fail(arm, case, None, "proof", error)
        return None
    finally:
        if worker is not None:
            worker.stop()
    rig.journal.append(start_record(arm, case, None, worker, built, proof.threads))
    rig.journal.append(proof)
    rig.proven.add((arm.id, case.id))
    return logits


def start_record(arm: Arm, case: Case, block: int | None, worker: Worker, built: dict[str, Any], threads: int) -> Start:
    """Return the record of a process that is built."""
    return Start(arm=arm.id, case=case.id, block=block, pid=worker.pid, threads=threads, **built)


def _proof(rig: Rig, arm: Arm, case: Case, evidence: dict[str, Any], images: int, logits: NDArray[np.float32]) -> Proof:
    """Return the proof; raises WorkerError when precision, threads or the number of images are not what was asked."""
    asked = (case.precision, rig.plan.threads, len(rig.labels))
    found = (evidence["precision"], evidence["threads"], images)
    for what, wanted, got in zip(("precision", "threads", "images"), asked, found, strict=True):
        if wanted != got:
            raise WorkerError(f"proof failed: {what} read back as {got}, asked for {wanted}")
    labels = logits.argmax(axis=1)
    difference, agreement = compare(logits, rig.oracle[case.model])
    return Proof(
        arm=arm.id,
        case=case.id,
        precision=evidence["precision"],
        threads=evidence["threads"],
        kernels=tuple(evidence["kernels"]),
        versions=evidence["versions"],
        images=images,
        labels="".join(map(str, labels)),
        accuracy=float((labels == rig.labels).mean()),
        max_abs_logit_diff=difference,
        agreement=agreement,
    )
