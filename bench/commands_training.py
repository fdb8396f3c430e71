"""What the commands do that train, search, judge and convert models."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import machine
from bench.errors import UserError, unknown
from bench.options import chosen_threads, git_commit, require_name, require_seed
from bench.recipe import load_recipe
from bench.stacks import find_stack
from bench.train import MODEL, Job, is_complete
from bench.train import train as train_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from backends.protocol import Stack


@dataclass(frozen=True)
class Wish:
    """What the user wants trained, as typed."""

    recipe: str
    stack: str
    variant: str
    precision: str
    epochs: int
    seed: int
    threads: int
    data: str


def train(wish: Wish, results: Path, name: str, output: str, console: Console, command: Sequence[str]) -> None:
    """Train a model, or go on with an interrupted training."""
    copy = Path(output) if output else None
    if copy and (copy.suffix != ".safetensors" or not copy.parent.is_dir() or copy.is_dir()):
        raise UserError(f"--output {copy}: allowed: a file that ends in .safetensors, in a folder that exists")
    job = make_job(wish)
    folder = training_folder(results, name or default_name(job))
    was_complete = is_complete(folder)
    history = train_model(job, folder, describe(command), console)
    if copy:
        copy.write_bytes((folder / MODEL).read_bytes())
    said = "was trained before" if was_complete else "trained"
    told = f"{folder / MODEL}: {said}, {len(history)} epochs, test accuracy {history[-1].test_accuracy:.2%}"
    console.print(f"{told} on {job.data.name}", markup=False, highlight=False, soft_wrap=True)


def make_job(wish: Wish) -> Job:
    """Return the training that is wanted; raises UserError for what is not allowed."""
    from models import data

    if wish.epochs < 0:
        raise UserError(f"--epochs {wish.epochs}: allowed: 0 (the recipe's) or more")
    require_seed(wish.seed)
    recipe, stack = load_recipe(wish.recipe), find_stack(wish.stack)
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
    return f"train-{job.recipe.name}-{job.stack.name}{precision}-seed{job.seed}"


def training_folder(results: Path, name: str) -> Path:
    """Return the folder of a training, made where it is not there."""
    require_name(name)
    folder = results / name
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
        "machine": machine.describe(),
    }
