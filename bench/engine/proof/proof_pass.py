"""The proof pass: each arm starts once, and proves what it computes and how."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import cache
from bench.analysis import gates
from bench.engine.build import (
    BUILD_TIMEOUT_S,
    build_sessions,
    can_move,
    converted_files,
    move_group,
    start_group,
    workers_and_threads,
)
from bench.engine.proof.evidence import compare, output_fault, predict, read_back
from bench.engine.workers import WorkerError, threads_for, wait_until_idle
from bench.machine import facts, resources
from bench.machine.counters import quiet_core_sets
from bench.records import Conversion, Parity, Proof, Reference, Start
from bench.suite.arms import BEST_THREADS
from bench.suite.plan import planned_pairs
from bench.suite.suite import variant_of
from bench.worker.messages import Save
from models import oracle
from models.data import standardise
from models.weights import digest
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from numpy.typing import NDArray

    from bench.console import Steps
    from bench.engine.context import RunContext, RunModel, Tally
    from bench.engine.workers import WorkerGroup
    from bench.suite.arms import Arm, Case, Split
    from bench.suite.plan import Plan
    from bench.suite.schedule import Group, Preset
    from models.data import DataSet
    from models.spec import Network

    # Of the test images, by case.
    Logits = Mapping[Case, NDArray[np.float32]]
    # The case that failed, and why; None if none did.
    Failed = tuple[Case, WorkerError] | None

# An arm that is being built is taken to need at least this much memory in the end.
GROWING_BYTES = 1_500_000_000
LOGITS = "logits.npy"
# Progress weights of a model's reference that is not in the cache, and of an arm's start, compilation and proof:
# seconds on two cores.
ORACLE_WEIGHT, START_WEIGHT, COMPILE_WEIGHT, PROOF_WEIGHT = 20.0, 1.6, 10.0, 2.4


def compute_references(context: RunContext, tally: Tally, steps: Steps) -> None:
    """Store the labels that the NumPy oracle gives the test images, for each model."""
    for name in context.models:
        tally.oracle[name] = oracle_logits(context, name)
        labels = "".join(map(str, tally.oracle[name].argmax(axis=1)))
        tally.journal.append(Reference(name, labels, truth="".join(map(str, context.data.test_labels))))
        steps.step(ORACLE_WEIGHT, f"{name}: reference predictions of the test images", "reference")


def oracle_logits(context: RunContext, name: str) -> NDArray[np.float64]:
    """Return the oracle's logits of all test images for a model, from the cache if they are there."""
    network, model, data = NETWORKS[name], context.models[name], context.data
    key = cache.key(spec=network.digest, weights=digest(model.weights), images=data.digest)
    folder = cache.entry("oracle", key, partial(_compute_oracle, network, model, data)).folder
    logits: NDArray[np.float64] = np.load(folder / LOGITS, allow_pickle=False)
    return logits


def _compute_oracle(network: Network, model: RunModel, data: DataSet, folder: Path) -> dict[str, Any]:
    logits = oracle.logits(network, model.weights, standardise(network, data.test_images))
    np.save(folder / LOGITS, logits, allow_pickle=False)
    return {"model": network.name}


def inference_groups(plan: Plan) -> list[Group]:
    """Return the groups that the proof pass covers; arms that train are proved in their blocks."""
    return [group for group in plan.groups if group.epochs is None]


@dataclass(eq=False)
class Candidate:
    """An arm in the proof pass: the cases that it has yet to prove, and its logits on those that it has proved.

    It starts on the `cores`, and proves its cases on its `own`. Its process has a session for those in `built`. What
    the progress shows of it is in `announced`.
    """

    arm: Arm
    cases: list[Case]
    split: Split
    cores: Sequence[int]
    own: Sequence[int] = ()
    built: list[Case] = field(default_factory=list)
    announced: set[str] = field(default_factory=set)
    logits: dict[Case, NDArray[np.float32]] = field(default_factory=dict)


