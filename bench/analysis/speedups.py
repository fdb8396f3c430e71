"""The speedup of every comparison of a run, with its verdict, and what went wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

from bench.analysis import gates
from bench.analysis.gates import EQUIVALENCE, FAILED, SKIPPED, WITHDRAWN, WITHHELD, Estimate, Verdict
from bench.analysis.latency import AS_IT_WAS, AT_REST
from bench.analysis.stats import Interval, holm
from bench.analysis.training import training_faults
from bench.suite.arms import TRAINING, Arm, Case, Pair

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.analysis.latency import Rule
    from bench.analysis.run import Run


@dataclass(frozen=True)
class Speedup:
    """A row of the speedup table.

    `estimate` follows `rule`. `at_rest` and `as_it_was` are the estimates by both rules, before Holm's correction;
    `at_rest` is None where the machine was at rest in too few blocks. `undisturbed` leaves out the disturbed rounds.
    `matched` is None if one of the environments is missing.
    `primary` marks an arm's comparison with its fastest baseline.
    """

    pair: Pair
    verdict: Verdict
    rule: Rule
    estimate: Estimate | None
    at_rest: Estimate | None
    as_it_was: Estimate | None
    undisturbed: Estimate | None
    matched: bool | None
    primary: bool

    @property
    def speedup(self) -> float | None:
        return None if self.estimate is None else self.estimate.speedup

    @property
    def interval(self) -> Interval | None:
        return None if self.estimate is None else self.estimate.ratio_interval


# A report needs the rows of a run many times. Weak, so that no journal stays in memory.
_ROWS: WeakKeyDictionary[Run, tuple[Speedup, ...]] = WeakKeyDictionary()


def speedups(run: Run) -> tuple[Speedup, ...]:
    """Return a row for each comparison, including failed and skipped ones, primary ones first.

    An arm's primary comparison is the one with its fastest baseline: a speedup there holds over all of them. The
    fastest one is known only after measuring, so Holm's correction counts every candidate.
    """
    if run not in _ROWS:
        _ROWS[run] = tuple(sorted(_rows(run), key=lambda row: not row.primary))
    return _ROWS[run]


def _rows(run: Run) -> list[Speedup]:
    as_it_was = [run.estimate(pair, AS_IT_WAS) for pair in run.pairs]
    at_rest = [None if run.too_few_at_rest(pair.case) else run.estimate(pair, AT_REST) for pair in run.pairs]
    estimates = [run.estimate(pair) for pair in run.pairs]
    candidates = [index for index, pair in enumerate(run.pairs) if pair.candidate]
    p_values = [
        1.0 if (estimate := estimates[index]) is None or estimate.p_value is None else estimate.p_value
        for index in candidates
    ]
    for index, p_value in zip(candidates, holm(p_values), strict=True):
        if estimate := estimates[index]:
            estimates[index] = replace(estimate, p_value=p_value)

    def log_speedup(index: int) -> float:
        estimate = estimates[index]
        return math.inf if estimate is None else estimate.log_speedup

    smallest: dict[Arm, int] = {}
    for index in sorted(candidates, key=log_speedup):
        smallest.setdefault(run.pairs[index].arm, index)
    primary = set(smallest.values())
    return [
        Speedup(
            pair=pair,
            verdict=_verdict(run, pair, estimate),
            rule=run.rule_of_pair(pair),
            estimate=estimate,
            at_rest=at_rest[index],
            as_it_was=as_it_was[index],
            undisturbed=run.estimate(pair, disturbed=False) if run.disturbed_rounds else estimate,
            matched=run.matched(pair),
            primary=index in primary,
        )
        for index, (pair, estimate) in enumerate(zip(run.pairs, estimates, strict=True))
    ]


def _verdict(run: Run, pair: Pair, estimate: Estimate | None) -> Verdict:
    if run.withdrawal:
        return Verdict(WITHDRAWN, run.withdrawal.why)
    for arm in (pair.arm, pair.baseline):
        status = arm_status(run, arm, pair.case)
        if status.word != "measured":
            return Verdict(SKIPPED if status.word == "skipped" else FAILED, f"{arm.label}: {status.reason}")
    if faults := _faults(run, pair):
        return Verdict(WITHHELD, "; ".join(faults))
    if estimate is None:
        return Verdict(FAILED, "no block in which both arms were measured")
    return gates.judge(estimate, run.band(pair), run.preset)


def _faults(run: Run, pair: Pair) -> list[str]:
    arms = pair.arm, pair.baseline
    if pair.case.scenario == TRAINING:
        lost = failed_blocks_faults(run, {arm.label: (arm, pair.case) for arm in arms})
        return [*training_faults(run, pair), *lost]
    faults = [fault for arm in arms for fault in arm_faults(run, arm, pair.case)]
    parity = run.parity(pair)
    if parity is None:
        return [*faults, "outputs were not compared with the baseline's"]
    fault = gates.parity_fault(pair.arm.precision, parity.max_abs_logit_diff, parity.agreement, "baseline")
    return [*faults, fault] if fault else faults


def pair_faults(run: Run, arm: Arm, baseline: Arm, case: Case) -> list[str]:
    """Return why a comparison of two arms must be withheld, whether or not the run has a row for it."""
    for row in speedups(run):
        if (row.pair.arm, row.pair.baseline, row.pair.case) == (arm, baseline, case):
            return [row.verdict.reason] if row.verdict.word in (WITHHELD, WITHDRAWN) else []
    return [*arm_faults(run, arm, case), *arm_faults(run, baseline, case)]


def arm_faults(run: Run, arm: Arm, case: Case) -> list[str]:
    """Return the gates that an arm itself fails in inference."""
    proof, full = run.proof(arm, case), run.full_proof(arm, case)
    if proof is None or full is None:
        return [f"{arm.label}: no proof of what ran"]
    faults = [
        gates.parity_fault(arm.precision, proof.max_abs_logit_diff, proof.agreement, "oracle"),
        accuracy_fault(run, arm, case),
        gates.leak_fault(run.data, full.accuracy),
        _failed_blocks_fault(run, arm, case),
        _invalid_runs_fault(run, arm, case),
    ]
    return [f"{arm.label}: {fault}" for fault in faults if fault]


def arm_trouble(run: Run, arm: Arm, case: Case) -> Verdict | None:
    """Return the verdict on an arm that has no valid times of a case, or None. An A/A arm is judged as its original."""
    if run.withdrawal:
        return Verdict(WITHDRAWN, run.withdrawal.why)
    status = arm_status(run, arm, case)
    if status.word != "measured":
        return Verdict(SKIPPED if status.word == "skipped" else FAILED, status.reason)
    if case.scenario == TRAINING:
        rows = (row for row in speedups(run) if (row.pair.arm, row.pair.case) == (arm.original, case))
        faults = [row.verdict.reason for row in rows if row.verdict.word == WITHHELD]
    else:
        faults = arm_faults(run, arm, case)
    return Verdict(WITHHELD, "; ".join(faults)) if faults else None


def accuracy_fault(run: Run, arm: Arm, case: Case) -> str | None:
    """Return why an arm's accuracy is too low compared with fp32's, or None; random weights have none to compare."""
    proof, reference = run.full_proof(arm, case), run.references.get(case.model)
    if proof is None or reference is None or not run.info.models[case.model].trained:
        return None
    return gates.precision_fault(arm.precision, proof.accuracy, reference.accuracy)


def failed_blocks_faults(run: Run, places: Mapping[str, tuple[Arm, Case]]) -> list[str]:
    """Return a fault for each label whose arm lost too many blocks of its case."""
    faults = {label: _failed_blocks_fault(run, arm, case) for label, (arm, case) in places.items()}
    return [f"{label}: {fault}" for label, fault in faults.items() if fault]


def _failed_blocks_fault(run: Run, arm: Arm, case: Case) -> str | None:
    """Return how many blocks of an arm failed, if those are too many."""
    failures = [failure for failure in run.failures.get((arm.id, case.id), ()) if failure.block is not None]
    failed = {failure.block for failure in failures}
    blocks = failed | {turn.block for turn in run.turns.get((arm.id, case.id), ())}
    if len(failed) <= gates.MAX_FAILED_SHARE * len(blocks):
        return None
    return f"{len(failed)} of {len(blocks)} blocks failed ({failures[0].reason})"


def _invalid_runs_fault(run: Run, arm: Arm, case: Case) -> str | None:
    results = [load_run.result for load_run in run.load_runs(arm, case)]
    invalid = [result for result in results if not result.valid]
    if len(invalid) <= gates.MAX_FAILED_SHARE * len(results):
        return None
    reasons = dict.fromkeys(reason for result in invalid for reason in result.reasons)
    return f"LoadGen calls {len(invalid)} of {len(results)} runs INVALID ({', '.join(reasons)})"


def baselines_not_measured(run: Run, pair: Pair) -> list[str]:
    """Return the labels of the arm's baselines on the same case that were planned but not measured."""
    return [
        other.baseline.label
        for other in run.pairs
        if (other.arm, other.case) == (pair.arm, pair.case) and not run.turns.get((other.baseline.id, other.case.id))
    ]


