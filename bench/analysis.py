"""Derive every figure of a report from a run's description and its journal."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from bench import checks
from bench.checks import Estimate, Verdict
from bench.errors import UserError
from bench.journal import JOURNAL, read_journal, read_run
from bench.plan import PRESETS, Preset
from bench.records import Arm, Case, Check, End, Evidence, Failure, Overhead, Pair, Parity, Proof, Slice, Start
from bench.stats import Interval, hodges_lehmann, holm, sign_interval, wilcoxon_interval, wilcoxon_p

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

EQUIVALENCE_CONFIDENCE = 0.90

T = TypeVar("T")


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


class Run:
    """A run read back from its folder, with its records indexed."""

    def __init__(self, folder: Path) -> None:
        """Read; raises UserError when the folder holds no run or a damaged one."""
        self.folder = folder
        self.info: dict[str, Any] = read_run(folder)
        self.records = read_journal(folder)
        self.arms = [Arm(**arm) for arm in self.info["arms"]]
        self.cases = [Case(**case) for case in self.info["cases"]]
        self.preset: Preset = PRESETS[self.info["preset"]]
        self.data: str = self.info["data"]["name"]
        _refuse_impossible(folder, self.of(Slice), {arm.id for arm in self.arms})

    @cached_property
    def proofs(self) -> dict[tuple[str, str], Proof]:
        """Return the proofs by (arm, case)."""
        return {(proof.arm, proof.case): proof for proof in self.of(Proof)}

    @cached_property
    def slices(self) -> dict[tuple[str, str], list[Slice]]:
        """Return the slices by (arm, case), in order of measuring; only a process that proved its work has any."""
        proven = {(each.arm, each.case, each.block) for each in self.of(Evidence)}
        sound = [each for each in self.of(Slice) if (each.arm, each.case, each.block) in proven]
        return _grouped((each.arm, each.case, each) for each in sound)

    @cached_property
    def checks(self) -> dict[tuple[str, str], list[Check]]:
        """Return the blocks' checks by (arm, case)."""
        return _grouped((each.arm, each.case, each) for each in self.of(Check))

    @cached_property
    def starts(self) -> dict[tuple[str, str], list[Start]]:
        """Return the starts by (arm, case)."""
        return _grouped((each.arm, each.case, each) for each in self.of(Start))

    @cached_property
    def failures(self) -> dict[tuple[str, str], list[Failure]]:
        """Return the failures by (arm, case)."""
        return _grouped((each.arm, each.case, each) for each in self.of(Failure))

    @property
    def overhead(self) -> Overhead | None:
        """Return the null backend's samples, if they were taken."""
        return next(iter(self.of(Overhead)), None)

    @property
    def end(self) -> End | None:
        """Return how the run ended; None when it was killed."""
        return next(iter(self.of(End)), None)

    def failure(self, arm: Arm, case: Case) -> Failure | None:
        """Return the first failure of an arm; a replica that has none shares its original's."""
        own = self.failures.get((arm.id, case.id), [])
        original = self.failures.get((replace(arm, replica=False).id, case.id), [])
        return next(iter(own or original), None)

    def of(self, kind: type[T]) -> list[T]:
        """Return the records of one kind."""
        return [record for record in self.records if isinstance(record, kind)]

    def proof(self, arm: Arm, case: Case) -> Proof | None:
        """Return the proof of an arm; a replica's is its original's."""
        return self.proofs.get((replace(arm, replica=False).id, case.id))

    @cached_property
    def pairs(self) -> list[Pair]:
        """Return the comparisons that the run set out to make."""
        arms, cases = {arm.id: arm for arm in self.arms}, {case.id: case for case in self.cases}
        return [
            Pair(arms[pair["arm"]], arms[pair["baseline"]], cases[pair["case"]], pair["candidate"])
            for pair in self.info["pairs"]
        ]

    @cached_property
    def marked_rounds(self) -> set[tuple[str, int, int]]:
        """Return (case, block, round) of the rounds in which the machine was taken away."""
        machine = self.info["machine"]
        taken, wall = defaultdict[Any, float](float), defaultdict[Any, int](int)
        for each in self.of(Slice):
            key = (each.case, each.block, each.round)
            taken[key] += each.steal_ns / machine["cores"] + each.throttled_ns / machine["usable_cores"]
            wall[key] += each.wall_ns
        return {key for key in taken if taken[key] > checks.MAX_TAKEN_SHARE * wall[key]}

    def log_ratios(self, pair: Pair, *, marked: bool = True) -> dict[int, float]:
        """Return {block: median over its rounds of log(latency of the baseline / latency of the arm)}.

        The latency of a slice is the median of its samples. `marked` says whether marked rounds count.
        """
        arm, baseline = (self.latencies.get((each.id, pair.case.id), {}) for each in (pair.arm, pair.baseline))
        rounds = defaultdict[int, list[float]](list)
        for block, number in sorted(arm.keys() & baseline.keys()):
            if marked or (pair.case.id, block, number) not in self.marked_rounds:
                rounds[block].append(math.log(baseline[block, number] / arm[block, number]))
        return {block: median(ratios) for block, ratios in rounds.items()}

    @cached_property
    def latencies(self) -> dict[tuple[str, str], dict[tuple[int, int], float]]:
        """Return {(arm, case): {(block, round): median of the slice's samples, in ns}}."""
        return {
            key: {(each.block, each.round): median(each.samples_ns) for each in slices}
            for key, slices in self.slices.items()
        }

    @cached_property
    def speedups(self) -> list[Speedup]:
        """Return a row for each comparison, the failed and skipped ones included, primary ones first.

        An arm's primary comparison is the one with its fastest baseline, so that a speedup there is one over all of
        them. It is chosen after measuring: Holm's correction counts every candidate.
        """
        estimates = [self._estimate(self.log_ratios(pair)) for pair in self.pairs]
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

    def _estimate(self, log_ratios: dict[int, float]) -> Estimate | None:
        ratios = list(log_ratios.values())
        if not ratios:
            return None
        confidence = self.preset.confidence
        return Estimate(
            blocks=len(ratios),
            log_speedup=hodges_lehmann(ratios),
            interval=wilcoxon_interval(ratios, confidence) if confidence else None,
            sign_interval=sign_interval(ratios, confidence) if confidence else None,
            equivalence_intervals=(
                wilcoxon_interval(ratios, EQUIVALENCE_CONFIDENCE),
                sign_interval(ratios, EQUIVALENCE_CONFIDENCE),
            ),
            p_value=wilcoxon_p(ratios) if confidence else None,
        )

    def _row(self, pair: Pair, estimate: Estimate | None, *, primary: bool) -> Speedup:
        return Speedup(
            pair=pair,
            verdict=self._verdict(pair, estimate),
            estimate=estimate,
            unmarked=self._estimate(self.log_ratios(pair, marked=False)),
            matched=self.matched(pair),
            primary=primary,
        )

    def _verdict(self, pair: Pair, estimate: Estimate | None) -> Verdict:
        for arm in (pair.arm, pair.baseline):
            if missing := self._missing(arm, pair.case):
                return missing
        if faults := self._faults(pair):
            return Verdict(checks.WITHHELD, "; ".join(faults))
        if estimate is None:
            return Verdict(checks.FAILED, "no block in which both arms were measured")
        return checks.judge(estimate, self.band(pair), self.preset)

    def _missing(self, arm: Arm, case: Case) -> Verdict | None:
        """Return why an arm has no samples at all, or None when it has."""
        if self.slices.get((arm.id, case.id)):
            return None
        failure = self.failure(arm, case)
        if failure is None:
            return Verdict(checks.FAILED, f"{arm.label}: the run ended before it was measured")
        return Verdict(checks.SKIPPED if failure.skipped else checks.FAILED, f"{arm.label}: {failure.reason}")

    def _faults(self, pair: Pair) -> list[str]:
        """Return the gates that the comparison fails."""
        faults = [fault for arm in (pair.arm, pair.baseline) for fault in self._arm_faults(arm, pair.case)]
        parity = self.parity(pair)
        if parity is None:
            return [*faults, "outputs were not compared with the baseline's"]
        difference = parity.max_abs_logit_diff, parity.agreement
        fault = checks.parity_fault(pair.case.precision, *difference, "baseline")
        return [*faults, fault] if fault else faults

    def _arm_faults(self, arm: Arm, case: Case) -> list[str]:
        proof = self.proof(arm, case)
        if proof is None:
            return [f"{arm.label}: no proof of what ran"]
        faults = [
            checks.parity_fault(case.precision, proof.max_abs_logit_diff, proof.agreement, "oracle"),
            checks.leak_fault(self.data, proof.accuracy),
            self._failed_blocks(arm, case),
        ]
        return [f"{arm.label}: {fault}" for fault in faults if fault]

    def _failed_blocks(self, arm: Arm, case: Case) -> str | None:
        failed = {each.block for each in self.failures.get((arm.id, case.id), ()) if each.block is not None}
        blocks = failed | {each.block for each in self.slices.get((arm.id, case.id), ())}
        if len(failed) <= checks.MAX_FAILED_SHARE * len(blocks):
            return None
        reason = next(each.reason for each in self.failures[arm.id, case.id] if each.block is not None)
        return f"{len(failed)} of {len(blocks)} blocks failed ({reason})"

    def parity(self, pair: Pair) -> Parity | None:
        """Return how the arm's outputs compare with the baseline's."""
        wanted = (pair.arm.id, pair.baseline.id, pair.case.id)
        return next((each for each in self.of(Parity) if (each.arm, each.baseline, each.case) == wanted), None)

    def band(self, pair: Pair) -> float | None:
        """Return the largest absolute log ratio inside the interval of the same case's A/A comparison."""
        if self.preset.confidence is None:
            return None
        twin = next((each for each in self.pairs if each.arm.replica and each.case == pair.case), None)
        ratios = list(self.log_ratios(twin).values()) if twin else []
        interval = wilcoxon_interval(ratios, self.preset.confidence) if ratios else None
        return max(abs(interval.low), abs(interval.high)) if interval else None

    def matched(self, pair: Pair) -> bool | None:
        """Tell whether both arms' environments share the versions of all shared packages; None if one is missing."""
        ours, theirs = (self.info["stacks"][each.stack]["environment"] for each in (pair.arm, pair.baseline))
        if not {ours, theirs} <= self.info["environments"].keys():
            return None
        mismatches = self.info["mismatches"]
        return not (mismatches.get(f"{ours} {theirs}") or mismatches.get(f"{theirs} {ours}"))


def _grouped(triples: Iterable[tuple[str, str, T]]) -> dict[tuple[str, str], list[T]]:
    groups = defaultdict[tuple[str, str], list[T]](list)
    for arm, case, record in triples:
        groups[arm, case].append(record)
    return dict(groups)


def _p_value(estimate: Estimate | None) -> float:
    return 1.0 if estimate is None or estimate.p_value is None else estimate.p_value


def _log_speedup(estimate: Estimate | None) -> float:
    return math.inf if estimate is None else estimate.log_speedup


def _refuse_impossible(folder: Path, slices: list[Slice], arms: set[str]) -> None:
    """Raise UserError for slices that no run has written: of unknown arms, taken twice, or without positive samples."""
    places = [(each.arm, each.case, each.block, each.round) for each in slices]
    if len(set(places)) != len(places):
        raise UserError(f"{folder / JOURNAL}: damaged: it holds a slice twice")
    for each in slices:
        if each.arm not in arms or not each.samples_ns or min(each.samples_ns) <= 0 or each.wall_ns <= 0:
            raise UserError(f"{folder / JOURNAL}: damaged: the slice of {each.arm} in block {each.block} can't be")
