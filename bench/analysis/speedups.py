"""Judge every comparison of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from bench.analysis import gates
from bench.analysis.gates import Estimate, Verdict
from bench.analysis.run import RecordedRun
from bench.analysis.stats import Interval, holm
from bench.analysis.training import training_faults
from bench.suite.arms import TRAINING

if TYPE_CHECKING:
    from bench.suite.arms import Arm, Case, Pair


@dataclass(frozen=True)
class Speedup:
    """A row of the speedup table.

    `unmarked` is the estimate without the rounds in which the machine was taken away. `matched` is None when one of the
    environments is missing. `primary` marks an arm's comparison with its fastest baseline.
    """

    pair: Pair
    verdict: Verdict
    estimate: Estimate | None
    unmarked: Estimate | None
    matched: bool | None
    primary: bool

    @property
    def speedup(self) -> float | None:
        """Return the ratio baseline latency / arm latency."""
        return None if self.estimate is None else self.estimate.speedup

    @property
    def interval(self) -> Interval | None:
        """Return the interval on the ratio."""
        return None if self.estimate is None else self.estimate.ratio_interval


class Run(RecordedRun):
    """A run read back, with a row for each of its comparisons."""

    @cached_property
    def speedups(self) -> list[Speedup]:
        """Return a row for each comparison, the failed and skipped ones included, primary ones first.

        An arm's primary comparison is the one with its fastest baseline, so that a speedup there is one over all of
        them. It is chosen after measuring: Holm's correction counts every candidate.
        """
        estimates = [self.estimate(pair) for pair in self.pairs]
        candidates = [index for index, pair in enumerate(self.pairs) if pair.candidate]
        adjusted = holm([_p_value(estimates[index]) for index in candidates])
        for index, p_value in zip(candidates, adjusted, strict=True):
            estimate = estimates[index]
            estimates[index] = None if estimate is None else replace(estimate, p_value=p_value)
        primary = self._primary(candidates, estimates)
        rows = [
            self._row(pair, estimate, primary=index in primary)
            for index, (pair, estimate) in enumerate(zip(self.pairs, estimates, strict=True))
        ]
        return sorted(rows, key=lambda row: not row.primary)

    def _primary(self, candidates: list[int], estimates: list[Estimate | None]) -> set[int]:
        """Return the index of each arm's candidate with the smallest speedup."""
        smallest: dict[Arm, int] = {}
        for index in sorted(candidates, key=lambda index: _log_speedup(estimates[index])):
            smallest.setdefault(self.pairs[index].arm, index)
        return set(smallest.values())

    def baselines_not_measured(self, pair: Pair) -> list[str]:
        """Return the labels of the baselines that an arm was to be held against as well, and that have no samples."""
        alike = [each for each in self.pairs if (each.arm, each.case) == (pair.arm, pair.case)]
        return [each.baseline.label for each in alike if not self.turns.get((each.baseline.id, each.case.id))]

    def _row(self, pair: Pair, estimate: Estimate | None, *, primary: bool) -> Speedup:
        return Speedup(
            pair=pair,
            verdict=self._verdict(pair, estimate),
            estimate=estimate,
            unmarked=self.estimate(pair, marked=False) if self.marked_rounds else estimate,
            matched=self.matched(pair),
            primary=primary,
        )

    def _verdict(self, pair: Pair, estimate: Estimate | None) -> Verdict:
        for arm in (pair.arm, pair.baseline):
            if missing := self._missing(arm, pair.case):
                return missing
        if faults := self._faults(pair):
            return Verdict(gates.WITHHELD, "; ".join(faults))
        if estimate is None:
            return Verdict(gates.FAILED, "no block in which both arms were measured")
        return gates.judge(estimate, self.band(pair), self.preset)

    def _missing(self, arm: Arm, case: Case) -> Verdict | None:
        """Return why an arm has no samples at all, or None when it has."""
        if self.turns.get((arm.id, case.id)):
            return None
        failure = self.failure(arm, case)
        if failure is None:
            return Verdict(gates.FAILED, f"{arm.label}: the run ended before it was measured")
        return Verdict(gates.SKIPPED if failure.skipped else gates.FAILED, f"{arm.label}: {failure.reason}")

    def _faults(self, pair: Pair) -> list[str]:
        """Return the gates that the comparison fails."""
        if pair.case.scenario == TRAINING:
            lost = {arm.label: self._failed_blocks(arm, pair.case) for arm in (pair.arm, pair.baseline)}
            return [*training_faults(self, pair), *(f"{label}: {fault}" for label, fault in lost.items() if fault)]
        faults = [fault for arm in (pair.arm, pair.baseline) for fault in self.arm_faults(arm, pair.case)]
        parity = self.parity(pair)
        if parity is None:
            return [*faults, "outputs were not compared with the baseline's"]
        difference = parity.max_abs_logit_diff, parity.agreement
        fault = gates.parity_fault(pair.arm.precision, *difference, "baseline")
        return [*faults, fault] if fault else faults

    def pair_faults(self, arm: Arm, baseline: Arm, case: Case) -> list[str]:
        """Return what keeps any comparison of two arms from being claimed, whether or not the run has a row for it."""
        row = next((each for each in self.speedups if (each.pair.arm, each.pair.baseline) == (arm, baseline)
                    and each.pair.case == case), None)  # fmt: skip
        if row is not None:
            return [row.verdict.reason] if row.verdict.word == gates.WITHHELD else []
        return [fault for each in (arm, baseline) for fault in self.arm_faults(each, case)]

    def arm_faults(self, arm: Arm, case: Case) -> list[str]:
        """Return the gates that an arm fails by itself."""
        proof = self.proof(arm, case)
        if proof is None:
            return [f"{arm.label}: no proof of what ran"]
        faults = [
            gates.parity_fault(arm.precision, proof.max_abs_logit_diff, proof.agreement, "oracle"),
            self.accuracy_fault(arm, case),
            gates.leak_fault(self.data, proof.accuracy),
            self._failed_blocks(arm, case),
        ]
        return [f"{arm.label}: {fault}" for fault in faults if fault]

    def accuracy_fault(self, arm: Arm, case: Case) -> str | None:
        """Return why an arm's accuracy is not enough, beside fp32's, or None; of drawn weights it means nothing."""
        proof, reference = self.proof(arm, case), self.references.get(case.model)
        if proof is None or reference is None or not self.info["models"][case.model]["trained"]:
            return None
        return gates.accuracy_fault(arm.precision, proof.accuracy, reference.accuracy)

    def _failed_blocks(self, arm: Arm, case: Case) -> str | None:
        failed = {each.block for each in self.failures.get((arm.id, case.id), ()) if each.block is not None}
        blocks = failed | {each.block for each in self.turns.get((arm.id, case.id), ())}
        if len(failed) <= gates.MAX_FAILED_SHARE * len(blocks):
            return None
        reason = next(each.reason for each in self.failures[arm.id, case.id] if each.block is not None)
        return f"{len(failed)} of {len(blocks)} blocks failed ({reason})"


def _p_value(estimate: Estimate | None) -> float:
    return 1.0 if estimate is None or estimate.p_value is None else estimate.p_value


def _log_speedup(estimate: Estimate | None) -> float:
    return math.inf if estimate is None else estimate.log_speedup