def prove_arms(context: RunContext, tally: Tally, steps: Steps) -> None:
    """Store the cold start of each arm, then its predictions of the test images and what it read back.

    For its cold start an arm is alone on the idle machine. Without cold starts, arms start side by side. They predict
    side by side in any case, as many as can have cores of their own and fit into memory.
    """
    preset = context.plan.preset
    measures_starts = preset.cold_starts
    for group in inference_groups(context.plan):
        case, splits = group.cases[0], {}
        for arm in (arm for arm in group.arms if arm == arm.original):
            if case.threads != BEST_THREADS or (arm.id, case.id) in tally.splits:
                splits[arm] = context.split_of(tally, arm, case)
                continue
            # Every split of the arm has failed.
            weights = {"proof": proof_weight(arm, preset)} | ({} if measures_starts else {"start": start_weight(arm)})
            for kind, weight in weights.items():
                steps.step(weight, f"{arm.label}: no {kind}, {', '.join(case.group)}", kind)
        if not splits:
            continue
        quiet = quiet_core_sets({split.cores for split in splits.values()})
        candidates = [Candidate(arm, list(group.cases), split, quiet[split.cores]) for arm, split in splits.items()]
        announce = partial(_announce, context, steps, case)
        waiting = candidates
        while waiting:
            if measures_starts:
                _start_alone_and_prove(context, tally, _side_by_side(waiting), announce)
            else:
                _start_and_prove(context, tally, waiting, announce)
            # After a failure, an arm's other cases get a new process. One that did not fit beside others starts later.
            waiting = [candidate for candidate in waiting if candidate.cases]
        for candidate in candidates if measures_starts else ():
            if variant_of(candidate.arm).compiles and (candidate.arm.id, case.id) in tally.labels:
                # It uses what the first start compiled. If it fails, the report has no figure for restarts.
                with suppress(WorkerError):
                    _start_alone(context, tally, candidate, case, cached=True).stop()
        _compare_pairs(context, tally, {candidate.arm.id: candidate.logits for candidate in candidates})


def start_weight(arm: Arm) -> float:
    return START_WEIGHT + (COMPILE_WEIGHT if variant_of(arm).compiles else 0)


def proof_weight(arm: Arm, preset: Preset) -> float:
    """Return the weight of an arm's proof, with its starts if they are measured; what compiles has two."""
    starts = start_weight(arm) * (2 if variant_of(arm).compiles else 1)
    return PROOF_WEIGHT + (starts if preset.cold_starts else 0)


def _announce(context: RunContext, steps: Steps, first: Case, candidate: Candidate, kind: str) -> None:
    """Show in the progress that an arm has had its start or its proof, unless it shows this already."""
    if kind not in candidate.announced and (kind == "start" or not candidate.cases):
        candidate.announced.add(kind)
        arm, preset = candidate.arm, context.plan.preset
        weight = start_weight(arm) if kind == "start" else proof_weight(arm, preset)
        steps.step(weight, f"{arm.label}: {kind}, {', '.join(first.group)}", kind)


def _side_by_side(waiting: Sequence[Candidate]) -> list[Candidate]:
    """Return the arms that can prove their cases at the same time, in their order; each gets cores of its own.

    An arm that can't move keeps those on which it starts, so the others take different ones first.
    """
    kept = {core for candidate in waiting for core in candidate.cores}
    free, left = sorted(facts.arm_cores(), key=lambda core: (core in kept, core)), facts.usable_cores()
    chosen: list[Candidate] = []
    for candidate in waiting:
        count = len(candidate.cores)
        own = free[:count] if can_move(candidate.arm, candidate.split) else candidate.cores
        if not chosen or (len(own) == count <= left and set(own) <= set(free)):
            candidate.own = sorted(own)
            chosen.append(candidate)
            free, left = [core for core in free if core not in own], left - count
    return chosen


def _fits(tally: Tally, groups: Iterable[WorkerGroup], least: int = 0) -> bool:
    """Return whether another arm fits into memory beside these.

    Each is taken to need as much as the largest arm so far, and at `least` this many bytes, as it may be growing.
    """
    used = [resources.memory_used_by_all(group.pids) for group in groups]
    peak, available = max([least, *used, *tally.memory_bytes.values()]), resources.memory_available_bytes()
    return not used or available is None or (len(used) + 1) * peak - sum(used) <= available


def _start_alone_and_prove(
    context: RunContext, tally: Tally, candidates: Sequence[Candidate], announce: Callable[[Candidate, str], None]
) -> None:
    """Start arms one after the other, as far as they fit into memory, and let them prove their cases side by side."""
    groups: dict[str, WorkerGroup] = {}
    try:
        for candidate in candidates:
            if not _fits(tally, groups.values()):
                break
            arm, case = candidate.arm, candidate.cases[0]
            try:
                _store_conversion(context, tally, arm, case)
                idle = [pid for group in groups.values() for pid in group.pids]
                wait_until_idle(idle, idle)
                groups[arm.id] = _start_alone(context, tally, candidate, case, cached=False)
                candidate.built = [case]
            except WorkerError as error:
                _store_failure(tally, candidate, case, error)
        _prove_side_by_side(context, tally, groups, candidates)
    finally:
        for group in groups.values():
            group.stop()
    for candidate in candidates:
        announce(candidate, "proof")


