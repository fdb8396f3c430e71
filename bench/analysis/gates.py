"""Gates and verdicts: what may be claimed of a comparison, and why not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.analysis.stats import Interval, further_blocks, hodges_lehmann, sign_interval, wilcoxon_interval, wilcoxon_p

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.suite.schedule import Preset

FASTER, SLOWER, EQUIVALENT, UNRESOLVED, WITHHELD = "FASTER", "SLOWER", "EQUIVALENT", "UNRESOLVED", "WITHHELD"
FAILED, SKIPPED, WITHDRAWN = "FAILED", "SKIPPED", "WITHDRAWN"

# fp32 compared with the oracle and with the baseline.
MAX_LOGIT_DIFF = 1e-3
MIN_AGREEMENT = 0.9995
# The accuracy of a lower precision, relative to that of fp32 (MLPerf inference).
MIN_RELATIVE_ACCURACY = 0.99
# Logits that are closer to those of fp32 were not computed at a lower precision.
MIN_REDUCED_DIFF = 1e-4
# The share of labels that a process must have in common with the proof of its arm.
MIN_REPEATED = 0.995
# The relative difference of the first epoch's loss, at equal weights, batches and hyper-parameters.
MAX_LOSS_DIFF = 0.05
# The relative difference of the losses of a group from those of one worker with the same batches: in the first part of
# an epoch, in fp32, and in every part. Sums in another order differ in the last bits, and later steps make that more.
MAX_FIRST_PART_DIFF, MAX_PART_DIFF = 1e-3, 0.05
# The best published accuracy on Fashion-MNIST is 96.91 %.
LEAK_ACCURACY = 0.97
MAX_FAILED_SHARE = 0.05
# MLPerf's threshold for "materially different".
EQUIVALENCE = (math.log(0.98), math.log(1.02))
EQUIVALENCE_CONFIDENCE = 0.90
# What the harness may add to a timed call.
MAX_OVERHEAD_NS = 1_000
# What LoadGen's glue may add to a query.
MAX_GLUE_NS = 3_000
# A round is disturbed if more than this share of the cores' time was stolen or throttled, or used by other processes.
MAX_TAKEN_SHARE = 0.02
MAX_FOREIGN_SHARE = 0.05
# The CPU time of a process while it is timed, relative to the number of its threads.
MAX_CORES_SHARE = 1.1
# The test images on which a proof compares outputs, unless it is the one proof of its arm and model on all images.
PARITY_IMAGES = 2000
# The most test images that each process of a block predicts before it is timed, and the most calls.
CHECK_IMAGES, CHECK_CALLS = 1024, 256


@dataclass(frozen=True)
class Estimate:
    """A log speedup from n blocks, with its intervals (None if n is too small) and Holm-adjusted p value.

    `equivalence_intervals` are those of Wilcoxon and of the sign test at 90 %.
    """

    blocks: int
    log_speedup: float
    interval: Interval | None
    sign_interval: Interval | None
    equivalence_intervals: tuple[Interval | None, Interval | None]
    p_value: float | None

    @property
    def speedup(self) -> float:
        """Return the ratio latency of the baseline / latency of the arm."""
        return math.exp(self.log_speedup)

    @property
    def ratio_interval(self) -> Interval | None:
        return None if self.interval is None else Interval(math.exp(self.interval.low), math.exp(self.interval.high))


def estimate_of(log_ratios: Sequence[float], confidence: float | None) -> Estimate:
    """Return the estimate from the log ratios of at least one block; intervals need a confidence."""
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


@dataclass(frozen=True)
class Verdict:
    """One of the verdict words, with a reason unless the word says it all."""

    word: str
    reason: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether there are figures, and nothing forbids to use them."""
        return self.word not in (FAILED, SKIPPED, WITHDRAWN, WITHHELD)


# Each function below returns a fault, or None. A NaN is a fault as well: hence `not x <= limit`.


def parity_fault(precision: str, logit_diff: float, agreement: float, other: str) -> str | None:
    """Return why an arm's outputs differ from the `other`'s, or None; lower precisions are checked by accuracy."""
    if precision != "fp32":
        return None
    if not logit_diff <= MAX_LOGIT_DIFF:
        return f"logits differ from the {other}'s by {logit_diff:.2g}, more than {MAX_LOGIT_DIFF:g}"
    if not agreement >= MIN_AGREEMENT:
        return f"labels agree with the {other}'s in {agreement:.2%}, less than {MIN_AGREEMENT:.2%}"
    return None


def reduction_fault(precision: str, logit_diff: float) -> str | None:
    if precision != "fp32" and not logit_diff > MIN_REDUCED_DIFF:
        return f"logits equal those of fp32 to within {logit_diff:.2g}: {precision} was not active"
    return None


