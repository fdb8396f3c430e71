"""`bench train` and `bench tune`."""

from __future__ import annotations

import json
import re
import shutil
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.codec import CodecError, decode, encode, read_json
from bench.commands.folders import shared_folder
from bench.commands.model_files import report_model, say_failures
from bench.console import say
from bench.engine.describe import origin_of_now
from bench.journal import write_atomically
from bench.machine import facts
from bench.processes.lock import only_command_in, only_measurement
from bench.report.plots.training_plots import trials_plot
from bench.report.run_report import say_variables
from bench.suite.arms import Arm
from bench.suite.environments import find_stack
from bench.suite.plan import obstacle
from bench.suite.user_variables import UserVariables
from bench.training.cost import cost_of, target_text
from bench.training.history import MODEL_FILE, TRAINING_SCHEMA, TrainingRecord, is_complete
from bench.training.model_file import open_model
from bench.training.train import Job, train_job
from models.errors import UserError, unknown
from models.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from backends.protocol import Stack
    from bench.training.tune import TrialSearch
    from models.recipes import Recipe

MAX_TRIALS = 10_000
PLOT = "trials.svg"
HTML = "report.html"


@dataclass(frozen=True)
class TrainOptions:
    """What to train; `variant` and `epochs` are by default those of the stack and the recipe.

    `changes` are what the user has changed in the recipe, for the name of the folder.
    """

    recipe: Recipe
    stack: Stack
    threads: int
    variant: str | None = None
    precision: str = "fp32"
    epochs: int | None = None
    seed: int = 0
    data: str = "auto"
    results: Path = Path("results")
    name: str | None = None
    changes: str = ""
    variables: UserVariables = field(default_factory=UserVariables)


def train_model(options: TrainOptions, output: Path | None, console: Console) -> None:
    """Train a model, or continue an interrupted training, and evaluate it on the stack that has trained it."""
    if output and (output.suffix != ".safetensors" or not output.parent.is_dir() or output.is_dir()):
        raise UserError(f"--output {output}: allowed: a file that ends in .safetensors, in a folder that exists")
    job = make_job(options)
    folder = shared_folder(options.results, options.name or default_name("train", options))
    with only_measurement(folder, shared=True), only_command_in(folder):
        _train_into(folder, job, options, output, console)


def _train_into(folder: Path, job: Job, options: TrainOptions, output: Path | None, console: Console) -> None:
    was_complete = is_complete(folder)
    say_variables(options.variables, console)
    origin = origin_of_now()
    record = TrainingRecord(
        TRAINING_SCHEMA,
        origin.command,
        origin.started,
        origin.git_commit,
        facts.describe(),
        job.info,
        options.variables,
    )
    history = train_job(job, folder, record, console)
    model = open_model(folder)
    if output:
        with atomic_write(output) as partial:
            shutil.copyfile(model.path, partial)
    if not (folder / HTML).exists() and job.stack.default_variant:
        arm = Arm(job.stack.name, job.stack.default_variant)
        say_failures(report_model(model, [arm], job.data, job.threads, folder, options.variables), console)
    trained = "was trained before" if was_complete else "trained"
    accuracy = f"test accuracy {float(model.metadata['test_accuracy']):.2%} on {job.data.name}"
    say(console, f"{folder / MODEL_FILE}: {trained}, {len(history)} epochs, {accuracy}")
    target = options.recipe.target
    reached = "" if target is None else f"; {target_text(target, history)}"
    say(console, f"{job.threads} threads: {cost_of(history).text}{reached}")


