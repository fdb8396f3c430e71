"""A recorded run: its description and records, indexed, and the ratios that follow from them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from functools import cached_property
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, TypeVar, cast

from bench.analysis import gates
from bench.analysis.gates import Estimate, estimate_of
from bench.analysis.latency import (
    AS_IT_WAS,
    AT_REST,
    BlockLatencies,
    CaseLatencies,
    find_rule,
    lack_of_rest,
    too_few_at_rest,
)
from bench.analysis.stats import percentile, trimmed_mean
from bench.journal import journal_of, read_journal
from bench.machine.microarchitecture import instructions
from bench.records import (
    COMPLETE,
    INTERRUPTED,
    SETTLED,
    BlockEnd,
    Check,
    Choice,
    Conversion,
    End,
    Evidence,
    Failure,
    LoadRun,
    Overhead,
    Parity,
    Proof,
    Reference,
    Roof,
    SingleEpoch,
    Slice,
    Start,
    TrainedEpoch,
    Turn,
    counted_ns,
    in_force,
    watched_ns,
)
from bench.run_info import read_run
from bench.suite.arms import BEST_THREADS, LATENCY, LOADGEN, THROUGHPUT, TRAINING, Arm, Case, Pair, Split, usual_split
from bench.suite.schedule import PRESETS, joint_rounds
from bench.suite.user_variables import usable_instruction_sets
from bench.withdrawal import read_withdrawal
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from bench.analysis.latency import Rule
    from bench.analysis.stats import Interval
    from bench.records import Conditions

_T = TypeVar("_T")
_R = TypeVar("_R", bound=Check | Start | Failure | Turn)


# No run has as many blocks, or rounds in a block.
MOST = 10**6


class Run:
    """A recorded run. Its dictionaries have the ids of arm and case as keys, unless they say otherwise."""

    def __init__(self, folder: Path, rule: Rule | None = None) -> None:
        """Read the run in `folder`; raises UserError if there is none or if it is damaged.

        `rule` replaces the rule that was fixed before the run. Runs that did not record one were made for AS_IT_WAS.
        """
        self.folder = folder
        self.info = read_run(folder)
        self.rule = rule or find_rule(self.info.protocol.rule or AS_IT_WAS)
        self.records = in_force(read_journal(folder))
        self.withdrawal = read_withdrawal(folder)
        self.arms, self.cases = self.info.arms, self.info.cases
        self.preset = PRESETS[self.info.preset]
        self.data = self.info.data.name
        self._cases = {case.id: case for case in self.cases}
        self._participants = {
            case: [arm for arm in self.arms if arm.id in ids]
            for case, ids in ((case, set(arms)) for case, arms in self.info.lineups.items())
        }
        # A report needs these many times. Their keys are the case; arm, case and rule; comparison, rule, and whether
        # disturbed rounds count.
        self._lacks_of_rest: dict[str, str | None] = {}
        self._block_latencies_ns: dict[tuple[str, str, Rule], dict[int, float]] = {}
        self._estimates: dict[tuple[Pair, Rule, bool], Estimate | None] = {}
        self._all_turns: list[Turn] = [*self.of(Slice), *self.of(TrainedEpoch), *self.of(LoadRun)]
        if damage := self._impossible_turn() or self._impossible_record() or self._impossible_labels():
            raise UserError(f"{journal_of(folder)}: damaged: {damage}")

    def _impossible_turn(self) -> str | None:
        """Return a description of the first turn that no run could have stored, or None."""
        places = set()
        for turn in self._all_turns:
            place = turn.arm, turn.case, turn.block, turn.round
            if place in places:
                return f"{turn.arm} has two turns in round {turn.round} of block {turn.block} on {turn.case}"
            places.add(place)
            if (turn.arm, turn.case) not in self._places or not _is_possible(turn, self._cases[turn.case]):
                return f"the turn of {turn.arm} in block {turn.block} on {turn.case} is impossible"
        return None

    def _impossible_record(self) -> str | None:
        """Return a description of the first other record that no run could have stored, or None."""
        for end in self.of(End):
            if end is not self.records[-1] or end.status not in (COMPLETE, SETTLED, INTERRUPTED) or end.wall_ns < 0:
                return f"the end {end.status!r} is impossible"
        if any(not overhead.samples_ns or min(overhead.samples_ns) < 0 for overhead in self.of(Overhead)):
            return "the overhead has no samples, or impossible ones"
        for choice in self.of(Choice):
            if (choice.arm, choice.case) not in self._places or not _is_choice(choice):
                return f"the threads of {choice.arm} on {choice.case} were not chosen from its trials"
        for roof in self.roofs:
            counted = len(roof.counts) == len(roof.walls_ns) > 0 and min(roof.counts) >= 0
            if not counted or min(roof.walls_ns) <= 0 or roof.work < 0:
                return f"the limit '{roof.what}' of {roof.size} is impossible"
        return None

    def _impossible_labels(self) -> str | None:
        """Return a description of the first labels that are not one for each image, or None."""
        images = {reference.model: len(reference.labels) for reference in self.of(Reference)}
        for reference in self.of(Reference):
            if not 0 < len(reference.labels) == len(reference.truth) == images[reference.model]:
                return f"the reference labels of {reference.model} are not one for each image"
        for proof in self.of(Proof):
            case = self._cases.get(proof.case)
            if case and not 0 < len(proof.labels) == proof.images <= images.get(case.model, proof.images):
                return f"the labels of {proof.arm} on {proof.case} are not one for each image"
        return None

    @cached_property
    def _places(self) -> set[tuple[str, str]]:
        """Return (arm, case) of all that were to take part."""
        return {(arm.id, case) for case, arms in self._participants.items() for arm in arms}

    @property
    def is_empty(self) -> bool:
        """Return whether no arm had a turn."""
        return not self._all_turns

    def of(self, kind: type[_T]) -> list[_T]:
        return cast("list[_T]", self._by_kind[kind])

    @cached_property
    def _by_kind(self) -> dict[type, list[Any]]:
        kinds = defaultdict[type, list[Any]](list)
        for record in self.records:
            kinds[type(record)].append(record)
        return kinds

    def participants(self, case: Case) -> list[Arm]:
        """Return the arms that were to take part in a case, including those that were skipped."""
        return self._participants[case.id]

    def is_vanilla(self, arm: Arm) -> bool:
        return not self.info.stacks[arm.stack].baselines

    @cached_property
    def pairs(self) -> list[Pair]:
        arms = {arm.id: arm for arm in self.arms}
        return [
            Pair(arms[pair.arm], arms[pair.baseline], self._cases[pair.case], pair.candidate)
            for pair in self.info.pairs
        ]

    @cached_property
    def references(self) -> dict[str, Reference]:
        """Return the oracle's labels by model."""
        return {reference.model: reference for reference in self.of(Reference)}

    @cached_property
    def conversions(self) -> dict[tuple[str, str], Conversion]:
        """Return the conversions by arm and model."""
        return {(conversion.arm, conversion.model): conversion for conversion in self.of(Conversion)}

    @cached_property
    def proofs(self) -> dict[tuple[str, str], Proof]:
        return {(proof.arm, proof.case): proof for proof in self.of(Proof)}

    @cached_property
    def turns(self) -> dict[tuple[str, str], list[Turn]]:
        """Return slices or epochs in the order of measurement, only those of processes that proved their work."""
        proven = {(evidence.arm, evidence.case, evidence.block) for evidence in self.of(Evidence)}
        return _by_arm_and_case(turn for turn in self._all_turns if (turn.arm, turn.case, turn.block) in proven)

    @cached_property
    def single_epochs(self) -> dict[tuple[str, str], dict[int, SingleEpoch]]:
        """Return by block the epochs of one worker that those of its groups are compared with."""
        epochs = defaultdict[tuple[str, str], dict[int, SingleEpoch]](dict)
        for epoch in self.of(SingleEpoch):
            epochs[epoch.arm, epoch.case][epoch.block] = epoch
        return epochs

    @cached_property
    def checks(self) -> dict[tuple[str, str], list[Check]]:
        return _by_arm_and_case(self.of(Check))

    @cached_property
    def starts(self) -> dict[tuple[str, str], list[Start]]:
        return _by_arm_and_case(self.of(Start))

    @cached_property
    def failures(self) -> dict[tuple[str, str], list[Failure]]:
        return _by_arm_and_case(self.of(Failure))

    @cached_property
    def _parities(self) -> dict[tuple[str, str, str], Parity]:
        return {(parity.arm, parity.baseline, parity.case): parity for parity in reversed(self.of(Parity))}

    @property
    def roofs(self) -> list[Roof]:
        return self.of(Roof)

    @property
    def overhead(self) -> Overhead | None:
        return next(iter(self.of(Overhead)), None)

    @property
    def overhead_ns(self) -> float | None:
        """Return the median of the null backend's samples."""
        return percentile(sorted(self.overhead.samples_ns), 50) if self.overhead else None

    @property
    def end(self) -> End | None:
        """Return how the run ended; None if it was killed."""
        return next(iter(self.of(End)), None)

    def slices(self, arm: Arm, case: Case) -> list[Slice]:
        return [turn for turn in self.turns.get((arm.id, case.id), []) if isinstance(turn, Slice)]

    def epochs(self, arm: Arm, case: Case) -> list[TrainedEpoch]:
        return [turn for turn in self.turns.get((arm.id, case.id), []) if isinstance(turn, TrainedEpoch)]

    def load_runs(self, arm: Arm, case: Case) -> list[LoadRun]:
        return [turn for turn in self.turns.get((arm.id, case.id), []) if isinstance(turn, LoadRun)]

    def proof(self, arm: Arm, case: Case) -> Proof | None:
        """Return the proof of an arm; a replica has its original's."""
        return self.proofs.get((arm.original.id, case.id))

    def full_proof(self, arm: Arm, case: Case) -> Proof | None:
        """Return the proof of an arm that has proved a case, on the most images of its model.

        An arm predicts all test images on one case, and fewer on the others, where only its outputs are compared.
        """
        if (own := self.proof(arm, case)) is None:
            return None
        others = (self.proof(arm, other) for other in self.cases if other.model == case.model)
        return max((own, *(proof for proof in others if proof)), key=lambda proof: proof.images)

    def instructions(self, arm: Arm, case: Case) -> str | None:
        """Return which instructions an arm multiplied with, as far as its kernels' names say so."""
        proof = self.proof(arm, case)
        usable = self.info.machine.instruction_sets
        if self.info.variables:
            usable = usable_instruction_sets(usable, self.info.variables.given)
        return instructions(proof.kernels, arm.precision, usable) if proof else None

    def parity(self, pair: Pair) -> Parity | None:
        return self._parities.get((pair.arm.id, pair.baseline.id, pair.case.id))

    def failure(self, arm: Arm, case: Case) -> Failure | None:
        """Return the first failure of an arm; a replica without one has its original's."""
        own = self.failures.get((arm.id, case.id), [])
        original = self.failures.get((arm.original.id, case.id), [])
        return next(iter(own or original), None)

    def threads(self, case: Case) -> int:
        """Return how many threads each arm had on a case, all of its processes together.

        It is the largest possible number where each arm has its own.
        """
        each = self.info.threads if case.threads in (0, BEST_THREADS) else case.threads
        return each * max(1, case.workers)

    def split(self, arm: Arm, case: Case) -> Split:
        """Return how an arm used its cores on a case; a replica has its original's choice."""
        choice = self.choices.get((arm.original.id, case.id))
        return Split(choice.streams, choice.threads) if choice else usual_split(case.scenario, self.threads(case))

    @cached_property
    def choices(self) -> dict[tuple[str, str], Choice]:
        return {(choice.arm, choice.case): choice for choice in self.of(Choice)}

    def images_per_turn(self, case: Case) -> int:
        """Return how many images the time of a turn covers: a batch, or an epoch."""
        training = self.info.suite.training
        return training.images if training and case.scenario == TRAINING else case.batch_size

    def accuracy(self, arm: Arm, case: Case) -> float | None:
        """Return the test accuracy of the arm's proof; of arms that train, the mean over their seeds."""
        if case.scenario == TRAINING:
            accuracies = self.final_accuracies(arm, case).values()
            return fmean(accuracies) if accuracies else None
        proof = self.full_proof(arm, case)
        return proof.accuracy if proof else None

    def final_accuracies(self, arm: Arm, case: Case) -> dict[int, float]:
        """Return the test accuracy after the last epoch by block, of blocks that trained all epochs."""
        training = self.info.suite.training
        return {
            epoch.block: epoch.test_accuracy
            for epoch in self.epochs(arm, case)
            if training and epoch.round == training.epochs - 1 and epoch.test_accuracy is not None
        }

    def trained_memory_bytes(self, arm: Arm, case: Case) -> int | None:
        return max((epoch.result.memory_bytes for epoch in self.epochs(arm, case)), default=None)

    @cached_property
    def disturbed_rounds(self) -> set[tuple[str, int, int]]:
        """Return (case, block, round) of the rounds in which the arms lost too much of their cores.

        Joint rounds are disturbed together. Clocks that count in ticks have errors of several ms, which cancel only in
        the sum over consecutive turns.
        """
        first = {
            (turn.case, block.number, turn.number): (joint[0].case, block.number, turn.number)
            for block in self.info.schedule
            for joint in joint_rounds(block.rounds, self.cases)
            for turn in joint
        }
        taken, others, counted = (defaultdict[tuple[str, int, int], float](float) for _ in range(3))
        places = defaultdict[tuple[str, int, int], set[tuple[str, int, int]]](set)
        machine = self.info.machine
        threads = {
            (arm.id, case.id): self.split(arm, case).cores for case in self.cases for arm in self.participants(case)
        }
        for turn in self._all_turns:
            place, conditions = (turn.case, turn.block, turn.round), turn.conditions
            key = first.get(place, place)
            places[key].add(place)
            # Runs that did not record the watched time counted the steal of all cores.
            cores = machine.cores if conditions.watched_ns is None else threads[turn.arm, turn.case]
            taken[key] += (conditions.steal_ns or 0) / cores + (conditions.throttled_ns or 0) / machine.usable_cores
            others[key] += (conditions.foreign_ns or 0) / threads[turn.arm, turn.case]
            counted[key] += counted_ns(turn)
        return {
            place
            for key in counted
            if taken[key] > gates.MAX_TAKEN_SHARE * counted[key] or others[key] > gates.MAX_FOREIGN_SHARE * counted[key]
            for place in places[key]
        }

    @cached_property
    def _latencies(self) -> dict[tuple[str, str], dict[tuple[int, int], float]]:
        """Return the time per batch or epoch by block and round, in ns, without the first epoch of each process.

        In its first epoch a process does everything for the first time: it is the warm-up.
        """
        return {
            (arm, case): {
                (turn.block, turn.round): _time_ns(turn, self._cases[case].scenario)
                for turn in turns
                if turn.round or not isinstance(turn, TrainedEpoch)
            }
            for (arm, case), turns in self.turns.items()
        }

    def turn_latencies_ns(self, arm: Arm, case: Case) -> dict[tuple[int, int], float]:
        """Return the time per batch or epoch by block and round, as the machine was."""
        return self._latencies.get((arm.id, case.id), {})

    @cached_property
    def _case_latencies(self) -> dict[str, CaseLatencies]:
        """Return the slices of all arms by case; only cases of latency have any."""
        cases = defaultdict[str, dict[int, dict[str, dict[int, tuple[int, ...]]]]](
            lambda: defaultdict(lambda: defaultdict(dict))
        )
        for turns in self.turns.values():
            for turn in turns:
                if isinstance(turn, Slice) and self._cases[turn.case].scenario == LATENCY:
                    cases[turn.case][turn.block][turn.arm][turn.round] = turn.samples_ns
        return {case: CaseLatencies(blocks, self.info.protocol.rounds) for case, blocks in cases.items()}

    def _blocks(self, case: Case) -> dict[int, BlockLatencies]:
        return self._case_latencies[case.id].blocks if case.id in self._case_latencies else {}

    def blocks_at_rest(self, case: Case) -> dict[int, bool]:
        """Return by block whether the machine was at rest; empty without latencies of single calls."""
        return {number: block.is_at_rest for number, block in self._blocks(case).items()}

    def rest_share(self, case: Case) -> float | None:
        """Return the share of windows in which the machine was at rest, as a mean over blocks."""
        blocks = self._blocks(case)
        return fmean(block.rest_share for block in blocks.values()) if blocks else None

    def rule_of(self, case: Case) -> Rule:
        """Return the run's rule; AS_IT_WAS for a case that is not reported at rest."""
        return AS_IT_WAS if self.rule == AS_IT_WAS or self.lack_of_rest(case) else AT_REST

    def too_few_at_rest(self, case: Case) -> str | None:
        """Return why a case has no ratios at rest, or None."""
        return too_few_at_rest(self._blocks(case).values(), self._needed_blocks)

    def lack_of_rest(self, case: Case) -> str | None:
        """Return why a case is not reported at rest, or None."""
        if case.id not in self._lacks_of_rest:
            intervals = (
                (self._interval(pair, AT_REST), self._interval(pair, AS_IT_WAS))
                for pair in self.pairs
                if pair.case == case
            )
            blocks = self._blocks(case).values()
            self._lacks_of_rest[case.id] = lack_of_rest(blocks, self._needed_blocks, intervals)
        return self._lacks_of_rest[case.id]

    def _interval(self, pair: Pair, rule: Rule) -> Interval | None:
        found = self.estimate(pair, rule)
        return found.interval if found else None

    @cached_property
    def _needed_blocks(self) -> int:
        """Return how many blocks an interval needs, and a primary comparison after Holm's correction."""
        if self.preset.confidence is None:
            return 1
        candidates = max(1, sum(pair.candidate for pair in self.pairs))
        # The smallest p value of n blocks is 2 / 2**n.
        return math.ceil(1 + math.log2(candidates / (1 - self.preset.confidence)))

    def _rest(
        self, case: Case, places: Iterable[tuple[int, int]], *arms: Arm
    ) -> Iterator[tuple[int, BlockLatencies, set[int]]]:
        """Yield number, windows and rounds of the blocks of these (block, round) in which the machine was at rest.

        The windows are those in which the `arms` are compared. The blocks at rest are the same for all arms.
        """
        rounds = defaultdict[int, set[int]](set)
        for block, number in places:
            rounds[block].add(number)
        if latencies := self._case_latencies.get(case.id):
            blocks = latencies.at_rest(*(arm.id for arm in arms))
            yield from ((block, blocks[block], numbers) for block, numbers in rounds.items() if block in blocks)

    def block_latencies_ns(self, arm: Arm, case: Case, rule: Rule | None = None) -> dict[int, float]:
        """Return the time per batch or epoch by block; as it was if no block of the arm was at rest."""
        key = arm.id, case.id, rule or self.rule_of(case)
        if key not in self._block_latencies_ns:
            latencies, at_rest = self._latencies.get((arm.id, case.id), {}), {}
            if key[-1] == AT_REST:
                blocks = self._rest(case, latencies, arm)
                at_rest = {number: block.latency_ns(arm.id, rounds) for number, block, rounds in blocks}
            self._block_latencies_ns[key] = at_rest or _medians(latencies)
        return self._block_latencies_ns[key]

    def typical_latency_ns(self, arm: Arm, case: Case, rule: Rule | None = None) -> float | None:
        """Return the median over blocks of the blocks' latencies, by the run's rule if none is named."""
        blocks = self.block_latencies_ns(arm, case, rule)
        return median(blocks.values()) if blocks else None

    def log_ratios(self, pair: Pair, rule: Rule | None = None, *, disturbed: bool = True) -> dict[int, float]:
        """Return log(latency of the baseline / latency of the arm) by block, by the run's rule if none is named.

        By AS_IT_WAS it is the median over rounds of the slices' log ratios. The latency of a slice is the trimmed mean
        of its samples; for throughput, the time per batch of all workers together. Disturbed rounds count if
        `disturbed`.
        """
        arm, baseline = (self._latencies.get((arm.id, pair.case.id), {}) for arm in (pair.arm, pair.baseline))
        rounds = sorted(arm.keys() & baseline.keys())
        if not disturbed:
            rounds = [place for place in rounds if (pair.case.id, *place) not in self.disturbed_rounds]
        if (rule or self.rule_of(pair.case)) == AS_IT_WAS:
            return _medians({place: math.log(baseline[place] / arm[place]) for place in rounds})
        return {
            number: block.log_ratio(pair.arm.id, pair.baseline.id, numbers)
            for number, block, numbers in self._rest(pair.case, rounds, pair.arm, pair.baseline)
        }

    def rule_of_pair(self, pair: Pair, *, disturbed: bool = True) -> Rule:
        """Return the case's rule, or AS_IT_WAS where only that gives an interval, or an estimate at all."""
        rule = self.rule_of(pair.case)
        if rule == AS_IT_WAS or ((found := self.estimate(pair, rule, disturbed=disturbed)) and found.interval):
            return rule
        other = self.estimate(pair, AS_IT_WAS, disturbed=disturbed)
        return AS_IT_WAS if other and (other.interval or not found) else rule

    def estimate(self, pair: Pair, rule: Rule | None = None, *, disturbed: bool = True) -> Estimate | None:
        """Return the speedup of a comparison with its intervals, or None if no block has both arms.

        If no rule is named it is that of the pair.
        """
        key = pair, rule or self.rule_of_pair(pair, disturbed=disturbed), disturbed
        if key not in self._estimates:
            log_ratios = list(self.log_ratios(*key[:2], disturbed=disturbed).values())
            self._estimates[key] = estimate_of(log_ratios, self.preset.confidence) if log_ratios else None
        return self._estimates[key]

    def band(self, pair: Pair) -> float | None:
        """Return the largest absolute log ratio inside the interval of the A/A comparison on the same case."""
        return self._bands.get(pair.case)

    @cached_property
    def _bands(self) -> dict[Case, float]:
        estimates = {pair.case: self.estimate(pair) for pair in reversed(self.pairs) if pair.arm.replica}
        return {
            case: max(abs(estimate.interval.low), abs(estimate.interval.high))
            for case, estimate in estimates.items()
            if estimate and estimate.interval
        }

    def matched(self, pair: Pair) -> bool | None:
        """Return whether the environments of both arms have equal versions of all shared packages.

        None if one of the environments is missing.
        """
        one, other = (self.info.stacks[arm.stack].environment for arm in (pair.arm, pair.baseline))
        if not {one, other} <= self.info.environments.keys():
            return None
        mismatches = self.info.mismatches
        return not (mismatches.get(f"{one} {other}") or mismatches.get(f"{other} {one}"))


