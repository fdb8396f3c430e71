"""A run read back from its folder: its records indexed, and the ratios that follow from them."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar, cast

from bench.analysis import gates
from bench.analysis.gates import Estimate
from bench.analysis.stats import hodges_lehmann, percentile, sign_interval, trimmed_mean, wilcoxon_interval, wilcoxon_p
from bench.journal import JOURNAL, read_journal, read_run
from bench.records import (
    Check,
    Conversion,
    End,
    Evidence,
    Failure,
    Overhead,
    Parity,
    Proof,
    Reference,
    Roof,
    Slice,
    Start,
    TrainedEpoch,
    Turn,
    watched_ns,
)
from bench.suite.arms import LATENCY, TRAINING, Arm, Case, Pair
from bench.suite.schedule import PRESETS, Preset
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
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
        self.scenarios = {case.id: case.scenario for case in self.cases}
        self.taken: list[Turn] = [*self.of(Slice), *self.of(TrainedEpoch)]
        _refuse_impossible(folder, self.taken, {arm.id for arm in self.arms})

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
    def turns(self) -> dict[tuple[str, str], list[Turn]]:
        """Return slices or epochs by (arm, case), in order; only of processes that have proved their work."""
        proven = {(each.arm, each.case, each.block) for each in self.of(Evidence)}
        sound = [each for each in self.taken if (each.arm, each.case, each.block) in proven]
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

    @cached_property
    def roofs(self) -> list[Roof]:
        """Return what was measured of the machine itself."""
        return self.of(Roof)

    @property
    def overhead(self) -> Overhead | None:
        """Return the null backend's samples, if they were taken."""
        return next(iter(self.of(Overhead)), None)

    @property
    def overhead_ns(self) -> float | None:
        """Return the typical one of the null backend's samples; None when there are none."""
        return percentile(sorted(self.overhead.samples_ns), 50) if self.overhead else None

    @property
    def end(self) -> End | None:
        """Return how the run ended; None when it was killed."""
        return next(iter(self.of(End)), None)

    def failure(self, arm: Arm, case: Case) -> Failure | None:
        """Return the first failure of an arm; a replica that has none shares its original's."""
        own = self.failures.get((arm.id, case.id), [])
        original = self.failures.get((arm.original.id, case.id), [])
        return next(iter(own or original), None)

    def slices(self, arm: Arm, case: Case) -> list[Slice]:
        """Return an arm's slices on a case, in order of measuring."""
        return [each for each in self.turns.get((arm.id, case.id), []) if isinstance(each, Slice)]

    def epochs(self, arm: Arm, case: Case) -> list[TrainedEpoch]:
        """Return the epochs that an arm has trained on a case, in order of measuring."""
        return [each for each in self.turns.get((arm.id, case.id), []) if isinstance(each, TrainedEpoch)]

    def of(self, kind: type[T]) -> list[T]:
        """Return the records of one kind."""
        return cast("list[T]", self._by_kind[kind])

    @cached_property
    def _by_kind(self) -> dict[type, list[Any]]:
        kinds = defaultdict[type, list[Any]](list)
        for record in self.records:
            kinds[type(record)].append(record)
        return kinds

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
        machine, threads = self.info["machine"], {case.id: self.threads(case) for case in self.cases}
        taken, foreign, wall = (defaultdict[Any, float](float) for _ in range(3))
        for each in self.taken:
            key = (each.case, each.block, each.round)
            stolen_of = threads[each.case] if each.watched_ns is not None else machine["cores"]  # of all, in older runs
            taken[key] += each.steal_ns / stolen_of + each.throttled_ns / machine["usable_cores"]
            foreign[key] += (each.foreign_ns or 0) / threads[each.case]
            wall[key] += watched_ns(each)
        return {
            key
            for key in wall
            if taken[key] > gates.MAX_TAKEN_SHARE * wall[key] or foreign[key] > gates.MAX_FOREIGN_SHARE * wall[key]
        }

    def log_ratios(self, pair: Pair, *, marked: bool = True) -> dict[int, float]:
        """Return {block: median over its rounds of log(latency of the baseline / latency of the arm)}.

        The latency of a slice is the trimmed mean of its samples; for throughput, the time per batch of all members
        together. `marked` says whether marked rounds count.
        """
        arm, baseline = (self.latencies.get((each.id, pair.case.id), {}) for each in (pair.arm, pair.baseline))
        counted = (
            each
            for each in sorted(arm.keys() & baseline.keys())
            if marked or (pair.case.id, *each) not in self.marked_rounds
        )
        return _medians({each: math.log(baseline[each] / arm[each]) for each in counted})

    @cached_property
    def latencies(self) -> dict[tuple[str, str], dict[tuple[int, int], float]]:
        """Return {(arm, case): {(block, round): latency of the slice, or time of the epoch, in ns}}.

        The first epoch of a process, in which everything is done for the first time, is its warm-up.
        """
        return {
            (arm, case): {
                (each.block, each.round): time_ns
                for each in turns
                if (time_ns := _time_ns(each, self.scenarios[case])) is not None
            }
            for (arm, case), turns in self.turns.items()
        }

    def typical_latency_ns(self, arm: Arm, case: Case) -> float | None:
        """Return the median over blocks of the median over rounds of the slices' latencies."""
        blocks = self.block_latencies_ns(arm, case)
        return median(blocks.values()) if blocks else None

    def block_latencies_ns(self, arm: Arm, case: Case) -> dict[int, float]:
        """Return {block: median over its rounds of the slices' latencies}."""
        return self._block_latencies_ns.get((arm.id, case.id), {})

    @cached_property
    def _block_latencies_ns(self) -> dict[tuple[str, str], dict[int, float]]:
        return {key: _medians(latencies) for key, latencies in self.latencies.items()}

    def estimate(self, pair: Pair, *, marked: bool = True) -> Estimate | None:
        """Return the speedup of a comparison with its intervals, or None when no block has both arms."""
        log_ratios = self.log_ratios(pair, marked=marked)
        return estimate_of(list(log_ratios.values()), self.preset.confidence) if log_ratios else None

    def threads(self, case: Case) -> int:
        """Return how many threads each arm had on a case, all of its processes together."""
        return case.threads or int(self.info["threads"])

    def images_per_turn(self, case: Case) -> int:
        """Return how many images the time of a turn is for: a batch's, or an epoch's."""
        return self.info["suite"]["training"]["images"] if case.scenario == TRAINING else case.batch_size

    def accuracy(self, arm: Arm, case: Case) -> float | None:
        """Return the accuracy on the test images: proved, or the mean over the seeds that an arm was trained with."""
        if case.scenario == TRAINING:
            reached = self.final_accuracies(arm, case)
            return sum(reached.values()) / len(reached) if reached else None
        proof = self.proof(arm, case)
        return proof.accuracy if proof else None

    def final_accuracies(self, arm: Arm, case: Case) -> dict[int, float]:
        """Return {block: test accuracy after the last epoch} of the blocks that were trained to the end."""
        last = self.info["suite"]["training"]["epochs"] - 1 if case.scenario == TRAINING else -1
        epochs = self.epochs(arm, case)
        return {
            each.block: each.test_accuracy for each in epochs if each.round == last and each.test_accuracy is not None
        }

    def trained_memory_bytes(self, arm: Arm, case: Case) -> int | None:
        """Return the peak resident set of an arm's processes in training."""
        return max((each.memory_bytes for each in self.epochs(arm, case)), default=None)

    def parity(self, pair: Pair) -> Parity | None:
        """Return how the arm's outputs compare with the baseline's."""
        return self._parities.get((pair.arm.id, pair.baseline.id, pair.case.id))

    @cached_property
    def _parities(self) -> dict[tuple[str, str, str], Parity]:
        return {(each.arm, each.baseline, each.case): each for each in reversed(self.of(Parity))}

    def band(self, pair: Pair) -> float | None:
        """Return the largest absolute log ratio inside the interval of the same case's A/A comparison."""
        return self._bands.get(pair.case)

    @cached_property
    def _bands(self) -> dict[Case, float]:
        """Return the A/A bands by case, where there is an interval."""
        twins = {pair.case: self.estimate(pair) for pair in reversed(self.pairs) if pair.arm.replica}
        intervals = {case: twin.interval for case, twin in twins.items() if twin and twin.interval}
        return {case: max(abs(each.low), abs(each.high)) for case, each in intervals.items()}

    def matched(self, pair: Pair) -> bool | None:
        """Tell whether both arms' environments share the versions of all shared packages; None if one is missing."""
        ours, theirs = (self.info["stacks"][each.stack]["environment"] for each in (pair.arm, pair.baseline))
        if not {ours, theirs} <= self.info["environments"].keys():
            return None
        mismatches = self.info["mismatches"]
        return not (mismatches.get(f"{ours} {theirs}") or mismatches.get(f"{theirs} {ours}"))


