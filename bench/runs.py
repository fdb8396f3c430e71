"""A run read back from its folder: its records indexed, and the ratios that follow from them."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from bench import checks
from bench.checks import Estimate
from bench.errors import UserError
from bench.journal import JOURNAL, read_journal, read_run
from bench.plan import PRESETS, Preset
from bench.records import (
    Arm,
    Case,
    Check,
    Conversion,
    End,
    Evidence,
    Failure,
    Overhead,
    Pair,
    Parity,
    Proof,
    Reference,
    Slice,
    Start,
)
from bench.stats import hodges_lehmann, sign_interval, wilcoxon_interval, wilcoxon_p
from bench.suite import LATENCY

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

EQUIVALENCE_CONFIDENCE = 0.90

T = TypeVar("T")


class RecordedRun:
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

    def lineup(self, case: Case) -> list[Arm]:
        """Return the arms that were to take part in a case, the skipped ones included."""
        ids = set(self.info["lineups"][case.id])
        return [arm for arm in self.arms if arm.id in ids]

    def is_vanilla(self, arm: Arm) -> bool:
        """Tell whether an arm's stack is one that others are held against."""
        return not self.info["stacks"][arm.stack]["baselines"]

    @cached_property
    def references(self) -> dict[str, Reference]:
        """Return by model what the oracle says of the test images."""
        return {each.model: each for each in self.of(Reference)}

    @cached_property
    def conversions(self) -> dict[tuple[str, str], Conversion]:
        """Return the conversions by (arm, model)."""
        return {(each.arm, each.model): each for each in self.of(Conversion)}

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
        original = self.failures.get((arm.original.id, case.id), [])
        return next(iter(own or original), None)

    def of(self, kind: type[T]) -> list[T]:
        """Return the records of one kind."""
        return [record for record in self.records if isinstance(record, kind)]

    def proof(self, arm: Arm, case: Case) -> Proof | None:
        """Return the proof of an arm; a replica's is its original's."""
        return self.proofs.get((arm.original.id, case.id))

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

        The latency of a slice is the median of its samples; for throughput, the time per batch of all members together.
        `marked` says whether marked rounds count.
        """
        arm, baseline = (self.latencies.get((each.id, pair.case.id), {}) for each in (pair.arm, pair.baseline))
        rounds = defaultdict[int, list[float]](list)
        for block, number in sorted(arm.keys() & baseline.keys()):
            if marked or (pair.case.id, block, number) not in self.marked_rounds:
                rounds[block].append(math.log(baseline[block, number] / arm[block, number]))
        return {block: median(ratios) for block, ratios in rounds.items()}

    @cached_property
    def latencies(self) -> dict[tuple[str, str], dict[tuple[int, int], float]]:
        """Return {(arm, case): {(block, round): latency of the slice, in ns}}."""
        latency = {case.id: case.scenario == LATENCY for case in self.cases}
        return {
            (arm, case): {
                (each.block, each.round): median(each.samples_ns) if latency[case] else each.batch_interval_ns
                for each in slices
            }
            for (arm, case), slices in self.slices.items()
        }

    def typical_latency_ns(self, arm: Arm, case: Case) -> float | None:
        """Return the median over blocks of the median over rounds of the slices' latencies."""
        blocks = defaultdict[int, list[float]](list)
        for (block, _), latency in self.latencies.get((arm.id, case.id), {}).items():
            blocks[block].append(latency)
        return median(median(rounds) for rounds in blocks.values()) if blocks else None

    def estimate(self, pair: Pair, *, marked: bool = True) -> Estimate | None:
        """Return the speedup of a comparison with its intervals, or None when no block has both arms."""
        log_ratios = self.log_ratios(pair, marked=marked)
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


def _refuse_impossible(folder: Path, slices: list[Slice], arms: set[str]) -> None:
    """Raise UserError for slices that no run has written: of unknown arms, taken twice, or without positive samples."""
    places = [(each.arm, each.case, each.block, each.round) for each in slices]
    if len(set(places)) != len(places):
        raise UserError(f"{folder / JOURNAL}: damaged: it holds a slice twice")
    for each in slices:
        whole = len(each.counts) == len(each.walls_ns) and sum(each.counts) == len(each.samples_ns) > 0
        if each.arm not in arms or not whole or min(*each.samples_ns, *each.walls_ns) <= 0:
            raise UserError(f"{folder / JOURNAL}: damaged: the slice of {each.arm} in block {each.block} can't be")