def idle_share(run: Run) -> float | None:
    """Return the CPU time of all idle workers together while an arm was measured, as a share of one core."""
    return _cpu_share(run, lambda conditions: conditions.idle_cpu_ns)


def harness_share(run: Run) -> float | None:
    """Return the CPU time of the orchestrator while an arm was measured, as a share of one core."""
    return _cpu_share(run, lambda conditions: conditions.harness_cpu_ns)


def _cpu_share(run: Run, used_ns: Callable[[Conditions], int]) -> float | None:
    turns = [turn for turns in run.turns.values() for turn in turns]
    return sum(used_ns(turn.conditions) for turn in turns) / sum(map(watched_ns, turns)) if turns else None


def rounds_of_blocks(run: Run, case: Case) -> list[int]:
    """Return how many rounds each block of a case had."""
    rounds = {(turn.block, turn.round) for arm in run.participants(case) for turn in run.slices(arm, case)}
    return list(Counter(block for block, _ in rounds).values())


def timed_share(run: Run) -> float | None:
    """Return the share of the blocks' wall time that the timed turns take; None if it was not recorded.

    The workers of a group take their turn together. Blocks that did not end are left out.
    """
    blocks = run.of(BlockEnd)
    ended = {(end.block, case) for end in blocks for case in end.cases}
    timed_ns = sum(turn.wall_ns for turns in run.turns.values() for turn in turns if (turn.block, turn.case) in ended)
    return timed_ns / sum(end.wall_ns for end in blocks) if blocks else None