def precision_fault(precision: str, accuracy: float, reference: float) -> str | None:
    if precision != "fp32" and not accuracy >= MIN_RELATIVE_ACCURACY * reference:
        return f"accuracy {accuracy:.2%} is less than {MIN_RELATIVE_ACCURACY:.0%} of fp32's {reference:.2%}"
    return None


def loss_fault(loss: float, reference: float) -> str | None:
    if not abs(loss - reference) <= MAX_LOSS_DIFF * reference:
        return f"the mean loss of the first epoch, {loss:.4f}, is not the baseline's {reference:.4f}"
    return None


def curve_fault(precision: str, losses: Sequence[float], single: Sequence[float]) -> str | None:
    """Return where the losses of a group, by part of an epoch, leave those of one worker, or None."""
    if len(losses) != len(single) or not losses:
        return f"{len(losses)} parts of an epoch have a loss, and {len(single)} of one worker's"
    for part, (ours, theirs) in enumerate(zip(losses, single, strict=True), 1):
        limit = MAX_FIRST_PART_DIFF if part == 1 and precision == "fp32" else MAX_PART_DIFF
        if not abs(ours - theirs) <= limit * theirs:
            return (
                f"the loss in part {part} of {len(losses)} of the first epoch, {ours:.5f}, is not one worker's "
                f"{theirs:.5f} to within {limit:.1%}"
            )
    return None


def trained_fault(accuracy: float, reference: float, other: str) -> str | None:
    if not accuracy >= MIN_RELATIVE_ACCURACY * reference:
        return f"trained to {accuracy:.2%}, less than {MIN_RELATIVE_ACCURACY:.0%} of {reference:.2%} of {other}"
    return None


def repetition_fault(repeated: float) -> str | None:
    if not repeated >= MIN_REPEATED:
        return f"labels agree with those of the arm's proof in {repeated:.2%}, less than {MIN_REPEATED:.2%}"
    return None


def leak_fault(data: str, accuracy: float) -> str | None:
    if data == "fashion-mnist" and not accuracy <= LEAK_ACCURACY:
        return f"accuracy {accuracy:.2%} on Fashion-MNIST is a leak: the record is 96.91 %"
    return None


def judge(estimate: Estimate, band: float | None, preset: Preset) -> Verdict:
    """Return the verdict on a comparison that passes its gates.

    `band` is the largest absolute log ratio in the A/A interval of the same run, None if there is no interval.
    """
    if preset.confidence is None:
        return Verdict(UNRESOLVED, f"preset {preset.name} claims nothing")
    interval, signs = estimate.interval, estimate.sign_interval
    if interval is None or signs is None:
        return Verdict(UNRESOLVED, f"{estimate.blocks} blocks are too few for an interval")
    if not preset.minimum_effect and all(
        equivalence and equivalence.within(*EQUIVALENCE) for equivalence in estimate.equivalence_intervals
    ):
        return Verdict(EQUIVALENT)
    if band is None:
        return Verdict(UNRESOLVED, "no A/A interval in this run")
    size, excludes_1 = abs(estimate.log_speedup), interval.excludes(0)
    doubts = {
        "the interval includes 1": not excludes_1,
        "the sign-test interval disagrees": excludes_1 and not signs.excludes(0),
        f"within the A/A band of this run (+-{math.expm1(band):.1%})": size <= band,
        f"under {preset.minimum_effect:.0%}, which preset {preset.name} does not claim": (
            size < math.log1p(preset.minimum_effect)
        ),
        "not significant after Holm's correction": excludes_1 and (estimate.p_value or 0.0) > 1 - preset.confidence,
    }
    reasons = [doubt for doubt, applies in doubts.items() if applies]
    if not reasons:
        return Verdict(FASTER if estimate.log_speedup > 0 else SLOWER)
    if blocks := _blocks_to_settle(estimate, interval, band, preset):
        reasons.append(f"about {blocks} further blocks would settle it")
    return Verdict(UNRESOLVED, "; ".join(reasons))


def _blocks_to_settle(estimate: Estimate, interval: Interval, band: float, preset: Preset) -> int | None:
    """Return how many further blocks would show a difference beyond the band or equivalence; None if none would."""
    size, equivalence = abs(estimate.log_speedup), estimate.equivalence_intervals[0]
    counts = []
    if size >= math.log1p(preset.minimum_effect) and (size <= band or not interval.excludes(0)):
        counts.append(further_blocks(estimate.blocks, max(interval.half_width, band), size))
    if not preset.minimum_effect and equivalence is not None:
        counts.append(further_blocks(estimate.blocks, equivalence.half_width, EQUIVALENCE[1] - size))
    return min((count for count in counts if count is not None), default=None)
