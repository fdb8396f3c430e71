"""Search a recipe's hyper-parameters on held-out training images; the test images are never looked at."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.console import steps
from bench.engine.workers import WorkerError
from bench.journal import write_whole
from bench.suite.environments import environment_of
from bench.training.train import (
    BUILD_TIMEOUT_S,
    EPOCH_TIMEOUT_S,
    EVALUATE_TIMEOUT_S,
    Job,
    start,
    training_request,
)
from models.data import split
from models.errors import UserError
from models.learning_rate import learning_rates
from models.recipes.parse import to_toml
from models.weights import initial_weights, save_weights

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial
    from rich.console import Console

    from bench.engine.workers import Worker
    from models.recipes import Recipe

STUDY, TRIALS, BEST, PLOT = "study.db", "trials.csv", "best.toml", "trials.svg"
HELD_OUT = 0.1  # where the recipe itself holds nothing out
BATCH_SIZES = (32, 64, 128, 256)
LEARNING_RATES = {"adam": (1e-4, 1e-2), "sgd": (5e-3, 0.5)}
RHOS = (5e-3, 0.3)
IDENTITY = "identity"


@dataclass(frozen=True)
class Search:
    """What to search: a training job whose recipe's settings are varied, and how many trials there are to be."""

    job: Job
    trials: int


def space(recipe: Recipe) -> dict[str, BaseDistribution]:
    """Return what is searched, and between which bounds."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    low, high = LEARNING_RATES[recipe.optimizer]
    found: dict[str, BaseDistribution] = {
        "batch_size": CategoricalDistribution(BATCH_SIZES),
        "learning_rate": FloatDistribution(low, high, log=True),
    }
    return found | ({} if recipe.rho is None else {"rho": FloatDistribution(*RHOS, log=True)})


def tune(search: Search, folder: Path, console: Console) -> dict[str, Any]:
    """Add trials until there are as many as asked for; write table, plot and the best recipe; return its settings.

    Raises UserError when the folder holds another search, the stack is missing, or no trial has come to an end.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _open(search, folder)
    left = search.trials - len(_ended(study))
    with tempfile.TemporaryDirectory(prefix="bench-") as name, steps(console, max(left, 0) * search.job.epochs) as bar:
        splits = split(search.job.data, search.job.recipe.validation or HELD_OUT)
        blind = replace(splits, test=splits.validation)  # no trial can see the test images
        blind.lay_out(Path(name))
        for _ in range(left):
            trial = study.ask(space(search.job.recipe))
            _attempt(search.job, study, trial, Path(name))
            bar.step(search.job.epochs, _told(study.trials[trial.number]))
            write_table(study, folder)
    return write_best(study, search.job.recipe, folder)


def _open(search: Search, folder: Path) -> Study:
    """Open the study, new or begun before; what an interruption left unfinished counts as failed."""
    import optuna
    from optuna.exceptions import OptunaError
    from optuna.trial import TrialState
    from sqlalchemy.exc import SQLAlchemyError

    job = search.job
    identity = json.dumps(job.identity | {"seed": job.seed}, sort_keys=True)
    sampler = optuna.samplers.TPESampler(seed=job.seed)
    storage = f"sqlite:///{(folder / STUDY).absolute()}"
    try:
        study = optuna.create_study(
            storage=storage, study_name=job.recipe.name, direction="maximize", sampler=sampler, load_if_exists=True
        )
        before = study.user_attrs.get(IDENTITY)
    except (SQLAlchemyError, OptunaError, RuntimeError) as error:
        raise UserError(f"{folder / STUDY}: not a search that can go on ({type(error).__name__})") from error
    if before not in (None, identity):
        raise UserError(f"{folder}: holds a search with other settings; choose another --name")
    study.set_user_attr(IDENTITY, identity)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    if study.trials:  # the sampler would draw again what it has drawn before
        study.sampler = optuna.samplers.TPESampler(seed=job.seed + len(study.trials))
    return study


