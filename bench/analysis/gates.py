"""Gates and verdicts: what may be claimed of a comparison, and what stands in the way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.analysis.stats import Interval, further_blocks

if TYPE_CHECKING:
    from bench.suite.schedule import Preset

FASTER, SLOWER, EQUIVALENT, UNRESOLVED, WITHHELD = "FASTER", "SLOWER", "EQUIVALENT", "UNRESOLVED", "WITHHELD"
FAILED, SKIPPED = "FAILED", "SKIPPED"

MAX_LOGIT_DIFF = 1e-3  # of fp32
MIN_AGREEMENT = 0.9995
MIN_RELATIVE_ACCURACY = 0.99  # of lower precisions, to that of fp32 (MLPerf inference)
MIN_REDUCED_DIFF = 1e-4  # logits closer than that to fp32's were not computed at a lower precision
MIN_REPEATED = 0.995  # share of the labels that a process must have in common with its arm's proof
MAX_LOSS_DIFF = 0.05  # of the first epoch, relative: equal weights, batches and hyper-parameters
LEAK_ACCURACY = 0.97  # the record on Fashion-MNIST is 96.91 %
MAX_FAILED_SHARE = 0.05
EQUIVALENCE = (math.log(0.98), math.log(1.02))  # MLPerf's threshold for "materially different"
MAX_OVERHEAD_NS = 1_000  # what the harness may add to a timed call
# A round is marked when more than this share of the cores' time was stolen or throttled.
MAX_TAKEN_SHARE = 0.02
MAX_FOREIGN_SHARE = 0.05  # or than this used by processes that are not ours
MAX_CORES_SHARE = 1.1  # of the threads asked for: what a process may use of the CPU while it is timed
CHECK_IMAGES = 1024  # test images that every process of every block predicts before it is timed


@dataclass(frozen=True)
class Estimate:
    """A log speedup from n blocks, with its intervals (None where n is too small) and Holm-adjusted p value.

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
        """Return the ratio baseline latency / arm latency."""
        return math.exp(self.log_speedup)

    @property
    def ratio_interval(self) -> Interval | None:
        """Return the interval on the ratio."""
        return None if self.interval is None else Interval(math.exp(self.interval.low), math.exp(self.interval.high))


@dataclass(frozen=True)
class Verdict:
    """One of the verdict words, with the reason where one is owed."""

    word: str
    reason: str = ""


def parity_fault(precision: str, logit_diff: float, agreement: float, against: str) -> str | None:
    """Return why an arm's outputs are not those of `against`, or None; lower precisions are judged by accuracy."""
    if precision != "fp32":
        return None
    if not logit_diff <= MAX_LOGIT_DIFF:  # NaN fails as well
        return f"logits differ from the {against}'s by {logit_diff:.2g}, more than {MAX_LOGIT_DIFF:g}"
    if not agreement >= MIN_AGREEMENT:
        return f"labels agree with the {against}'s in {agreement:.2%}, less than {MIN_AGREEMENT:.2%}"
    return None


def reduction_fault(precision: str, logit_diff: float) -> str | None:
    """Return why an arm can't have computed at the lower precision that it claims, or None."""
    if precision != "fp32" and not logit_diff > MIN_REDUCED_DIFF:
        return f"logits are fp32's to within {logit_diff:.2g}: {precision} was not active"
    return None


def accuracy_fault(precision: str, accuracy: float, reference: float) -> str | None:
    """Return why a lower precision costs too much accuracy, or None."""
    if precision != "fp32" and not accuracy >= MIN_RELATIVE_ACCURACY * reference:
        return f"accuracy {accuracy:.2%} is less than {MIN_RELATIVE_ACCURACY:.0%} of fp32's {reference:.2%}"
    return None


def loss_fault(loss: float, reference: float) -> str | None:
    """Return why what an arm trains can't be what its baseline does, or None."""
    if not abs(loss - reference) <= MAX_LOSS_DIFF * reference:
        return f"the mean loss of the first epoch, {loss:.4f}, is not the baseline's {reference:.4f}"
    return None


