"""Arms that train: epoch times, waiting for data, time to accuracy, accuracy compared with the noise of seeds."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from statistics import mean, median, stdev
from typing import TYPE_CHECKING

from bench.analysis import gates
from bench.analysis.stats import Interval, student_interval
from bench.records import TrainedEpoch
from bench.suite.arms import TRAINING

if TYPE_CHECKING:
    from bench.analysis.run import Run
    from bench.suite.arms import Arm, Case, Pair

# The test accuracies whose time to accuracy is reported.
GOALS = (0.90, 0.91)
CONFIDENCE = 0.95
MIN_SEEDS = 3


@dataclass(frozen=True)
class Difference:
    """The mean accuracy of an arm minus that of another one, paired by seed; `interval` needs three seeds."""

    against: Arm
    mean: float
    interval: Interval | None

    @property
    def word(self) -> str:
        """Return whether the difference exceeds what another seed would make."""
        if self.interval is None:
            return "too few seeds"
        return "beyond seed noise" if self.interval.excludes(0) else "within seed noise"


@dataclass(frozen=True)
class TrainedArm:
    """An arm that has trained on a case; times in ns.

    `first_epoch_ns` is the median of the first epochs of processes, in which everything is done for the first time;
    `epoch_ns` is that of the others. `wait_share` is the share of the epochs' time that passed waiting for data.
    `goals` are, by test accuracy, the total times of all epochs until it was first reached, one for each seed that
    reached it. `final` are the test accuracies by block, each with its own seed. `is_reference` marks the arm that the
    differences compare with.
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
        """Return the median time to an accuracy, or None if no seed has reached it."""
        return median(self.goals[goal]) if self.goals[goal] else None


def trained_arms(run: Run, case: Case) -> list[TrainedArm]:
    if case.scenario != TRAINING:
        return []
    return [_trained_arm(run, arm, case) for arm in run.participants(case) if run.epochs(arm, case)]


def _trained_arm(run: Run, arm: Arm, case: Case) -> TrainedArm:
    epochs, typical_ns = run.epochs(arm, case), run.typical_latency_ns(arm, case)
    timed = [epoch for epoch in epochs if epoch.round] or epochs
    final, reference = run.final_accuracies(arm, case), _reference(run, case)
    times = {goal: [_time_to_ns(goal, block) for block in _blocks(epochs)] for goal in GOALS}
    return TrainedArm(
        arm=arm,
        epochs=len(epochs),
        epoch_ns=typical_ns,
        first_epoch_ns=median(epoch.wall_ns for epoch in epochs if epoch.round == 0),
        images_per_s=run.images_per_turn(case) / typical_ns * 1e9 if typical_ns else None,
        wait_share=sum(epoch.result.wait_ns for epoch in timed) / sum(epoch.wall_ns for epoch in timed),
        memory_bytes=run.trained_memory_bytes(arm, case) or 0,
        goals={goal: tuple(time for time in of_blocks if time is not None) for goal, of_blocks in times.items()},
        final=final,
        difference=_difference(run, arm, case),
        is_reference=arm == reference and bool(final),
    )


def learning_curve(run: Run, arm: Arm, case: Case) -> list[tuple[float, float]]:
    """Return for each epoch the total time until its end in s and the test accuracy, both the mean over seeds."""
    blocks = [
        epochs for epochs in _blocks(run.epochs(arm, case)) if all(epoch.test_accuracy is not None for epoch in epochs)
    ]
    return [
        (
            mean(sum(epoch.wall_ns for epoch in epochs[: index + 1]) for epochs in blocks) / 1e9,
            mean(epochs[index].test_accuracy or 0.0 for epochs in blocks),
        )
        for index in range(min(map(len, blocks), default=0))
    ]


def _blocks(epochs: list[TrainedEpoch]) -> list[list[TrainedEpoch]]:
    blocks = defaultdict[int, list[TrainedEpoch]](list)
    for epoch in epochs:
        blocks[epoch.block].append(epoch)
    return list(blocks.values())


