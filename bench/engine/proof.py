"""The proof pass: each arm runs once, alone on the idle machine, and proves what it computes and how."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.registry import stacks
from bench.analysis.gates import leak_fault, parity_fault, reduction_fault
from bench.engine import cache
from bench.engine.build import BUILD_TIMEOUT_S, build_sessions, converted_files, start_group, workers_and_threads
from bench.engine.workers import WorkerError
from bench.machine.counters import quiet_cores
from bench.records import Conversion, Parity, Proof, Reference, Start
from bench.suite.plan import planned_pairs
from bench.worker.messages import Predict, Prove, Save
from models import oracle
from models.data import CLASSES, standardise
from models.weights import digest
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bench.console import Steps
    from bench.engine.context import RunContext, RunModel, Tally
    from bench.engine.workers import WorkerGroup
    from bench.suite.arms import Arm, Case
    from bench.suite.plan import Plan
    from bench.suite.schedule import Group
    from bench.worker.messages import ProofReply
    from models.data import DataSet
    from models.spec import Network

    # Of the test images, by arm.
    Logits = dict[str, NDArray[np.float32]]

PREDICT_TIMEOUT_S = 600
LOGITS = "logits.npy"
# Progress weights of a model's reference that is not in the cache, and of an arm's proof: seconds on two cores.
ORACLE_WEIGHT, PROOF_WEIGHT = 20.0, 6.8


def compute_references(context: RunContext, tally: Tally, steps: Steps) -> None:
    """Compute the NumPy oracle's logits of all test images for each model, unless they are in the cache."""
    for name, model in context.models.items():
        network, data = NETWORKS[name], context.data
        key = cache.key(spec=network.digest, weights=digest(model.weights), images=data.digest)
        folder = cache.entry("oracle", key, partial(_compute_oracle, network, model, data)).folder
        tally.oracle[name] = np.load(folder / LOGITS, allow_pickle=False)
        labels = "".join(map(str, tally.oracle[name].argmax(axis=1)))
        tally.journal.append(Reference(name, labels, truth="".join(map(str, data.test_labels))))
        steps.step(ORACLE_WEIGHT, f"{name}: reference predictions of the test images")


def _compute_oracle(network: Network, model: RunModel, data: DataSet, folder: Path) -> dict[str, Any]:
    logits = oracle.logits(network, model.weights, standardise(network, data.test_images))
    np.save(folder / LOGITS, logits, allow_pickle=False)
    return {"model": network.name}


def inference_groups(plan: Plan) -> list[Group]:
    """Return the groups that the proof pass covers; arms that train are proved in their blocks."""
    return [group for group in plan.groups if group.epochs is None]


def prove_arms(context: RunContext, tally: Tally, steps: Steps) -> None:
    """Start each arm alone; store its cold start, its predictions of all test images and what it read back."""
    groups = inference_groups(context.plan)
    for group in groups[:1]:
        _warm_file_cache(context, tally, group)
    for group in groups:
        logits: dict[Case, Logits] = {case: {} for case in group.cases}
        for arm in group.arms:
            if arm == arm.original:
                _prove_arm(context, tally, arm, group.cases, logits)
                steps.step(PROOF_WEIGHT, f"{arm.label}: proof, {', '.join(group.cases[0].group)}")
        for pair in planned_pairs(context.plan.suite):
            ours, theirs = pair.arm.original.id, pair.baseline.id
            outputs = logits.get(pair.case, {})
            if {ours, theirs} <= outputs.keys():
                difference, agreement = compare(outputs[ours], outputs[theirs])
                tally.journal.append(Parity(pair.arm.id, theirs, pair.case.id, difference, agreement))


def _warm_file_cache(context: RunContext, tally: Tally, group: Group) -> None:
    """Start one arm of each stack, and every arm that compiles, and discard them.

    Otherwise an arm's cold start would include reading its stack's or compiler's files from disk.
    """
    first = {arm.stack: arm for arm in reversed(group.arms)}
    compiling = [arm for arm in group.arms if compiles(arm) and not arm.replica]
    case = group.cases[0]
    for arm in dict.fromkeys((*first.values(), *compiling)):
        # Errors are ignored here: the arm's own start reports them.
        with suppress(WorkerError), start_group(context, arm, case, _new_folder(context)) as workers:
            workers.wait_until_ready()
            build_sessions(context, tally, workers, arm, case, quiet_cores(context.plan.threads_of(case)))


