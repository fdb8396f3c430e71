"""`bench train` and `bench tune`."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

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
from bench.suite.plan import obstacle
from bench.suite.user_variables import UserVariables
from bench.training.cost import cost_of, target_text
from bench.training.history import MODEL_FILE, TRAINING_SCHEMA, TrainingRecord, is_complete
from bench.training.model_file import open_model
from bench.training.train import Job, train_job
from models.errors import UserError, unknown
from models.files import atomic_write

if TYPE_CHECKING:
    from rich.console import Console

    from backends.protocol import Stack
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


def tune_recipe(options: TrainOptions, trials: int, console: Console) -> None:
    """Search the recipe's settings, or continue an interrupted search; write the best recipe and a plot."""
    from bench.training import tune as search

    if not 1 <= trials <= MAX_TRIALS:
        raise UserError(f"--trials {trials}: allowed: 1 to {MAX_TRIALS}")
    job = make_job(options)
    folder = shared_folder(options.results, options.name or default_name("tune", options))
    with only_measurement(folder, shared=True), only_command_in(folder):
        say_variables(options.variables, console)
        trained = search.search_settings(job, trials, folder, console)
        write_atomically(folder / PLOT, trials_plot(trained))
    settings = ", ".join(f"{name} {value:.4g}" for name, value in search.best_trial(trained).settings.items())
    recipe = folder / search.BEST
    say(console, f"best: {settings}: {recipe}; train it: bench train --recipe {recipe}")


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
