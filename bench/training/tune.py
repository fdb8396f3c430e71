"""Search a recipe's hyper-parameters by accuracy on held-out training images, without the test images."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from secrets import token_hex
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
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial
    from rich.console import Console

    from bench.console import Steps
    from bench.engine.workers import Worker
    from models.recipes import Recipe

STUDY, TRIALS, BEST = "study.db", "trials.csv", "best.toml"
# The fraction of images that is held out if the recipe holds none out.
HELD_OUT = 0.1
SEARCHED_BATCH_SIZES = (32, 64, 128, 256)
SEARCHED_LEARNING_RATES = {"adam": (1e-4, 1e-2), "sgd": (5e-3, 0.5)}
SEARCHED_RHOS = (5e-3, 0.3)
# What a study and its trials are stored with.
IDENTITY, TOKEN, NODE = "identity", "token", "node"


@dataclass(frozen=True)
class Trained:
    """A trial that has trained to the end: its settings, and the accuracy on the held-out images."""

    number: int
    settings: dict[str, Any]
    accuracy: float


@dataclass(frozen=True)
class TrialResult:
    """The accuracy of a trial on the held-out images, or None and why it has not trained to the end."""

    accuracy: float | None
    reason: str = ""


def search_space(recipe: Recipe) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    low, high = SEARCHED_LEARNING_RATES[recipe.optimizer]
    space: dict[str, BaseDistribution] = {
        "batch_size": CategoricalDistribution(SEARCHED_BATCH_SIZES),
        "learning_rate": FloatDistribution(low, high, log=True),
    }
    return space if recipe.rho is None else space | {"rho": FloatDistribution(*SEARCHED_RHOS, log=True)}


class TrialSearch:
    """A search that is under way: its study, and how many trials are left."""

    def __init__(self, job: Job, trials: int, folder: Path, *, parallel: bool = False) -> None:
        """Open a new or an interrupted search. Of a `parallel` one, trials may still be under way on nodes.

        Raises UserError if the folder holds another search.
        """
        import optuna
        from optuna.trial import TrialState

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.job, self.folder, self.study = job, folder, _open_study(job, folder)
        self.progress: Steps | None = None
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            if not (parallel and NODE in trial.user_attrs):
                self.study.tell(trial.number, state=TrialState.FAIL)
        # With the same seed, the sampler of a continued search would propose its first settings again.
        seed = job.seed + len(self.study.trials)
        # The other trials that are under way count as bad ones, so that each tries something else.
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=parallel)
        self.left = max(trials - len(_ended(self.study)) - len(self.running()), 0)

    @property
    def token(self) -> str:
        """A text that no other search has, not even one in a folder of the same name."""
        if TOKEN not in self.study.user_attrs:
            self.study.set_user_attr(TOKEN, token_hex(8))
        return str(self.study.user_attrs[TOKEN])

    def running(self) -> list[FrozenTrial]:
        from optuna.trial import TrialState

        return self.study.get_trials(states=(TrialState.RUNNING,))

    def ask(self, node: str | None = None) -> FrozenTrial:
        """Begin a trial, on a node of a fleet or on this machine."""
        trial = self.study.ask(search_space(self.job.recipe))
        if node is not None:
            trial.set_user_attr(NODE, node)
        self.left -= 1
        return self.study.trials[trial.number]

    def tell(self, trial: FrozenTrial, result: TrialResult, *, lost: bool = False) -> None:
        """Store the result of a trial. One that is `lost` says nothing about its settings, and is not counted."""
        from optuna.trial import Trial, TrialState

        if result.accuracy is not None:
            self.study.tell(trial.number, result.accuracy)
        else:
            # Optuna offers no other way to the attributes of a trial that another process has begun.
            Trial(self.study, trial._trial_id).set_user_attr("reason", result.reason)  # noqa: SLF001
            self.study.tell(trial.number, state=TrialState.FAIL if lost else TrialState.PRUNED)
            self.left += lost
        if self.progress:
            self.progress.step(0 if lost else self.job.epochs, _outcome(self.study.trials[trial.number]))
        _write_table(self.study, self.folder)

    def job_of(self, trial: FrozenTrial) -> Job:
        return replace(self.job, recipe=replace(self.job.recipe, **trial.params))


def search_settings(search: TrialSearch, run_trials: Callable[[TrialSearch], None], console: Console) -> list[Trained]:
    """Run the trials that are left; write trials.csv and best.toml; return the trained ones.

    Raises UserError if the stack is missing, or no trial has trained to the end.
    """
    job, folder = search.job, search.folder
    with steps(console, {"": (search.left + len(search.running())) * job.epochs}) as search.progress:
        if search.left or search.running():
            run_trials(search)
    ended = _ended(search.study)
    trained = [Trained(trial.number + 1, trial.params, trial.value) for trial in ended if trial.value is not None]
    if not trained:
        raise UserError(f"{folder}: none of {len(ended)} trials has trained to the end; {TRIALS} has the reasons")
    best = best_trial(trained)
    comment = f"Best of {len(ended)} trials: accuracy {best.accuracy:.4f} on held-out training images."
    write_atomically(folder / BEST, to_toml(replace(job.recipe, **best.settings), comment))
    return trained


def run_trials_here(search: TrialSearch) -> None:
    """Run one trial after the other on this machine; raises UserError if the stack is missing."""
    with ready_for_trials(search.job) as scratch:
        while search.left:
            trial = search.ask()
            search.tell(trial, trial_result(search.job_of(trial), scratch))


@contextmanager
def ready_for_trials(job: Job) -> Iterator[Path]:
    """Lay out the data, and prove the training; raises UserError if the stack is missing or can't train this."""
    with scratch_folder() as scratch:
        splits = split(job.data, job.recipe.validation or HELD_OUT)
        # The validation images take the place of the test images, so that no trial can see those.
        replace(splits, test=splits.validation).lay_out(scratch)
        try:
            prove_training(job, environment_of(job.stack), scratch)
        except WorkerError as error:
            raise UserError(f"search of {job.recipe.name} on {job.stack.name} failed: {error}") from error
        yield scratch