def trained_fault(accuracy: float, reference: float, of: str) -> str | None:
    """Return why an arm trains to too little accuracy, beside that `of` another, or None."""
    if not accuracy >= MIN_RELATIVE_ACCURACY * reference:
        return f"trained to {accuracy:.2%}, less than {MIN_RELATIVE_ACCURACY:.0%} of {reference:.2%} of {of}"
    return None


def repetition_fault(repeated: float) -> str | None:
    """Return why a process does not compute what its arm has proved to compute, or None."""
    if not repeated >= MIN_REPEATED:
        return f"labels agree with those of the arm's proof in {repeated:.2%}, less than {MIN_REPEATED:.2%}"
    return None


def leak_fault(data: str, accuracy: float) -> str | None:
    """Return why an accuracy is not believed, or None."""
    if data == "fashion-mnist" and not accuracy <= LEAK_ACCURACY:
        return f"accuracy {accuracy:.2%} on Fashion-MNIST is a leak: the record is 96.91 %"
    return None


def judge(estimate: Estimate, band: float | None, preset: Preset) -> Verdict:
    """Return the verdict of a comparison whose gates are passed.

    `band` is the largest absolute log ratio that the A/A interval of the same run reaches; None when there is none.
    """
    if preset.confidence is None:
        return Verdict(UNRESOLVED, f"preset {preset.name} claims nothing")
    if estimate.interval is None or estimate.sign_interval is None:
        return Verdict(UNRESOLVED, f"{estimate.blocks} blocks are too few for an interval")
    if not preset.minimum_effect and all(each and each.within(*EQUIVALENCE) for each in estimate.equivalence_intervals):
        return Verdict(EQUIVALENT)
    if band is None:
        return Verdict(UNRESOLVED, "no A/A interval in this run")
    doubts = _doubts(estimate, estimate.interval, estimate.sign_interval, band, preset)
    if not doubts:
        return Verdict(FASTER if estimate.log_speedup > 0 else SLOWER)
    return Verdict(UNRESOLVED, "; ".join([*doubts, *_outlook(estimate, estimate.interval, band, preset)]))


def _doubts(estimate: Estimate, interval: Interval, signs: Interval, band: float, preset: Preset) -> list[str]:
    """Return what speaks against a difference."""
    size, confidence = abs(estimate.log_speedup), preset.confidence or 0.0
    sure = interval.excludes(0)
    doubts = {
        "the interval includes 1": not sure,
        "the sign-test interval disagrees": sure and not signs.excludes(0),
        f"within the A/A band of this run (+-{math.expm1(band):.1%})": size <= band,
        f"under {preset.minimum_effect:.0%}, which preset {preset.name} does not claim": (
            size < math.log1p(preset.minimum_effect)
        ),
        "not significant after Holm's correction": sure and (estimate.p_value or 0.0) > 1 - confidence,
    }
    return [doubt for doubt, holds in doubts.items() if holds]


def _outlook(estimate: Estimate, interval: Interval, band: float, preset: Preset) -> list[str]:
    """Return how many further blocks would settle it, as a difference beyond the band or as equivalence.

    Nothing is said where more blocks of this preset would not help.
    """
    size, narrow = abs(estimate.log_speedup), estimate.equivalence_intervals[0]
    ways = []
    if size >= math.log1p(preset.minimum_effect) and (size <= band or not interval.excludes(0)):
        ways.append(further_blocks(estimate.blocks, max(interval.half_width, band), size))
    if not preset.minimum_effect and narrow is not None:
        ways.append(further_blocks(estimate.blocks, narrow.half_width, EQUIVALENCE[1] - size))
    counts = [count for count in ways if count is not None]
    return [f"about {min(counts)} further blocks would settle it"] if counts else []