def _start_and_prove(
    context: RunContext, tally: Tally, candidates: Sequence[Candidate], announce: Callable[[Candidate, str], None]
) -> None:
    """Start arms side by side, as far as they fit into memory. Then let them prove their cases.

    Threads that predict wait for each other, so an arm would take far longer beside others that are being built.
    """
    groups: dict[str, WorkerGroup] = {}
    try:
        _build_side_by_side(context, tally, groups, candidates, announce)
        waiting = [candidate for candidate in candidates if candidate.arm.id in groups]
        while waiting:
            together = _side_by_side(waiting)
            _prove_side_by_side(context, tally, groups, together)
            for candidate in together:
                announce(candidate, "proof")
            waiting = [candidate for candidate in waiting if candidate not in together]
    finally:
        for group in groups.values():
            group.stop()
    for candidate in candidates:
        if not candidate.cases:
            announce(candidate, "start")
            announce(candidate, "proof")


def _build_side_by_side(
    context: RunContext,
    tally: Tally,
    groups: dict[str, WorkerGroup],
    candidates: Sequence[Candidate],
    announce: Callable[[Candidate, str], None],
) -> None:
    """Add the workers of arms to the `groups`, and build all cases in them; those that compile start first."""
    # No arm is built meanwhile, because the time of a conversion is stored.
    ready = [candidate for candidate in candidates if _is_converted(context, tally, candidate)]
    places = cycle(sorted(facts.arm_cores()))
    builds: dict[Future[Failed], Candidate] = {}
    # A start uses one thread for most of its time, and arms that compile take long.
    most = facts.usable_cores() + 2
    with threads_for(groups, most) as pool:
        for candidate in sorted(ready, key=lambda candidate: not variant_of(candidate.arm).compiles):
            workers = _workers(candidate)
            while builds and sum(map(_workers, builds.values())) + workers > most:
                _store_builds(tally, groups, builds, wait(builds, return_when=FIRST_COMPLETED).done, announce)
            if not _fits(tally, groups.values(), GROWING_BYTES * workers):
                break
            candidate.cores, candidate.built = sorted(islice(places, len(candidate.cores))), []
            caches = context.caches(candidate.arm, candidate.cases[0])
            try:
                # In the main thread: PR_SET_PDEATHSIG kills a worker when the thread that started it ends.
                groups[candidate.arm.id] = start_group(context, candidate.arm, candidate.split, caches)
            except WorkerError as error:
                _store_failure(tally, candidate, candidate.cases[0], error)
            else:
                builds[pool.submit(_build_cases, context, tally, candidate, groups[candidate.arm.id])] = candidate
        _store_builds(tally, groups, builds, wait(builds).done, announce)


def _workers(candidate: Candidate) -> int:
    return workers_and_threads(candidate.arm, candidate.split)[0]


def _is_converted(context: RunContext, tally: Tally, candidate: Candidate) -> bool:
    """Convert an arm's files, if it needs any, and store how long that took; return whether it has not failed."""
    try:
        _store_conversion(context, tally, candidate.arm, candidate.cases[0])
    except WorkerError as error:
        _store_failure(tally, candidate, candidate.cases[0], error)
        return False
    return True


def _store_conversion(context: RunContext, tally: Tally, arm: Arm, case: Case) -> None:
    if converted := converted_files(context, tally, arm, case):
        tally.journal.append(Conversion(arm.id, case.model, converted.convert_ns, converted.cached))


def _store_failure(tally: Tally, candidate: Candidate, case: Case, error: WorkerError) -> None:
    """Store that a case failed, also if it has been proved on fewer images before."""
    tally.add_failure(candidate.arm, case, None, error)
    candidate.cases.remove(case)
    candidate.logits.pop(case, None)
    tally.labels.pop((candidate.arm.id, case.id), None)
    if not candidate.cases and (candidate.arm.id, case.model) not in tally.proved_in_full:
        # One of the other cases must take the place of the one that was to be proved on all images.
        candidate.cases += list(candidate.logits)[-1:]


def _build_cases(context: RunContext, tally: Tally, candidate: Candidate, group: WorkerGroup) -> Failed:
    """Build an arm's cases; return the one that failed, and why. None of the times is reported."""
    case = candidate.cases[0]
    try:
        group.wait_until_ready()
        for case in candidate.cases:
            build_sessions(context, tally, group, candidate.arm, case, candidate.split, candidate.cores, reported=False)
            candidate.built.append(case)
    except WorkerError as error:
        return case, error
    return None