def foreign_share(run: Run) -> float | None:
    """Return the CPU time of other processes on the arms' cores, as a share; None if it was not recorded."""
    turns = [
        (run.split(arm, case).cores, turn)
        for case in run.cases
        for arm in run.participants(case)
        for turn in run.turns.get((arm.id, case.id), [])
    ]
    used = [turn.conditions.foreign_ns for _, turn in turns if turn.conditions.foreign_ns is not None]
    return max(0, sum(used)) / sum(counted_ns(turn) * threads for threads, turn in turns) if used else None


def _medians(by_round: dict[tuple[int, int], float]) -> dict[int, float]:
    """Return by block the median over its rounds."""
    blocks = defaultdict[int, list[float]](list)
    for (block, _), value in by_round.items():
        blocks[block].append(value)
    return {block: median(values) for block, values in blocks.items()}


def _time_ns(turn: Turn, scenario: str) -> float:
    if isinstance(turn, TrainedEpoch):
        return turn.wall_ns
    if isinstance(turn, LoadRun):
        return turn.result.time_ns
    return trimmed_mean(turn.samples_ns) if scenario == LATENCY else turn.batch_interval_ns


def _by_arm_and_case(records: Iterable[_R]) -> dict[tuple[str, str], list[_R]]:
    groups = defaultdict[tuple[str, str], list[_R]](list)
    for record in records:
        groups[record.arm, record.case].append(record)
    return dict(groups)


