"""Published claims compared with what is measured here."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from statistics import mean
from typing import TYPE_CHECKING, TypeAlias

from bench.analysis.speedups import pair_faults
from bench.records import INTERRUPTED
from bench.suite.arms import LATENCY, TRAINING, Arm, Case, Pair
from models.data import SHAPES, TEST_LABELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bench.analysis.gates import Estimate
    from bench.analysis.run import Run

REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE, OPEN = "reproduced", "not reproduced", "not testable here", "not measured yet"
OTHER_CASE = "another case"
BEYOND = f"{REPRODUCED}: beyond the claim"
INFERENCE_SUITE, VENDORS_SUITE, TRAINING_SUITE = "claims-inference", "claims-vendors", "claims-training"
TEST_SET_SIZE = SHAPES[TEST_LABELS][0]
# Of a claim about another case, so many of a run's cases are shown.
MOST_CASES_SHOWN = 3


@dataclass(frozen=True)
class Ratio:
    """A claimed speedup of an arm over a baseline: at least `low`, at most `high` if a range was published."""

    suite: str
    case: Case
    arm: Arm
    baseline: Arm
    low: float
    high: float | None = None

    @property
    def text(self) -> str:
        return f"{self.low:g}x" + (f" to {self.high:g}x" if self.high else "")


@dataclass(frozen=True)
class Accuracy:
    """A claimed test accuracy of a recipe: at least `low`; `stack` is the one that the claim is about."""

    recipe: str
    low: float
    stack: str


@dataclass(frozen=True)
class Untestable:
    reason: str


Criterion: TypeAlias = Ratio | Accuracy | Untestable


@dataclass(frozen=True)
class Claim:
    """A published statement, its source, and what would reproduce it here."""

    source: str
    statement: str
    criterion: Criterion


@dataclass(frozen=True)
class TrainedModel:
    """The test accuracy of a finished training, and after how many epochs it ended."""

    accuracy: float
    epochs: int


@dataclass(frozen=True)
class ClaimResult:
    claim: Claim
    measured: str
    verdict: str
    origin: str


SMALL, BN = Case("cnn-small", LATENCY, 100), Case("cnn-bn", LATENCY, 100)
VGG_EPOCH, BN_EPOCH = Case("cnn-vgg", TRAINING, 32), Case("cnn-bn", TRAINING, 32)
TENSORFLOW, ITEX = Arm("tensorflow", "train"), Arm("itex", "train")
EAGER, COMPILE, OPENVINO = Arm("pytorch", "eager"), Arm("pytorch", "compile"), Arm("openvino", "latency")
IPEX, GRAPH = Arm("ipex", "jit"), Arm("tensorflow", "graph")
ONE, MANY = Case("cnn-bn", LATENCY, 1), Case("cnn-bn", LATENCY, 64)

CLAIMS = (
    Claim(
        "recipe vgg",
        "ITEX: an epoch in 108-111 s instead of 917-941 s: 8.5x",
        Ratio(TRAINING_SUITE, VGG_EPOCH, ITEX, TENSORFLOW, 8.3),
    ),
    Claim("recipe vgg", "test accuracy 94.5-94.8 %", Accuracy("vgg", 0.945, "itex")),
    Claim(
        "recipe bn",
        "ITEX: an epoch in 40 s instead of 250 s: 6.25x",
        Ratio(TRAINING_SUITE, BN_EPOCH, ITEX, TENSORFLOW, 6.25),
    ),
    Claim(
        "recipe bn",
        "OpenVINO: inference in 0.9 s instead of 5 s: 5.6x",
        Ratio(INFERENCE_SUITE, BN, OPENVINO, GRAPH, 5.55),
    ),
    Claim("recipe bn", "test accuracy 92 %", Accuracy("bn", 0.92, "itex")),
    Claim(
        "recipe adam",
        "IPEX: the 10,000 test images in 0.914 s instead of 1.006 s: 1.10x",
        Ratio(INFERENCE_SUITE, SMALL, IPEX, EAGER, 1.10),
    ),
    Claim("recipe adam", "test accuracy 91.55 % without and 91.61 % with IPEX", Accuracy("adam", 0.9155, "ipex")),
    Claim("recipe small", "test accuracy 0.91 with and without IPEX", Accuracy("small", 0.91, "ipex")),
    Claim(
        "recipe small",
        "IPEX: a substantial boost",
        Untestable("no number was given"),
    ),
    Claim("recipe sam", "improved speed and precision", Untestable("no number was given")),
    Claim(
        "IPEX",
        "fp32 ResNet-50 and its kind: 1.07-1.55x, and 0.94x in one training",
        Untestable("the networks here are none of those, nor the Xeons; the suite inference has IPEX on this machine"),
    ),
    Claim(
        "TensorFlow",
        "oneDNN: about 2x for image models",
        Ratio(INFERENCE_SUITE, BN, GRAPH, Arm("tensorflow", "no-onednn"), 2.0),
    ),
    Claim("ITEX", "none for CPUs", Untestable("no number was given")),
    Claim(
        "OpenVINO",
        "int8 over fp32: 1.9-3.9x, depending on VNNI",
        Ratio(INFERENCE_SUITE, BN, Arm("openvino", "latency", "int8"), OPENVINO, 1.9),
    ),
    Claim(
        "OpenVINO",
        "fp32 over PyTorch: 1.02x on an Ice Lake server",
        Ratio(INFERENCE_SUITE, BN, OPENVINO, EAGER, 1.02),
    ),
    Claim(
        "OpenVINO",
        "fp32 over PyTorch: 3x (Ultralytics)",
        Ratio(INFERENCE_SUITE, BN, OPENVINO, EAGER, 3.0),
    ),
    Claim(
        "IPEX 1.11, docs/tutorials/performance.md",
        "fp32 over stock PyTorch, four CNNs, batch 64, 4 cores (c6i.2xlarge)",
        Ratio(VENDORS_SUITE, MANY, IPEX, EAGER, 1.08, 1.24),
    ),
    Claim(
        "IPEX 1.11, docs/tutorials/performance.md",
        "fp32 over stock PyTorch, four CNNs, batch 1, 4 cores (c6i.2xlarge)",
        Ratio(VENDORS_SUITE, ONE, IPEX, EAGER, 1.12, 1.31),
    ),
    Claim(
        "IPEX 1.11, docs/tutorials/performance.md",
        "int8 over fp32, VGG-11 and ShuffleNet, batch 80 and more, Xeon 8380",
        Ratio(VENDORS_SUITE, MANY, Arm("ipex", "jit", "int8"), IPEX, 1.75, 2.07),
    ),
    Claim(
        "IPEX 1.0, docs/tutorials/releases.md",
        "bf16 over fp32, ResNet-50, eager, Cooper Lake",
        Ratio(VENDORS_SUITE, MANY, Arm("ipex", "eager", "bf16"), EAGER, 2.68),
    ),
    Claim(
        "IPEX 1.0, docs/tutorials/releases.md",
        "bf16 over fp32, ResNet-50, traced, Cooper Lake",
        Ratio(VENDORS_SUITE, MANY, Arm("ipex", "jit", "bf16"), EAGER, 9.66),
    ),
    Claim(
        "PyTorch, dev-discuss 1117",
        "TorchInductor in fp32 over eager, all cores, mean of TorchBench and of TIMM",
        Ratio(VENDORS_SUITE, MANY, COMPILE, EAGER, 1.39, 1.73),
    ),
    Claim(
        "Gong, PyTorch Conference 2023",
        "TorchInductor in bf16 over eager, Sapphire Rapids",
        Ratio(VENDORS_SUITE, MANY, Arm("pytorch", "compile", "bf16"), EAGER, 1.4, 2.3),
    ),
    Claim(
        "PyTorch 2.5, release blog",
        "max-autotune over TorchInductor without it, mean of the dynamo suites: up to 1.07x",
        Ratio(VENDORS_SUITE, MANY, Arm("pytorch", "max-autotune"), COMPILE, 1.07),
    ),
    Claim(
        "Intel, community blog 1581842",
        "TensorFlow 2.16 over 2.15, CNNs, batch 1",
        Ratio(VENDORS_SUITE, ONE, Arm("tensorflow-latest", "graph"), GRAPH, 1.02, 1.35),
    ),
    Claim(
        "ITEX, docs/guide/threadpool.md",
        "Eigen's threads over OpenMP's; published for the training of an MLP",
        Ratio(VENDORS_SUITE, MANY, Arm("itex", "eigen"), Arm("itex", "frozen"), 1.4),
    ),
    Claim(
        "Intel and Deci, MLPerf 0.7",
        "OpenVINO: int8 over fp32, ResNet-50, several CPUs",
        Ratio(VENDORS_SUITE, MANY, Arm("openvino", "latency", "int8"), OPENVINO, 3.5),
    ),
    Claim(
        "scaleflex, model card of a CLIP model",
        "OpenVINO in fp32 over PyTorch, Broadwell",
        Ratio(VENDORS_SUITE, ONE, OPENVINO, EAGER, 1.12),
    ),
)


def needed(claims: Iterable[Claim], kind: type[Ratio | Accuracy]) -> list[str]:
    """Return the suites, or the recipes, that claims are tested with."""
    criteria = [claim.criterion for claim in claims if isinstance(claim.criterion, kind)]
    names = [
        criterion.suite if isinstance(criterion, Ratio) else criterion.recipe
        for criterion in criteria
        if not isinstance(criterion, Untestable)
    ]
    return list(dict.fromkeys(names))


def counts(run: Run) -> bool:
    """Return whether claims can be tested with a run."""
    return not why_untested(run)


def why_untested(run: Run) -> str:
    """Return why no claim can be tested with a run, or nothing if they can."""
    if run.withdrawal:
        return "the run was withdrawn"
    if run.end is None or run.end.status == INTERRUPTED:
        return "the run did not end"
    if run.data != "fashion-mnist":
        return f"the data is {run.data}"
    return "" if run.preset.confidence else f"preset {run.preset.name} has no intervals"


def claims_about(run: Run) -> list[ClaimResult]:
    """Return the results for the published speedups whose two arms a run has.

    A claim about a case that the run does not have is not judged. It gets what was measured in the cases most like it.
    """
    results, untested = [], why_untested(run)
    for claim in CLAIMS:
        ratio = claim.criterion
        if not isinstance(ratio, Ratio):
            continue
        cases = [case for case in run.cases if {ratio.arm, ratio.baseline} <= set(run.participants(case))]
        if ratio.case in cases and not untested:
            results.append(_judge_ratio(claim, ratio, run))
        elif measured := _measured_in(run, ratio, cases):
            other = f"{OTHER_CASE}: the claim is tested with {ratio.case.label}"
            verdict = f"{NOT_TESTABLE}: {untested}" if untested else other
            results.append(ClaimResult(claim, measured, verdict, run.folder.name))
    return results


def _measured_in(run: Run, ratio: Ratio, cases: Iterable[Case]) -> str:
    """Return the speedups in those of the cases that are most like that of a claim."""

    def unlikeness(case: Case) -> tuple[bool, float]:
        return case.model != ratio.case.model, abs(log(case.batch_size / ratio.case.batch_size))

    shown, alike = [], [case for case in cases if case.scenario == ratio.case.scenario]
    for case in sorted(alike, key=unlikeness)[:MOST_CASES_SHOWN]:
        estimate = run.estimate(Pair(ratio.arm, ratio.baseline, case))
        if estimate and not pair_faults(run, ratio.arm, ratio.baseline, case):
            shown.append(f"{_speedup_text(estimate)} at {case.model}, batch {case.batch_size}")
    return f"{ratio.arm.label} over {ratio.baseline.label}: {'; '.join(shown)}" if shown else ""


def judge_claim(
    claim: Claim, runs: Mapping[str, Run], trained: Mapping[str, Mapping[str, TrainedModel]]
) -> ClaimResult:
    """Return the result for a claim from the runs by suite, and the trained models by recipe and folder."""
    match claim.criterion:
        case Untestable(reason):
            return ClaimResult(claim, "", f"{NOT_TESTABLE}: {reason}", "")
        case Accuracy(recipe, low, _):
            return _judge_accuracy(claim, low, trained.get(recipe, {}))
        case Ratio() as ratio:
            return _judge_ratio(claim, ratio, runs.get(ratio.suite))


def _judge_ratio(claim: Claim, ratio: Ratio, run: Run | None) -> ClaimResult:
    if run is None:
        return ClaimResult(claim, "", OPEN, "")
    estimate = run.estimate(Pair(ratio.arm, ratio.baseline, ratio.case))
    if estimate is None:
        failures = [run.failure(arm, ratio.case) for arm in (ratio.arm, ratio.baseline)]
        reason = next((failure.reason for failure in failures if failure), "")
        verdict = f"{NOT_TESTABLE}: {reason}" if reason else f"{OPEN}: the newest run has no such pair"
        return ClaimResult(claim, "", verdict, run.folder.name)
    if faults := pair_faults(run, ratio.arm, ratio.baseline, ratio.case):
        return ClaimResult(claim, "", f"{NOT_TESTABLE}: {'; '.join(faults)}", run.folder.name)
    return ClaimResult(claim, _measured(run, ratio, estimate), _ratio_verdict(ratio, estimate), run.folder.name)


def _ratio_verdict(ratio: Ratio, estimate: Estimate) -> str:
    """Return whether the interval includes a claimed ratio or lies above all of them."""
    interval = estimate.ratio_interval
    if interval is None:
        return f"{OPEN}: this run's preset gives no interval"
    if interval.low > (ratio.high or ratio.low):
        return BEYOND
    return REPRODUCED if interval.high >= ratio.low else NOT_REPRODUCED


def _measured(run: Run, ratio: Ratio, estimate: Estimate) -> str:
    trains = ratio.case.scenario == TRAINING
    turns = 1 if trains else TEST_SET_SIZE / ratio.case.batch_size
    before, after = (
        f"{(run.typical_latency_ns(arm, ratio.case) or 0.0) * turns / 1e9:.3g} s" for arm in (ratio.baseline, ratio.arm)
    )
    images = run.images_per_turn(ratio.case) if trains else TEST_SET_SIZE
    work = f"an epoch of {images:,} images" if trains else f"{images:,} images"
    arms = f"{ratio.arm.label} over {ratio.baseline.label}, {ratio.case.model}"
    return f"{_speedup_text(estimate)}: {arms}; {before} -> {after} for {work}"


def _speedup_text(estimate: Estimate) -> str:
    interval = estimate.ratio_interval
    return f"{estimate.speedup:.2f}x" + (f" ({interval.low:.2f} to {interval.high:.2f})" if interval else "")


def _judge_accuracy(claim: Claim, low: float, trained: Mapping[str, TrainedModel]) -> ClaimResult:
    """Compare the mean accuracy, allowing two standard errors for the choice of the test images."""
    if not trained:
        return ClaimResult(claim, "", OPEN, "")
    accuracies = [model.accuracy for model in trained.values()]
    standard_error = sqrt(low * (1 - low) / TEST_SET_SIZE)
    spread = f", {min(accuracies):.2%} to {max(accuracies):.2%}" if len(accuracies) > 1 else ""
    epochs = ", ".join(map(str, sorted({model.epochs for model in trained.values()})))
    measured = f"{mean(accuracies):.2%} ({len(accuracies)} trained{spread}; {epochs} epochs)"
    verdict = REPRODUCED if mean(accuracies) >= low - 2 * standard_error else NOT_REPRODUCED
    return ClaimResult(claim, measured, verdict, ", ".join(trained))