def tune_recipe(options: TrainOptions, trials: int, fleet: Path | None, console: Console) -> None:
    """Search the recipe's settings, or continue an interrupted search; write the best recipe and a plot.

    Trials run on the nodes of a fleet, if its folder is named.
    """
    from bench.training import tune as search

    if not 1 <= trials <= MAX_TRIALS:
        raise UserError(f"--trials {trials}: allowed: 1 to {MAX_TRIALS}")
    job = make_job(options)
    folder = shared_folder(options.results, options.name or default_name("tune", options))
    here = nullcontext() if fleet else only_measurement(folder, shared=True)
    with here, only_command_in(folder), trial_runner(fleet, options.data) as run_trials:
        say_variables(options.variables, console)
        trained = search.search_settings(
            search.TrialSearch(job, trials, folder, parallel=bool(fleet)), run_trials, console
        )
        write_atomically(folder / PLOT, trials_plot(trained))
    settings = ", ".join(f"{name} {value:.4g}" for name, value in search.best_trial(trained).settings.items())
    recipe = folder / search.BEST
    say(console, f"best: {settings}: {recipe}; train it: bench train --recipe {recipe}")


@contextmanager
def trial_runner(fleet: Path | None, data: str) -> Iterator[Callable[[TrialSearch], None]]:
    """Hold the nodes of a fleet, or this machine, ready for trials."""
    from bench.commands.fleet import open_driver, order_for
    from bench.fleet.state import read_fleet
    from bench.fleet.trials import TrialNodes
    from bench.training.tune import run_trials_here

    if fleet is None:
        yield run_trials_here
        return
    info = read_fleet(fleet)
    driver = open_driver(info)
    try:
        bundle = Path(info.bundle) if info.bundle else None
        yield TrialNodes(driver, bundle, data, partial(order_for, info, fleet)).run_trials
    finally:
        driver.close()


def run_trial(text: str, threads: Callable[[int], int]) -> None:
    """Train what a driver has ordered, and print the result as a line of JSON; raises UserError if it can't be."""
    from bench.fleet.trials import TrialOrder
    from bench.training.tune import ready_for_trials, trial_result

    try:
        order = decode(TrialOrder, read_json(text))
    except CodecError as error:
        raise UserError(f"the order of a trial: {error}") from error
    given = order.job
    options = TrainOptions(
        given.recipe,
        find_stack(given.stack),
        threads(given.threads),
        given.variant,
        given.precision,
        given.epochs,
        given.seed,
        order.data,
        variables=UserVariables(given.env),
    )
    job = make_job(options)
    if odd := [name for name in ("network", "data") if getattr(job.info, name) != getattr(given, name)]:
        raise UserError(f"--data {order.data}: this node has another {' and '.join(odd)} than the driver")
    with only_measurement(Path.cwd(), shared=True), ready_for_trials(job) as scratch:
        sys.stdout.write(json.dumps(encode(trial_result(job, scratch))) + "\n")


def make_job(options: TrainOptions) -> Job:
    """Load the data and return the training; raises UserError for what the stack can't train."""
    from models.data import load

    stack, trainings = options.stack, options.stack.trainings
    if not trainings:
        raise UserError(f"--stack {stack.name}: does not train; train on another stack and use `bench evaluate`")
    variant = options.variant or stack.default_training or ""
    if variant not in trainings:
        raise unknown(f"training of {stack.name}", variant, trainings)
    if options.precision not in trainings[variant].precisions:
        raise unknown(f"precision of {stack.name}/{variant}", options.precision, trainings[variant].precisions)
    arm, given = Arm(stack.name, variant, options.precision), options.variables.given
    if reason := obstacle(arm, {}, facts.instruction_sets(), given):
        raise UserError(f"{arm.label}: {reason}; choose another --precision or --stack")
    return Job(
        recipe=options.recipe,
        stack=stack,
        variant=variant,
        precision=options.precision,
        epochs=options.epochs or options.recipe.epochs,
        seed=options.seed,
        threads=options.threads,
        data=load(options.data),
        env=given,
    )


def default_name(command: str, options: TrainOptions) -> str:
    """Return a folder name with all that distinguishes the options: recipe, its changes, stack, precision and seed."""
    changes = re.sub(r"[^A-Za-z0-9.]+", "-", options.changes).strip("-")
    precision = "" if options.precision == "fp32" else options.precision
    parts = (command, changes, options.recipe.name, options.stack.name, precision, f"seed{options.seed}")
    return "-".join(filter(None, parts))