def _ended(study: Study) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def _attempt(job: Job, study: Study, trial: Trial, scratch: Path) -> None:
    """Train with a trial's settings and tell the study how well; one that diverges is a trial that was pruned."""
    from optuna.trial import TrialState

    recipe = replace(job.recipe, **trial.params)
    try:
        environment = environment_of(job.stack)
        with start(job, environment, scratch) as worker:
            accuracy = _validation_accuracy(replace(job, recipe=recipe), worker.wait_until_ready(), scratch)
    except WorkerError as error:
        trial.set_user_attr("reason", str(error))
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, accuracy)


def _validation_accuracy(job: Job, worker: Worker, scratch: Path) -> float:
    """Return the accuracy on the held-out images after the last epoch."""
    file, labels = scratch / "weights.safetensors", np.load(scratch / "train-labels.npy", allow_pickle=False)
    save_weights(file, initial_weights(job.network, job.seed, job.recipe.initial), {})
    way = job.stack.name, job.variant, job.precision
    request = training_request(way, job.recipe, job.seed, job.threads, scratch, file)
    worker.request("train", BUILD_TIMEOUT_S, **request)
    batches = -(-len(labels) // job.recipe.batch_size)
    for epoch in range(job.epochs):
        rates = learning_rates(job.recipe, job.epochs, batches, epoch)
        worker.request("epoch", EPOCH_TIMEOUT_S, epoch=epoch + 1, seed=job.seed, learning_rates=rates)
    files = {name: str(scratch / f"validation-{name}.npy") for name in ("images", "labels")}
    return float(worker.request("evaluate", EVALUATE_TIMEOUT_S, **files)["accuracy"])


def _told(trial: FrozenTrial) -> str:
    settings = ", ".join(f"{name} {value:.4g}" for name, value in trial.params.items())
    result = f"held-out accuracy {trial.value:.2%}" if trial.value is not None else trial.user_attrs["reason"]
    return f"trial {trial.number + 1}: {settings}: {result}"


def write_table(study: Study, folder: Path) -> None:
    """Write a row for each trial that has ended."""
    import pandas as pd

    rows = [
        {"trial": each.number + 1, **each.params, "held_out_accuracy": each.value, "seconds": _seconds(each),
         "reason": each.user_attrs.get("reason", "")}
        for each in _ended(study)
    ]  # fmt: skip
    write_whole(folder / TRIALS, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))


def write_best(study: Study, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Write the plot and the best recipe; return the best settings, or raise UserError when there is no best."""
    ended = _ended(study)
    complete = [each for each in ended if each.value is not None]
    if not complete:
        raise UserError(f"{folder}: none of {len(ended)} trials has come to an end; see {TRIALS} for the reasons")
    best = max(complete, key=lambda each: each.value or 0.0)
    comment = f"Best of {len(ended)} trials: accuracy {best.value:.4f} on held-out training images."
    write_whole(folder / BEST, to_toml(replace(recipe, **best.params), comment))
    write_whole(folder / PLOT, _plot(complete, list(space(recipe))))
    return dict(best.params)


def _seconds(trial: FrozenTrial) -> float | None:
    return trial.duration.total_seconds() if trial.duration else None


def _plot(trials: list[FrozenTrial], names: list[str]) -> str:
    """Draw the held-out accuracy by trial, and against each setting."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from bench.report.plot_style import COLOURS, STYLE, svg_of

    accuracies = [(each.value or 0.0) * 100 for each in trials]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.0 * (len(names) + 1), 3.2))
        first, *others = figure.subplots(1, len(names) + 1, sharey=True, squeeze=False)[0]
        first.plot([each.number + 1 for each in trials], accuracies, "o", color=COLOURS[0], ms=4)
        first.plot([each.number + 1 for each in trials], np.maximum.accumulate(accuracies), "-", color=COLOURS[1])
        first.set(xlabel="trial", ylabel="held-out accuracy, %", title="line: the best so far")
        for axes, name in zip(others, names, strict=True):
            axes.plot([each.params[name] for each in trials], accuracies, "o", color=COLOURS[0], ms=4)
            axes.set(xlabel=name.replace("_", " "), xscale="log")
        return svg_of(figure)