def _time_to_ns(goal: float, epochs: list[TrainedEpoch]) -> int | None:
    """Return the total time of a block's epochs until a test accuracy is first reached."""
    for index, epoch in enumerate(epochs):
        if epoch.test_accuracy is not None and epoch.test_accuracy >= goal:
            return sum(before.wall_ns for before in epochs[: index + 1])
    return None


def _difference(run: Run, arm: Arm, case: Case) -> Difference | None:
    """Compare an arm's accuracies with those of the baseline that the A/A arm repeats, paired by seed."""
    reference = _reference(run, case)
    if reference is None or arm == reference:
        return None
    accuracies, others = run.final_accuracies(arm, case), run.final_accuracies(reference, case)
    differences = [accuracies[block] - others[block] for block in sorted(accuracies.keys() & others.keys())]
    if not differences:
        return None
    interval = student_interval(differences, CONFIDENCE) if len(differences) >= MIN_SEEDS else None
    return Difference(reference, mean(differences), interval)


def _reference(run: Run, case: Case) -> Arm | None:
    """Return the baseline that the A/A arm repeats."""
    return next((arm.original for arm in run.participants(case) if arm.replica), None)


def training_faults(run: Run, pair: Pair) -> list[str]:
    """Return the gates that a comparison of two arms that train fails."""
    epochs, others = (
        {(epoch.block, epoch.round): epoch.result for epoch in run.epochs(arm, pair.case)}
        for arm in (pair.arm, pair.baseline)
    )
    shared = sorted(epochs.keys() & others.keys())
    faults: list[str | None] = []
    if any((epochs[at].digest, epochs[at].images) != (others[at].digest, others[at].images) for at in shared):
        faults.append("the arms trained on different images, or in another order")
    for arm in dict.fromkeys((pair.arm, pair.baseline)):
        faults += [f"{arm.label}: {fault}" for fault in scaling_faults(run, arm, pair.case)]
    first = [(block, number) for block, number in shared if number == 0]
    if pair.arm.precision == "fp32" and first:
        faults.append(gates.loss_fault(mean(epochs[at].loss for at in first), mean(others[at].loss for at in first)))
    # A preset that claims nothing trains too little for an accuracy.
    if run.preset.confidence is not None:
        references = [pair.baseline, replace(pair.arm, precision="fp32"), replace(pair.baseline, precision="fp32")]
        faults += [_accuracy_fault(run, pair.arm, reference, pair.case) for reference in dict.fromkeys(references)]
    accuracies = [run.accuracy(arm, pair.case) for arm in (pair.arm, pair.baseline)]
    faults += [gates.leak_fault(run.data, accuracy) for accuracy in accuracies if accuracy is not None]
    return [fault for fault in faults if fault]


def scaling_faults(run: Run, arm: Arm, case: Case) -> list[str]:
    """Return why an arm's group of workers has not trained as one worker does, at most one reason of each kind."""
    if case.workers <= 1:
        return []
    single = run.single_epochs.get((arm.id, case.id), {})
    first = {epoch.block: epoch.result for epoch in run.epochs(arm, case) if epoch.round == 0}
    if alone := first.keys() - single.keys():
        return [f"{len(alone)} of {len(first)} blocks have no epoch of one worker to compare its losses with"]
    if any(first[block].digest != single[block].digest for block in first):
        return ["its workers together had other images than one worker, or in another order"]
    faults = (gates.curve_fault(arm.precision, first[block].losses, single[block].losses) for block in sorted(first))
    return [fault for fault in faults if fault][:1]


def _accuracy_fault(run: Run, arm: Arm, reference: Arm, case: Case) -> str | None:
    """Compare two arms' accuracies over the seeds that both were trained with."""
    accuracies, others = run.final_accuracies(arm, case), run.final_accuracies(reference, case)
    shared = accuracies.keys() & others.keys()
    if not shared:
        return None
    return gates.trained_fault(
        mean(accuracies[block] for block in shared), mean(others[block] for block in shared), reference.label
    )
