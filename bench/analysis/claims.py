"""Published claims beside what is measured here: reproduced, not reproduced, or not testable here and why."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import mean
from typing import TYPE_CHECKING, TypeAlias

from bench.analysis.speedups import Run
from bench.journal import RUN, read_run
from bench.suite.arms import LATENCY, TRAINING, Arm, Case, Pair
from bench.training.course import kept_epoch
from bench.training.train import TRAINING as TRAINING_FILE
from bench.training.train import is_complete, read_history, read_training
from models.errors import UserError
from models.recipes import from_dict
from models.recipes.parse import load_recipe, recipe_names

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from bench.analysis.gates import Estimate
    from bench.training.course import Epoch
    from models.recipes import Recipe

REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE, OPEN = "reproduced", "not reproduced", "not testable here", "not measured yet"
INFERENCE_SUITE, TRAINING_SUITE = "claims-inference", "claims-training"
TEST_IMAGES = 10_000


@dataclass(frozen=True)
class Ratio:
    """A claimed speedup of an arm over a baseline: at least `low`."""

    suite: str
    case: Case
    arm: Arm
    baseline: Arm
    low: float


@dataclass(frozen=True)
class Accuracy:
    """A claimed test accuracy of a recipe, at least `low`."""

    recipe: str
    low: float


@dataclass(frozen=True)
class Untestable:
    """Why a claim can't be held against anything here."""

    reason: str


Evidence: TypeAlias = Ratio | Accuracy | Untestable


@dataclass(frozen=True)
class Claim:
    """What was published, where, and what would show it here."""

    source: str
    statement: str
    evidence: Evidence


@dataclass(frozen=True)
class Finding:
    """What was measured for a claim, from where, and what follows."""

    claim: Claim
    measured: str
    verdict: str
    origin: str


SMALL, BN = Case("cnn-small", LATENCY, 100), Case("cnn-bn", LATENCY, 100)
VGG_EPOCH, BN_EPOCH = Case("cnn-vgg", TRAINING, 32), Case("cnn-bn", TRAINING, 32)
TENSORFLOW, ITEX = Arm("tensorflow", "train"), Arm("itex", "train")
EAGER, OPENVINO = Arm("pytorch", "eager"), Arm("openvino", "latency")

CLAIMS = (
    Claim(
        "recipe vgg",
        "ITEX: an epoch in 108-111 s instead of 917-941 s: 8.5x",
        Ratio(TRAINING_SUITE, VGG_EPOCH, ITEX, TENSORFLOW, 8.3),
    ),
    Claim("recipe vgg", "test accuracy 94.5-94.8 %", Accuracy("vgg", 0.945)),
    Claim(
        "recipe bn",
        "ITEX: an epoch in 40 s instead of 250 s: 6.25x",
        Ratio(TRAINING_SUITE, BN_EPOCH, ITEX, TENSORFLOW, 6.25),
    ),
    Claim(
        "recipe bn",
        "OpenVINO: inference in 0.9 s instead of 5 s: 5.6x",
        Ratio(INFERENCE_SUITE, BN, OPENVINO, Arm("tensorflow", "graph"), 5.55),
    ),
    Claim("recipe bn", "test accuracy 92 %", Accuracy("bn", 0.92)),
    Claim(
        "recipe adam",
        "IPEX: the 10,000 test images in 0.914 s instead of 1.006 s: 1.10x",
        Ratio(INFERENCE_SUITE, SMALL, Arm("ipex", "jit"), EAGER, 1.10),
    ),
    Claim("recipe adam", "test accuracy 91.55 % without and 91.61 % with IPEX", Accuracy("adam", 0.9155)),
    Claim("recipe small", "test accuracy 0.91 with and without IPEX", Accuracy("small", 0.91)),
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
        Ratio(INFERENCE_SUITE, BN, Arm("tensorflow", "graph"), Arm("tensorflow", "no-onednn"), 2.0),
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
)


def needed(claims: Iterable[Claim], kind: type[Ratio | Accuracy]) -> list[str]:
    """Return the suites, or the recipes, that claims are held against."""
    names = [
        each.evidence.suite if isinstance(each.evidence, Ratio) else each.evidence.recipe
        for each in claims
        if isinstance(each.evidence, kind) and not isinstance(each.evidence, Untestable)
    ]
    return list(dict.fromkeys(names))


def newest_runs(results: Path) -> dict[str, Run]:
    """Return the newest run of each suite that claims need: whole, on the real data, with a preset that claims."""
    suites, found = needed(CLAIMS, Ratio), dict[str, Run]()
    for file in results.glob(f"*/{RUN}"):
        try:
            if read_run(file.parent)["suite"]["name"] in suites and not file.parent.is_symlink():
                run = Run(file.parent)
                name = run.info["suite"]["name"]
                if _counts(run) and (name not in found or run.info["started"] > found[name].info["started"]):
                    found[name] = run
        except UserError:
            continue
    return found


def _counts(run: Run) -> bool:
    ended = run.end is not None and run.end.status != "interrupted"
    return ended and run.data == "fashion-mnist" and run.preset.confidence is not None