def compiles(arm: Arm) -> bool:
    return stacks()[arm.stack].variants[arm.variant].compiles


def _new_folder(context: RunContext) -> Path:
    return Path(tempfile.mkdtemp(dir=context.scratch))


def _prove_arm(context: RunContext, tally: Tally, arm: Arm, cases: Sequence[Case], logits: dict[Case, Logits]) -> None:
    """Prove an arm on all cases in one process; after a failure, the next case gets a new process."""
    caches, left = _new_folder(context), list(cases)
    threads = context.plan.threads_of(cases[0])
    while left:
        try:
            if converted := converted_files(context, tally, arm, left[0]):
                record = Conversion(arm.id, left[0].model, converted.convert_ns, converted.cached)
                tally.journal.append(record)
            with start_group(context, arm, left[0], caches) as group:
                group.wait_until_ready()
                cores = quiet_cores(threads)
                while left:
                    started = build_sessions(context, tally, group, arm, left[0], cores)
                    tally.journal.append(Start(arm.id, left[0].id, cached=False, **vars(started)))
                    logits[left[0]][arm.id] = _prove_case(context, tally, group, arm, left[0])
                    left.pop(0)
        except WorkerError as error:
            tally.add_failure(arm, left.pop(0), None, error)
    if compiles(arm) and (arm.id, cases[0].id) in tally.labels:
        # A second start uses what the first one compiled. If it fails, the report has no figure for restarts.
        with suppress(WorkerError), start_group(context, arm, cases[0], caches) as group:
            group.wait_until_ready()
            started = build_sessions(context, tally, group, arm, cases[0], quiet_cores(threads))
            tally.journal.append(Start(arm.id, cases[0].id, cached=True, **vars(started)))


def _prove_case(context: RunContext, tally: Tally, group: WorkerGroup, arm: Arm, case: Case) -> NDArray[np.float32]:
    """Store an arm's proof on a case and return its logits of all test images.

    Raises WorkerError when the outputs are not those of the network, at the precision that the arm claims.
    """
    truth = context.data.test_labels
    logits = predict(context, group, case, len(truth))[0]
    evidence = read_back(context, group, arm, case)
    saved_bytes = group.request(Save(case.id), BUILD_TIMEOUT_S)[0].saved_bytes
    labels = logits.argmax(axis=1)
    difference, agreement = compare(logits, tally.oracle[case.model])
    proof = Proof(
        arm=arm.id,
        case=case.id,
        precision=evidence.precision,
        threads=evidence.threads,
        kernels=evidence.kernels,
        versions=evidence.versions,
        images=len(logits),
        labels="".join(map(str, labels)),
        accuracy=float((labels == truth).mean()),
        max_abs_logit_diff=difference,
        agreement=agreement,
        memory_bytes=evidence.memory_bytes,
        saved_bytes=saved_bytes,
    )
    tally.journal.append(proof)
    fault = (
        parity_fault(arm.precision, difference, agreement, "oracle")
        or reduction_fault(arm.precision, difference)
        or leak_fault(context.data.name, proof.accuracy)
    )
    if fault:
        raise WorkerError(f"proof failed: {fault}")
    tally.labels[arm.id, case.id] = labels
    tally.add_memory(arm, proof.memory_bytes)
    return logits


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


def read_back(context: RunContext, group: WorkerGroup, arm: Arm, case: Case) -> ProofReply:
    """Return what a group reads back of a session; raises WorkerError as `combined_proof` does."""
    replies = group.request(Prove(case.id), PREDICT_TIMEOUT_S)
    return combined_proof(replies, arm, workers_and_threads(context, arm, case)[1])


def combined_proof(replies: Sequence[ProofReply], arm: Arm, threads: int) -> ProofReply:
    """Return the first worker's proof with the memory of all workers.

    Raises WorkerError when a worker ran at another precision, or with another number of threads, than was asked for.
    """
    for reply in replies:
        for what, actual, expected in (
            ("precision", reply.precision, arm.precision),
            ("threads", reply.threads, threads),
        ):
            if actual != expected:
                raise WorkerError(f"proof failed: {what} read back as {actual}, asked for {expected}")
    return replace(replies[0], memory_bytes=sum(reply.memory_bytes for reply in replies))


def compare(ours: NDArray[Any], theirs: NDArray[Any]) -> tuple[float, float]:
    """Return the largest absolute difference between two arrays of logits, and the fraction of equal labels."""
    difference = float(np.abs(ours.astype(np.float64) - theirs).max())
    return difference, float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())