def trial_result(job: Job, scratch: Path) -> TrialResult:
    """Train with a trial's settings; return the accuracy on the held-out images, or why there is none."""
    try:
        with start_worker(job, environment_of(job.stack), scratch) as worker:
            return TrialResult(_validation_accuracy(job, worker.wait_until_ready(), scratch))
    except WorkerError as error:
        return TrialResult(None, str(error))


def best_trial(trained: list[Trained]) -> Trained:
    return max(trained, key=lambda trial: trial.accuracy)


def _open_study(job: Job, folder: Path) -> Study:
    import optuna
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    # Without variables of the user, searches of older versions have the same identity.
    content = {name: value for name, value in encode(job.info).items() if name != "env" or value}
    identity = json.dumps(content, sort_keys=True)
    storage = f"sqlite:///{(folder / STUDY).absolute()}"
    try:
        study = optuna.create_study(
            storage=storage, study_name=job.recipe.name, direction="maximize", load_if_exists=True
        )
        before, _ = study.user_attrs.get(IDENTITY), study.trials
    # What Optuna reads from the file of a stranger may be of any type.
    except (SQLAlchemyError, OptunaError, RuntimeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{folder / STUDY}: not a search that can continue ({type(error).__name__})") from error
    if before not in (None, identity):
        raise UserError(f"{folder}: holds a search with other settings; choose another --name")
    study.set_user_attr(IDENTITY, identity)
    return study


def _ended(study: Study) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


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
    place = f" on {trial.user_attrs[NODE]}" if NODE in trial.user_attrs else ""
    return f"trial {trial.number + 1}{place}: {settings}: {result}"


def _write_table(study: Study, folder: Path) -> None:
    import pandas as pd
    from optuna.trial import TrialState

    rows = [
        {
            "trial": trial.number + 1,
            **({NODE: trial.user_attrs[NODE]} if NODE in trial.user_attrs else {}),
            **trial.params,
            "held_out_accuracy": trial.value,
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            "reason": without_formulas(trial.user_attrs.get("reason", "")),
        }
        for trial in study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
        if trial.state != TrialState.FAIL or "reason" in trial.user_attrs
    ]
    write_atomically(folder / TRIALS, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