def _store_builds(
    tally: Tally,
    groups: dict[str, WorkerGroup],
    builds: dict[Future[Failed], Candidate],
    finished: Iterable[Future[Failed]],
    announce: Callable[[Candidate, str], None],
) -> None:
    """Take finished builds out of `builds`, and those that failed out of the `groups`."""
    for build in finished:
        candidate = builds.pop(build)
        if failed := build.result():
            groups.pop(candidate.arm.id).stop()
            _store_failure(tally, candidate, *failed)
        announce(candidate, "start")


def _prove_side_by_side(
    context: RunContext, tally: Tally, groups: dict[str, WorkerGroup], candidates: Sequence[Candidate]
) -> None:
    """Let arms that have a group prove their cases, in a thread each; the main thread stores what fails.

    An interrupt kills the groups, which is no failure of their arms.
    """
    with threads_for(groups, len(candidates)) as pool:
        proofs = [
            (candidate, pool.submit(_prove_cases, context, tally, candidate, group))
            for candidate in candidates
            if (group := groups.get(candidate.arm.id))
        ]
        for candidate, proof in proofs:
            if failed := proof.result():
                groups.pop(candidate.arm.id).stop()
                _store_failure(tally, candidate, *failed)


def _start_alone(context: RunContext, tally: Tally, candidate: Candidate, case: Case, *, cached: bool) -> WorkerGroup:
    """Start an arm's workers, build their sessions for a case, and store how long that took; raises WorkerError."""
    arm, split, cores = candidate.arm, candidate.split, candidate.cores
    group = start_group(context, arm, split, context.caches(arm, case))
    try:
        group.wait_until_ready()
        started = build_sessions(context, tally, group, arm, case, split, cores, reported=True)
    except BaseException:
        group.stop()
        raise
    tally.journal.append(Start(arm.id, case.id, cached=cached, **vars(started)))
    return group


def _prove_cases(context: RunContext, tally: Tally, candidate: Candidate, group: WorkerGroup) -> Failed:
    """Prove an arm's cases; return the one that failed, and why.

    The process moves to cores of its own. The case with the largest batch is last.
    """
    arm, case, split, cores = candidate.arm, candidate.cases[0], candidate.split, candidate.own
    largest = max(candidate.cases, key=lambda case: case.batch_size)
    try:
        if list(cores) != list(candidate.cores):
            move_group(group, candidate.cores, cores)
        for case in sorted(candidate.cases, key=lambda case: case == largest):
            if case not in candidate.built:
                build_sessions(context, tally, group, arm, case, split, cores, reported=True)
            candidate.logits[case] = _prove_case(context, tally, candidate, group, case, in_full=case == largest)
            candidate.cases.remove(case)
    except WorkerError as error:
        return case, error
    return None


def _prove_case(
    context: RunContext, tally: Tally, candidate: Candidate, group: WorkerGroup, case: Case, *, in_full: bool
) -> NDArray[np.float32]:
    """Store an arm's proof on a case and return its logits, of all test images unless it has proved its model on them.

    Raises WorkerError when the outputs are not those of the network, at the precision that the arm claims.
    """
    arm, truth = candidate.arm, context.data.test_labels
    if not in_full or (arm.id, case.model) in tally.proved_in_full:
        truth = truth[: gates.PARITY_IMAGES]
    logits = predict(context, group, case, len(truth))[0]
    evidence = read_back(group, arm, case, candidate.split, context.plan.variables.given)
    saved_bytes = group.request(Save(case.id), BUILD_TIMEOUT_S)[0].saved_bytes
    labels = logits.argmax(axis=1)
    difference, agreement = compare(logits, tally.oracle[case.model][: len(logits)])
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
    complete = len(truth) == len(context.data.test_labels)
    fault = output_fault(arm.precision, difference, agreement)
    if complete:
        fault = fault or gates.leak_fault(context.data.name, proof.accuracy)
    if fault:
        raise WorkerError(f"proof failed: {fault}")
    if complete:
        tally.proved_in_full.add((arm.id, case.model))
    tally.labels[arm.id, case.id] = labels
    tally.add_memory(arm, evidence.memory_bytes)
    return logits


def _compare_pairs(context: RunContext, tally: Tally, logits: Mapping[str, Logits]) -> None:
    """Store how the outputs of the arms of each comparison differ, on the images that both have predicted."""
    for pair in planned_pairs(context.plan.suite):
        ours, theirs = (logits.get(arm.original.id, {}).get(pair.case) for arm in (pair.arm, pair.baseline))
        if ours is not None and theirs is not None:
            images = min(len(ours), len(theirs))
            difference, agreement = compare(ours[:images], theirs[:images])
            tally.journal.append(Parity(pair.arm.id, pair.baseline.id, pair.case.id, difference, agreement))
