"""What the commands do that train, search, judge and convert models."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from bench.commands.options import chosen_threads, git_commit, names_of, require_name, require_seed
from bench.journal import RUN, write_pages
from bench.machine import facts
from bench.suite.arms import Arm
from bench.suite.environments import find_stack
from bench.training.evaluate import default_arms
from bench.training.evaluate import evaluate as evaluate_model
from bench.training.model_file import export as export_model
from bench.training.model_file import import_model, open_model
from bench.training.train import MODEL, TRAINING, Job, is_complete, read_history, read_training
from bench.training.train import train as train_model
from models.data import SYNTHETIC_WARNING
from models.errors import UserError, unknown
from models.files import atomic_write
from models.recipes.parse import load_recipe
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from backends.protocol import Stack
    from bench.training.evaluate import Evaluation
    from bench.training.model_file import Model
    from models.data import DataSet


MAX_TRIALS = 10_000
HTML = "report.html"


@dataclass(frozen=True)
class TrainOptions:
    """What the user wants trained, as typed."""

    recipe: str
    stack: str
    variant: str
    precision: str
    epochs: int
    seed: int
    threads: int
    data: str
    changes: str = ""


def train(wish: TrainOptions, results: Path, name: str, output: str, console: Console, command: Sequence[str]) -> None:
    """Train a model, or go on with an interrupted training, and evaluate it on the stack that has trained it."""
    copy = Path(output) if output else None
    if copy and (copy.suffix != ".safetensors" or not copy.parent.is_dir() or copy.is_dir()):
        raise UserError(f"--output {copy}: allowed: a file that ends in .safetensors, in a folder that exists")
    job = make_job(wish)
    folder = training_folder(results, name or f"train-{changed_name(wish)}{default_name(job)}")
    was_complete = is_complete(folder)
    history = train_model(job, folder, describe(command), console)
    model = open_model(folder)
    if copy:
        with atomic_write(copy) as partial:
            shutil.copyfile(folder / MODEL, partial)
    if not (folder / HTML).exists():
        answering = next(name for name, each in job.stack.variants.items() if not each.trains)
        found = write_evaluation(model, [Arm(job.stack.name, answering)], job.data, job.threads, folder)
        _say_what_is_missing(found, console)
    said = "was trained before" if was_complete else "trained"
    accuracy = f"test accuracy {float(model.facts['test_accuracy']):.2%} on {job.data.name}"
    told = f"{folder / MODEL}: {said}, {len(history)} epochs, {accuracy}"
    console.print(told, markup=False, highlight=False, soft_wrap=True)


def _say_what_is_missing(evaluations: list[Evaluation], console: Console) -> None:
    for each in evaluations:
        if each.logits is None:
            told = f"not evaluated: {each.arm.label}: {each.reason}"
            console.print(told, style="yellow", markup=False, highlight=False, soft_wrap=True)


def evaluate(
    path: Path, model: str, arms: str, source: str, threads: int, results: Path, name: str, console: Console
) -> int:
    """Judge a model on several stacks, side by side; return 1 when one of them could not."""
    from models import data

    cores, found = chosen_threads(threads), open_model(path, model)
    chosen = [_arm(text) for text in names_of("--arms", arms)] or default_arms()
    if not chosen:
        raise UserError("no stack is installed to evaluate on; make an environment: tox -e vanilla --notest")
    data_set = data.load(source)
    folder = path if path.is_dir() else training_folder(results, name or f"evaluate-{path.stem}", foreign=TRAINING)
    evaluations = write_evaluation(found, chosen, data_set, cores, folder)
    if data_set.name == "synthetic":
        console.print(SYNTHETIC_WARNING, style="bold yellow", soft_wrap=True)
    console.print(_evaluation_table(evaluations))
    console.print(f"report: {folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    return 1 if any(each.logits is None for each in evaluations) else 0


def _evaluation_table(evaluations: list[Evaluation]) -> Table:
    table = Table("Arm", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("Accuracy", "Precision", "Recall", "F1", "IoU", "AUC"):
        table.add_column(column, justify="right")
    for each in evaluations:
        if each.logits is None:
            table.add_row(Text(each.arm.label), Text(f"not evaluated: {each.reason}"))
            continue
        macro = each.classification[-2]
        figures = [f"{macro[column]:.4f}" for column in ("precision", "recall", "f1", "iou", "auc")]
        table.add_row(Text(each.arm.label), f"{each.accuracy:.2%}", *figures)
    return table


def _arm(text: str) -> Arm:
    """Read "stack/variant" or "stack/variant/precision" of an arm that answers."""
    stack_name, _, rest = text.partition("/")
    variant, _, precision = rest.partition("/")
    stack = find_stack(stack_name)
    answering = {name: each for name, each in stack.variants.items() if not each.trains and not each.asynchronous}
    if variant not in answering:
        raise unknown(f"variant of {stack.name}", variant, answering)
    if (precision or "fp32") not in answering[variant].precisions:
        raise unknown(f"precision of {stack.name}/{variant}", precision, answering[variant].precisions)
    return Arm(stack.name, variant, precision or "fp32")


def write_evaluation(model: Model, arms: list[Arm], data: DataSet, threads: int, folder: Path) -> list[Evaluation]:
    """Evaluate a model, and write tables, plots and pages into a folder; of a training with its learning curves."""
    from bench.report import evaluation as pages

    about = read_training(folder) if (folder / TRAINING).exists() else {}
    history, evaluations = read_history(folder), evaluate_model(model, arms, data, threads)
    drawn = pages.plots(model, evaluations, history)
    texts = pages.tables(evaluations, history, data.name)
    texts |= pages.pages(model, evaluations, history, about, drawn, data.name)
    write_pages(folder, texts, drawn)
    return evaluations


def export(path: Path, output: Path, model: str, console: Console) -> None:
    """Write a model in a format for other tools."""
    export_model(open_model(path, model), output)
    console.print(f"{output}: written", markup=False, highlight=False, soft_wrap=True)


def import_(file: Path, output: Path, model: str, console: Console) -> None:
    """Read the weights of another tool."""
    if model not in NETWORKS:
        raise unknown("model", model, NETWORKS)
    import_model(file, NETWORKS[model], output)
    console.print(f"{output}: written", markup=False, highlight=False, soft_wrap=True)


def make_job(wish: TrainOptions) -> Job:
    """Return the training that is wanted; raises UserError for what is not allowed."""
    from models import data

    if wish.epochs < 0:
        raise UserError(f"--epochs {wish.epochs}: allowed: 0 (the recipe's) or more")
    require_seed(wish.seed)
    recipe, stack = load_recipe(wish.recipe, wish.changes), find_stack(wish.stack)
    variant = training_variant(stack, wish.variant, wish.precision)
    epochs, threads = wish.epochs or recipe.epochs, chosen_threads(wish.threads)
    return Job(recipe, stack, variant, wish.precision, epochs, wish.seed, threads, data.load(wish.data))


def training_variant(stack: Stack, name: str, precision: str) -> str:
    """Return the way to train that is wanted, the stack's first unless named."""
    if not stack.trainings:
        raise UserError(f"--stack {stack.name}: does not train; it takes what another stack has trained: evaluate")
    variant = name or next(iter(stack.trainings))
    if variant not in stack.trainings:
        raise unknown(f"training of {stack.name}", variant, stack.trainings)
    if precision not in stack.trainings[variant].precisions:
        raise unknown(f"precision of {stack.name}/{variant}", precision, stack.trainings[variant].precisions)
    return variant