@dataclass(frozen=True)
class ArmStatus:
    """The outcome of an arm on a case; `reason` is that of its first failure, empty if there is none."""

    word: Literal["measured", "failed", "skipped"]
    reason: str
    failed_blocks: int


def arm_status(run: Run, arm: Arm, case: Case) -> ArmStatus:
    failures = run.failures.get((arm.id, case.id), [])
    failed_blocks = len({failure.block for failure in failures} - {None})
    if run.turns.get((arm.id, case.id)):
        return ArmStatus("measured", failures[0].reason if failures else "", failed_blocks)
    failure = run.failure(arm, case)
    if failure is None:
        return ArmStatus("failed", "the run ended before it was measured", failed_blocks)
    return ArmStatus("skipped" if failure.skipped else "failed", failure.reason, failed_blocks)


def failed(run: Run) -> list[tuple[Arm, Case, ArmStatus]]:
    """Return the arms that failed or lost blocks."""
    statuses = ((arm, case, arm_status(run, arm, case)) for case in run.cases for arm in run.participants(case))
    return [row for row in statuses if row[2].word == "failed" or row[2].failed_blocks]


def withheld(run: Run) -> list[Speedup]:
    return [row for row in speedups(run) if row.verdict.word == WITHHELD]


def changed_by_rest(run: Run) -> list[Speedup]:
    """Return the comparisons that the machine's speeds change: by over 2 %, beyond the intervals of both rules."""
    rows = []
    for row in speedups(run):
        one, other = row.at_rest, row.as_it_was
        if one and other and one.interval and other.interval:
            difference = one.log_speedup - other.log_speedup
            outside = one.interval.excludes(other.log_speedup) and other.interval.excludes(one.log_speedup)
            if outside and not EQUIVALENCE[0] <= difference <= EQUIVALENCE[1]:
                rows.append(row)
    return rows


def failed_aa_checks(run: Run) -> list[Speedup]:
    """Return the A/A comparisons whose interval excludes 1."""
    return [row for row in speedups(run) if row.pair.arm.replica and row.interval and row.interval.excludes(1)]