def _is_choice(choice: Choice) -> bool:
    counts = (count for trial in choice.trials for count in (trial.streams, trial.threads))
    times = [time for trial in choice.trials for process in trial.times_ns for time in process or (0,)]
    chosen = (choice.streams, choice.threads) in {(trial.streams, trial.threads) for trial in choice.trials}
    return chosen and min(*counts, *times, 1) > 0


def _is_possible(turn: Turn, case: Case) -> bool:
    if isinstance(turn, TrainedEpoch):
        whole = not turn.parts_ns or (min(turn.parts_ns) > 0 and sum(turn.parts_ns) == turn.wall_ns)
        possible = case.scenario == TRAINING and turn.wall_ns > 0 and turn.result.images > 0 and whole
    elif isinstance(turn, LoadRun):
        possible = case.scenario in LOADGEN and min(turn.wall_ns, turn.result.time_ns, turn.result.queries) > 0
    else:
        counted = len(turn.counts) == len(turn.walls_ns) and sum(turn.counts) == len(turn.samples_ns) > 0
        positive = counted and min(turn.counts) >= 0 and min(*turn.samples_ns, *turn.walls_ns) > 0
        possible = case.scenario in (LATENCY, THROUGHPUT) and positive
    conditions = turn.conditions
    taken = conditions.steal_ns, conditions.throttled_ns
    counters = conditions.idle_cpu_ns, conditions.harness_cpu_ns, *(count for count in taken if count is not None)
    placed = 0 <= turn.round < MOST and 0 < turn.block < MOST
    return possible and placed and min(counters) >= 0 < min(watched_ns(turn), counted_ns(turn))