def trainings(results: Path) -> dict[str, dict[str, list[Epoch]]]:
    """Return by recipe and folder the histories of the finished trainings on the real data: of the longest meant."""
    found: dict[str, dict[str, list[Epoch]]] = {}
    meant: dict[str, int] = {}
    for file in sorted(results.glob(f"*/{TRAINING_FILE}")):
        try:
            about, history = read_training(file.parent), read_history(file.parent)
        except UserError:
            continue
        if is_complete(file.parent) and history and about["data"]["name"] == "fashion-mnist" and _is_published(about):
            name, epochs = about["recipe"]["name"], min(about["epochs"], about["recipe"]["epochs"])
            if epochs > meant.get(name, 0):
                found[name], meant[name] = {}, epochs
            if epochs == meant[name]:
                found[name][file.parent.name] = history
    return found


def _is_published(about: dict[str, object]) -> bool:
    """Tell whether a training kept to the recipe that comes with the project, apart from the number of epochs."""
    recipe = about["recipe"]
    if not isinstance(recipe, dict) or recipe.get("name") not in recipe_names():
        return False
    try:
        return from_dict(recipe) == load_recipe(recipe["name"])
    except (TypeError, KeyError):
        return False


def judge(claim: Claim, runs: dict[str, Run], trained: dict[str, dict[str, list[Epoch]]]) -> Finding:
    """Return what follows for a claim from the runs by suite, and the trainings by recipe and folder."""
    match claim.evidence:
        case Untestable(reason):
            return Finding(claim, "", f"{NOT_TESTABLE}: {reason}", "")
        case Accuracy(recipe, low):
            return _judge_accuracy(claim, load_recipe(recipe), low, trained.get(recipe, {}))
        case Ratio():
            return _judge_ratio(claim, claim.evidence, runs.get(claim.evidence.suite))


def _judge_ratio(claim: Claim, ratio: Ratio, run: Run | None) -> Finding:
    if run is None:
        return Finding(claim, "", OPEN, "")
    estimate = run.estimate(Pair(ratio.arm, ratio.baseline, ratio.case))
    if estimate is None:
        failures = [run.failure(arm, ratio.case) for arm in (ratio.arm, ratio.baseline)]
        reason = next((each.reason for each in failures if each), "")
        verdict = f"{NOT_TESTABLE}: {reason}" if reason else f"{OPEN}: the newest run has no such pair"
        return Finding(claim, "", verdict, run.folder.name)
    if faults := run.pair_faults(ratio.arm, ratio.baseline, ratio.case):
        return Finding(claim, "", f"{NOT_TESTABLE}: {'; '.join(faults)}", run.folder.name)
    return Finding(claim, _told(run, ratio, estimate), _ratio_verdict(ratio, estimate), run.folder.name)


def _ratio_verdict(ratio: Ratio, estimate: Estimate) -> str:
    """Return whether the whole interval lies below what was claimed, or some of it reaches there."""
    interval = estimate.ratio_interval
    if interval is None:
        return f"{OPEN}: this run's preset gives no interval"
    return REPRODUCED if interval.high >= ratio.low else NOT_REPRODUCED


def _told(run: Run, ratio: Ratio, estimate: Estimate) -> str:
    interval = estimate.ratio_interval
    sure = f" ({interval.low:.2f} to {interval.high:.2f})" if interval else ""
    times = [_time(run, each, ratio.case) for each in (ratio.baseline, ratio.arm)]
    unit = "an epoch" if ratio.case.scenario == TRAINING else f"{TEST_IMAGES:,} images"
    if ratio.case.scenario == TRAINING:
        unit += f" of {run.images_per_turn(ratio.case):,} images"
    what = f"{ratio.arm.label} over {ratio.baseline.label}, {ratio.case.model}"
    return f"{estimate.speedup:.2f}x{sure}: {what}; {times[0]} s -> {times[1]} s for {unit}"


def _time(run: Run, arm: Arm, case: Case) -> str:
    typical = run.typical_latency_ns(arm, case) or 0.0
    count = 1 if case.scenario == TRAINING else TEST_IMAGES / case.batch_size
    return f"{typical * count / 1e9:.3g}"


def _judge_accuracy(claim: Claim, recipe: Recipe, low: float, histories: dict[str, list[Epoch]]) -> Finding:
    """Compare the mean over trainings; what the test images' own chance may explain (two standard errors) counts."""
    if not histories:
        return Finding(claim, "", OPEN, "")
    reached = [history[kept_epoch(recipe, history)].test_accuracy for history in histories.values()]
    accuracy = mean(reached)
    allowance = 2 * sqrt(low * (1 - low) / TEST_IMAGES)
    spread = f", {min(reached):.2%} to {max(reached):.2%}" if len(reached) > 1 else ""
    epochs = sorted({len(history) for history in histories.values()})
    measured = f"{accuracy:.2%} ({len(reached)} trained{spread}; {', '.join(map(str, epochs))} epochs)"
    verdict = REPRODUCED if accuracy >= low - allowance else NOT_REPRODUCED
    return Finding(claim, measured, verdict, ", ".join(histories))
