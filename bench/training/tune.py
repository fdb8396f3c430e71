"""Search a recipe's hyper-parameters by accuracy on held-out training images, without the test images."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.codec import encode
from bench.console import steps
from bench.engine.build import EPOCH_TIMEOUT_S
from bench.engine.workers import WorkerError
from bench.journal import write_atomically
from bench.processes.scratch import scratch_folder
from bench.suite.environments import environment_of
from bench.training.train import EVALUATE_TIMEOUT_S, Job, evaluation_of, open_training, prove_training, start_worker
from bench.worker.messages import RunEpoch
from models.data import split
from models.errors import UserError
from models.recipes.learning_rate import learning_rates
from models.recipes.parse import to_toml
from models.texts import without_formulas
from models.weights import initial_weights

if TYPE_CHECKING:
    from pathlib import Path

    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial
    from rich.console import Console

    from bench.engine.workers import Worker
    from models.recipes import Recipe

STUDY, TRIALS, BEST = "study.db", "trials.csv", "best.toml"
# The fraction of images that is held out if the recipe holds none out.
HELD_OUT = 0.1
SEARCHED_BATCH_SIZES = (32, 64, 128, 256)
SEARCHED_LEARNING_RATES = {"adam": (1e-4, 1e-2), "sgd": (5e-3, 0.5)}
SEARCHED_RHOS = (5e-3, 0.3)
IDENTITY = "identity"


@dataclass(frozen=True)
class Trained:
    """A trial that has trained to the end: its settings, and the accuracy on the held-out images."""

    number: int
    settings: dict[str, Any]
    accuracy: float


def search_space(recipe: Recipe) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    low, high = SEARCHED_LEARNING_RATES[recipe.optimizer]
    space: dict[str, BaseDistribution] = {
        "batch_size": CategoricalDistribution(SEARCHED_BATCH_SIZES),
        "learning_rate": FloatDistribution(low, high, log=True),
    }
    return space if recipe.rho is None else space | {"rho": FloatDistribution(*SEARCHED_RHOS, log=True)}


def search_settings(job: Job, trials: int, folder: Path, console: Console) -> list[Trained]:
    """Run trials until the study has `trials` of them; write trials.csv and best.toml; return the trained ones.

    Raises UserError if the folder holds another search, the stack is missing, or no trial has trained to the end.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _open_study(job, folder)
    left = max(trials - len(_ended(study)), 0)
    with scratch_folder() as scratch, steps(console, {"": left * job.epochs}) as progress:
        splits = split(job.data, job.recipe.validation or HELD_OUT)
        # The validation images take the place of the test images, so that no trial can see those.
        replace(splits, test=splits.validation).lay_out(scratch)
        if left:
            try:
                prove_training(job, environment_of(job.stack), scratch)
            except WorkerError as error:
                raise UserError(f"search of {job.recipe.name} on {job.stack.name} failed: {error}") from error
        for _ in range(left):
            trial = study.ask(search_space(job.recipe))
            _run_trial(job, study, trial, scratch)
            progress.step(job.epochs, _outcome(study.trials[trial.number]))
            _write_table(study, folder)
    ended = _ended(study)
    trained = [Trained(trial.number + 1, trial.params, trial.value) for trial in ended if trial.value is not None]
    if not trained:
        raise UserError(f"{folder}: none of {len(ended)} trials has trained to the end; {TRIALS} has the reasons")
    best = best_trial(trained)
    comment = f"Best of {len(ended)} trials: accuracy {best.accuracy:.4f} on held-out training images."
    write_atomically(folder / BEST, to_toml(replace(job.recipe, **best.settings), comment))
    return trained


def best_trial(trained: list[Trained]) -> Trained:
    return max(trained, key=lambda trial: trial.accuracy)


def _open_study(job: Job, folder: Path) -> Study:
    """Open a new or an interrupted study; the trial that was interrupted counts as failed."""
    import optuna
    from optuna.exceptions import OptunaError
    from optuna.trial import TrialState
    from sqlalchemy.exc import SQLAlchemyError

    # Without variables of the user, searches of older versions have the same identity.
    content = {name: value for name, value in encode(job.info).items() if name != "env" or value}
    identity = json.dumps(content, sort_keys=True)
    storage = f"sqlite:///{(folder / STUDY).absolute()}"
    try:
        study = optuna.create_study(
            storage=storage, study_name=job.recipe.name, direction="maximize", load_if_exists=True
        )
        before, trials = study.user_attrs.get(IDENTITY), len(study.trials)
    # What Optuna reads from the file of a stranger may be of any type.
    except (SQLAlchemyError, OptunaError, RuntimeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{folder / STUDY}: not a search that can continue ({type(error).__name__})") from error
    if before not in (None, identity):
        raise UserError(f"{folder}: holds a search with other settings; choose another --name")
    study.set_user_attr(IDENTITY, identity)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    # With the same seed, the sampler of a continued search would propose its first settings again.
    study.sampler = optuna.samplers.TPESampler(seed=job.seed + trials)
    return study


def _ended(study: Study) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def _run_trial(job: Job, study: Study, trial: Trial, scratch: Path) -> None:
    """Train with a trial's settings and report the accuracy to the study; a trial that diverges is pruned."""
    from optuna.trial import TrialState

    trial_job = replace(job, recipe=replace(job.recipe, **trial.params))
    try:
        with start_worker(job, environment_of(job.stack), scratch) as worker:
            accuracy = _validation_accuracy(trial_job, worker.wait_until_ready(), scratch)
    except WorkerError as error:
        trial.set_user_attr("reason", str(error))
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, accuracy)


def _validation_accuracy(job: Job, worker: Worker, scratch: Path) -> float:
    """Return the accuracy on the held-out images after the last epoch."""
    open_training(worker, job, initial_weights(job.network, job.seed, job.recipe.initial), scratch)
    images = len(np.load(scratch / "train-labels.npy", allow_pickle=False))
    for epoch in range(job.epochs):
        rates = learning_rates(job.recipe, job.epochs, ceil(images / job.recipe.batch_size), epoch)
        worker.request(RunEpoch(epoch + 1, job.seed, tuple(rates)), EPOCH_TIMEOUT_S)
    return worker.request(evaluation_of("validation", scratch), EVALUATE_TIMEOUT_S).accuracy


def _outcome(trial: FrozenTrial) -> str:
    settings = ", ".join(f"{name} {value:.4g}" for name, value in trial.params.items())
    result = f"held-out accuracy {trial.value:.2%}" if trial.value is not None else trial.user_attrs["reason"]
    return f"trial {trial.number + 1}: {settings}: {result}"


def _write_table(study: Study, folder: Path) -> None:
    import pandas as pd

    rows = [
        {
            "trial": trial.number + 1,
            **trial.params,
            "held_out_accuracy": trial.value,
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            "reason": without_formulas(trial.user_attrs.get("reason", "")),
        }
        for trial in _ended(study)
    ]
    write_atomically(folder / TRIALS, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
