"""The proof pass: every arm alone on the idle machine, once, never timed in a comparison."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.registry import stacks
from bench.analysis.gates import leak_fault, parity_fault, reduction_fault
from bench.engine.session import BUILD_TIMEOUT_S, compare, predict, read_back
from bench.engine.workers import WorkerError
from bench.records import Conversion, Parity, Proof, Start
from bench.suite.plan import PROOF_WEIGHT, planned_pairs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.engine.session import Rig
    from bench.engine.team import WorkerGroup
    from bench.suite.arms import Arm, Case
    from bench.suite.schedule import Group

    Logits = dict[str, NDArray[np.float32]]


def prove_all(rig: Rig) -> None:
    """Start each arm alone on the idle machine: cold start, predictions of all test images, proof of what ran."""
    _read_files(rig)
    for group in answering_groups(rig):
        logits: dict[Case, Logits] = {case: {} for case in group.cases}
        for arm in group.arms:
            if arm == arm.original:
                _prove(rig, arm, group, logits)
                rig.steps.step(PROOF_WEIGHT, f"{arm.label}: proof, {', '.join(group.cases[0].group)}")
        _compare(rig, logits)


def answering_groups(rig: Rig) -> list[Group]:
    """Return the groups whose arms answer; those that train prove themselves in their blocks."""
    return [group for group in rig.plan.groups if not group.epochs]


def _compare(rig: Rig, logits: dict[Case, Logits]) -> None:
    for pair in planned_pairs(rig.plan.suite):
        found = logits.get(pair.case, {})
        ours, theirs = pair.arm.original.id, pair.baseline.id
        if {ours, theirs} <= found.keys():
            difference = compare(found[ours], found[theirs])
            rig.journal.append(Parity(pair.arm.id, theirs, pair.case.id, *difference))


def _read_files(rig: Rig) -> None:
    """Start one arm of each stack, and each that compiles, and discard it.

    No arm's cold start pays for reading its stack's files, or its compiler's, from disk.
    """
    for group in answering_groups(rig)[:1]:
        first = {arm.stack: arm for arm in reversed(group.arms)}
        compiling = [arm for arm in group.arms if _compiles(arm)]
        for arm in dict.fromkeys((*first.values(), *compiling)):
            with suppress(WorkerError), rig.start(arm, group.cases[0], _empty(rig)) as team:
                # What is wrong with it, its own start will tell.
                rig.build(team.wait_until_ready(), arm, group.cases[0], rig.quiet_cores(group.cases[0]))


def _compiles(arm: Arm) -> bool:
    """Tell whether an arm leaves compiled code behind; others of its stack have the folder for it and no use."""
    return bool(stacks()[arm.stack].cache_variables) and "compile" in arm.variant and not arm.replica


def _empty(rig: Rig) -> Path:
    return Path(tempfile.mkdtemp(dir=rig.scratch))


def _prove(rig: Rig, arm: Arm, group: Group, logits: dict[Case, Logits]) -> None:
    """Store an arm's cold start and its proof on each case, and keep its logits; store why it failed if it did."""
    caches, left = _empty(rig), list(group.cases)
    while left:
        try:
            _prove_cases(rig, arm, left, caches, logits)
        except WorkerError as error:  # the next case gets a process of its own
            rig.fail(arm, left.pop(0), None, error)
    if _compiles(arm) and (arm.id, group.cases[0].id) in rig.proven:
        _restart(rig, arm, group.cases[0], caches)


def _prove_cases(rig: Rig, arm: Arm, left: list[Case], caches: Path, logits: dict[Case, Logits]) -> None:
    """Prove one case after the other in one process, and take those that are proven from `left`."""
    _store_conversion(rig, arm, left[0])
    with rig.start(arm, left[0], caches) as team:
        team.wait_until_ready()
        cores = rig.quiet_cores(left[0])
        while left:
            rig.journal.append(Start(arm.id, left[0].id, cached=False, **rig.build(team, arm, left[0], cores)))
            _prove_case(rig, team, arm, left[0], logits[left[0]])
            left.pop(0)


def _restart(rig: Rig, arm: Arm, case: Case, caches: Path) -> None:
    """Store a second start, which finds compiled what the first has compiled."""
    with suppress(WorkerError), rig.start(arm, case, caches) as team:  # else there is no such figure
        team.wait_until_ready()
        rig.journal.append(Start(arm.id, case.id, cached=True, **rig.build(team, arm, case, rig.quiet_cores(case))))


def _store_conversion(rig: Rig, arm: Arm, case: Case) -> None:
    if converted := rig.converted(arm, case):
        rig.journal.append(Conversion(arm.id, case.model, converted.convert_ns, converted.cached))


def _prove_case(rig: Rig, team: WorkerGroup, arm: Arm, case: Case, logits: Logits) -> None:
    found = predict(rig, team, case, len(rig.data.test_labels))[0]
    evidence = read_back(rig, team, arm, case)
    saved = team.request("save", BUILD_TIMEOUT_S, case=case.id)[0]["saved_bytes"]
    proof = _proof(rig, arm, case, evidence, found, saved)
    rig.journal.append(proof)
    _gate(rig, arm, proof)
    rig.proven[arm.id, case.id] = found.argmax(axis=1)
    rig.memory[arm.id] = max(rig.memory.get(arm.id, 0), proof.memory_bytes)
    logits[arm.id] = found


def _gate(rig: Rig, arm: Arm, proof: Proof) -> None:
    """Raise WorkerError when what an arm computes is not the network, at the precision that it claims."""
    fault = (
        parity_fault(arm.precision, proof.max_abs_logit_diff, proof.agreement, "oracle")
        or reduction_fault(arm.precision, proof.max_abs_logit_diff)
        or leak_fault(rig.data.name, proof.accuracy)
    )
    if fault:
        raise WorkerError(f"proof failed: {fault}")


def _proof(
    rig: Rig, arm: Arm, case: Case, evidence: dict[str, Any], logits: NDArray[np.float32], saved_bytes: int
) -> Proof:
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
        accuracy=float((labels == rig.data.test_labels).mean()),
        max_abs_logit_diff=difference,
        agreement=agreement,
        memory_bytes=evidence["memory_bytes"],
        saved_bytes=saved_bytes,
    )