def default_name(job: Job) -> str:
    """Return the name of a training's folder."""
    precision = "" if job.precision == "fp32" else f"-{job.precision}"
    return f"{job.recipe.name}-{job.stack.name}{precision}-seed{job.seed}"


def changed_name(wish: TrainOptions) -> str:
    """Return the part of a folder's name that tells what `--set` changes."""
    kept = re.sub(r"[^A-Za-z0-9.]+", "-", wish.changes).strip("-")
    return f"{kept}-" if kept else ""


def tune(wish: TrainOptions, trials: int, results: Path, name: str, console: Console) -> None:
    """Search batch size, learning rate and rho on held-out images."""
    from bench.training.tune import BEST, Search
    from bench.training.tune import tune as search_best

    if not 1 <= trials <= MAX_TRIALS:
        raise UserError(f"--trials {trials}: allowed: 1 to {MAX_TRIALS}")
    job = make_job(wish)
    folder = training_folder(results, name or f"tune-{changed_name(wish)}{default_name(job)}")
    best = search_best(Search(job, trials), folder, console)
    settings = ", ".join(f"{key} {value:.4g}" for key, value in best.items())
    where = f"{folder / BEST}; train it: bench train --recipe {folder / BEST}"
    console.print(f"best: {settings}: {where}", markup=False, highlight=False, soft_wrap=True)


def training_folder(results: Path, name: str, foreign: str = "") -> Path:
    """Return the folder of a training, made where it is not there; one that holds a run, or `foreign`, is refused."""
    require_name(name)
    folder = results / name
    if other := next((each for each in (RUN, foreign) if each and (folder / each).exists()), None):
        raise UserError(f"{folder}: holds something else ({other}); choose another --name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: can't be made ({error.strerror}); name a writable folder with --results") from error
    return folder


def describe(command: Sequence[str]) -> dict[str, Any]:
    """Return what every training stores of how it was called, and where."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "command": ["bench", *command[1:]],
        "started": started,
        "git_commit": git_commit(),
        "machine": facts.describe(),
    }
