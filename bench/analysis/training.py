"""What a run says of arms that train: epochs, waiting for data, time to accuracy, accuracy beside seed noise."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean, median, stdev
from typing import TYPE_CHECKING

from bench.analysis import gates
from bench.analysis.stats import Interval, student_interval
from bench.records import TrainedEpoch
from bench.suite.arms import TRAINING

if TYPE_CHECKING:
    from bench.analysis.run import RecordedRun
    from bench.suite.arms import Arm, Case, Pair

GOALS = (0.90, 0.91)  # test accuracies that the time to is reported of
CONFIDENCE = 0.95
FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Difference:
    """How much more accurate an arm is than another, seed by seed; `interval` is Student's, None under three seeds."""

    against: Arm
    mean: float
    interval: Interval | None

    @property
    def word(self) -> str:
        """Return whether it is more than what another seed makes."""
        if self.interval is None:
            return "too few seeds"
        return "beyond seed noise" if self.interval.excludes(0) else "within seed noise"


@dataclass(frozen=True)
class TrainedArm:
    """An arm that has trained on a case; times in ns.

    `first_epoch_ns` is of the first epoch of a process, in which everything is done for the first time; the others are
    medians. `wait_share` is the part of the epochs that passed waiting for data. `goals` are the times of all epochs
    until a test accuracy was reached, one for each seed that reached it. `final` are the test accuracies by block, each
    of another seed.
    """

    arm: Arm
    epochs: int
    epoch_ns: float | None
    first_epoch_ns: float
    images_per_s: float | None
    wait_share: float
    memory_bytes: int
    goals: dict[float, tuple[int, ...]]
    final: dict[int, float]
    difference: Difference | None
    is_reference: bool

    @property
    def accuracy(self) -> float | None:
        """Return the mean over seeds of the test accuracy after the last epoch."""
        return mean(self.final.values()) if self.final else None

    @property
    def deviation(self) -> float | None:
        """Return the standard deviation over seeds of that accuracy."""
        return stdev(self.final.values()) if len(self.final) > 1 else None

    def time_to_ns(self, goal: float) -> float | None:
        """Return the median time to an accuracy, or None where no seed has reached it."""
        return median(self.goals[goal]) if self.goals[goal] else None


def trained_arms(run: RecordedRun, case: Case) -> list[TrainedArm]:
    """Return what there is to say of each arm that has trained on a case."""
    if case.scenario != TRAINING:
        return []
    return [_trained(run, arm, case) for arm in run.lineup(case) if run.epochs(arm, case)]


def _trained(run: RecordedRun, arm: Arm, case: Case) -> TrainedArm:
    epochs, typical = run.epochs(arm, case), run.typical_latency_ns(arm, case)
    timed = [each for each in epochs if each.round] or epochs
    return TrainedArm(
        arm=arm,
        epochs=len(epochs),
        epoch_ns=typical,
        first_epoch_ns=median(each.wall_ns for each in epochs if each.round == 0),
        images_per_s=run.images_per_turn(case) / typical * 1e9 if typical else None,
        wait_share=sum(each.wait_ns for each in timed) / sum(each.wall_ns for each in timed),
        memory_bytes=run.trained_memory_bytes(arm, case) or 0,
        goals={goal: _times_to(goal, epochs) for goal in GOALS},
        final=run.final_accuracies(arm, case),
        difference=_difference(run, arm, case),
        is_reference=arm == _reference(run, case) and bool(run.final_accuracies(arm, case)),
    )


def learning_curve(run: RecordedRun, arm: Arm, case: Case) -> list[tuple[float, float]]:
    """Return after each epoch (mean time of the epochs until then in s, mean test accuracy) over an arm's seeds."""
    blocks = [each for each in _blocks(run.epochs(arm, case)) if all(one.test_accuracy is not None for one in each)]
    rounds = min(map(len, blocks), default=0)
    return [
        (
            mean(sum(one.wall_ns for one in each[: index + 1]) for each in blocks) / 1e9,
            mean(each[index].test_accuracy or 0.0 for each in blocks),
        )
        for index in range(rounds)
    ]


def _blocks(epochs: list[TrainedEpoch]) -> list[list[TrainedEpoch]]:
    blocks = defaultdict[int, list[TrainedEpoch]](list)
    for each in epochs:
        blocks[each.block].append(each)
    return list(blocks.values())


def _times_to(goal: float, epochs: list[TrainedEpoch]) -> tuple[int, ...]:
    """Return the time to an accuracy of each block that has reached it."""
    return tuple(found for each in _blocks(epochs) if (found := _time_to(goal, each)) is not None)


def _time_to(goal: float, epochs: list[TrainedEpoch]) -> int | None:
    for index, each in enumerate(epochs):
        if each.test_accuracy is not None and each.test_accuracy >= goal:
            return sum(before.wall_ns for before in epochs[: index + 1])
    return None


def _difference(run: RecordedRun, arm: Arm, case: Case) -> Difference | None:
    """Compare an arm's accuracies with those of the baseline that the A/A arm repeats, seed by seed."""
    reference = _reference(run, case)
    if reference is None or arm == reference:
        return None
    ours, theirs = (run.final_accuracies(each, case) for each in (arm, reference))
    found = [ours[block] - theirs[block] for block in sorted(ours.keys() & theirs.keys())]
    if not found:
        return None
    interval = student_interval(found, CONFIDENCE) if len(found) >= FEWEST_SEEDS else None
    return Difference(reference, mean(found), interval)


def _reference(run: RecordedRun, case: Case) -> Arm | None:
    """Return the baseline that the A/A arm repeats."""
    return next((each.original for each in run.lineup(case) if each.replica), None)


def training_faults(run: RecordedRun, pair: Pair) -> list[str]:
    """Return the gates that a comparison of two arms that train fails."""
    epochs = partial(_by_place, run, case=pair.case)
    ours, theirs = epochs(pair.arm), epochs(pair.baseline)
    shared = sorted(ours.keys() & theirs.keys())
    faults: list[str | None] = []
    if any((ours[each].digest, ours[each].images) != (theirs[each].digest, theirs[each].images) for each in shared):
        faults.append("the arms were fed other images, or in another order")
    first = [(ours[each].loss, theirs[each].loss) for each in shared if each[1] == 0]
    if pair.arm.precision == "fp32" and first:
        faults.append(gates.loss_fault(mean(loss for loss, _ in first), mean(loss for _, loss in first)))
    if run.preset.confidence is not None:  # others train too little to be held to an accuracy
        whole = [pair.baseline, replace(pair.arm, precision="fp32"), replace(pair.baseline, precision="fp32")]
        faults += [_accuracy_fault(run, pair.arm, each, pair.case) for each in dict.fromkeys(whole)]
    reached = [run.accuracy(arm, pair.case) for arm in (pair.arm, pair.baseline)]
    faults += [gates.leak_fault(run.data, each) for each in reached if each is not None]
    return [fault for fault in faults if fault]


def _accuracy_fault(run: RecordedRun, arm: Arm, reference: Arm, case: Case) -> str | None:
    """Compare two arms' accuracies over the seeds that both were trained with."""
    ours, theirs = run.final_accuracies(arm, case), run.final_accuracies(reference, case)
    shared = ours.keys() & theirs.keys()
    if not shared:
        return None
    return gates.trained_fault(
        mean(ours[each] for each in shared), mean(theirs[each] for each in shared), reference.label
    )


def _by_place(run: RecordedRun, arm: Arm, case: Case) -> dict[tuple[int, int], TrainedEpoch]:
    return {(each.block, each.round): each for each in run.epochs(arm, case)}