def estimate_of(log_ratios: Sequence[float], confidence: float | None) -> Estimate:
    """Return what follows from the log ratios of blocks, at least one; intervals only with a confidence."""
    return Estimate(
        blocks=len(log_ratios),
        log_speedup=hodges_lehmann(log_ratios),
        interval=wilcoxon_interval(log_ratios, confidence) if confidence else None,
        sign_interval=sign_interval(log_ratios, confidence) if confidence else None,
        equivalence_intervals=(
            wilcoxon_interval(log_ratios, EQUIVALENCE_CONFIDENCE),
            sign_interval(log_ratios, EQUIVALENCE_CONFIDENCE),
        ),
        p_value=wilcoxon_p(log_ratios) if confidence else None,
    )


def _medians(by_round: dict[tuple[int, int], float]) -> dict[int, float]:
    """Return {block: median over its rounds} of what is known by (block, round)."""
    blocks = defaultdict[int, list[float]](list)
    for (block, _), each in by_round.items():
        blocks[block].append(each)
    return {block: median(rounds) for block, rounds in blocks.items()}


def _time_ns(turn: Turn, scenario: str) -> float | None:
    """Return what a turn says of its arm's speed, or None when it is a warm-up."""
    if isinstance(turn, TrainedEpoch):
        return turn.wall_ns if turn.round else None
    return trimmed_mean(turn.samples_ns) if scenario == LATENCY else turn.batch_interval_ns


def _grouped(triples: Iterable[tuple[str, str, T]]) -> dict[tuple[str, str], list[T]]:
    groups = defaultdict[tuple[str, str], list[T]](list)
    for arm, case, record in triples:
        groups[arm, case].append(record)
    return dict(groups)


def _refuse_impossible(folder: Path, turns: list[Turn], arms: set[str]) -> None:
    """Raise UserError for turns that no run has written: of unknown arms, taken twice, or without positive times."""
    places = [(each.arm, each.case, each.block, each.round) for each in turns]
    if len(set(places)) != len(places):
        raise UserError(f"{folder / JOURNAL}: damaged: it holds a slice twice")
    for each in turns:
        if each.arm not in arms or not _can_be(each):
            raise UserError(f"{folder / JOURNAL}: damaged: the slice of {each.arm} in block {each.block} can't be")


def _can_be(turn: Turn) -> bool:
    if isinstance(turn, TrainedEpoch):
        return turn.wall_ns > 0 and turn.images > 0
    whole = len(turn.counts) == len(turn.walls_ns) and sum(turn.counts) == len(turn.samples_ns) > 0
    return whole and min(*turn.samples_ns, *turn.walls_ns) > 0
