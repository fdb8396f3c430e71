"""What each command of the command line does."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from backends.registry import stacks
from bench.commands.options import LATEST, chosen_threads, git_commit, names_of, require_name
from bench.engine import cache
from bench.journal import JOURNAL, write_pages
from bench.suite.environments import environment_names, find_stack
from bench.suite.parse import load_suite, suite_names
from bench.suite.plan import Plan, make_plan
from bench.suite.schedule import MAX_SEED, PRESETS, find_preset
from bench.suite.suite import Suite, narrow, takes_part
from bench.suite.variables import SETTINGS
from models.errors import UserError, unknown
from models.recipes.parse import load_recipe, recipe_names
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from models.spec import Network

COMPLETE = ("complete", "settled")


@dataclass(frozen=True)
class RunOptions:
    """What the user chose to measure, as typed."""

    suite: str
    preset: str
    stacks: str
    environments: str
    models: str
    batch_sizes: str
    precisions: str
    threads: str
    data: str
    seed: int


def run(choice: RunOptions, results: Path, name: str, console: Console, command: Sequence[str]) -> int:
    """Measure, report, and return the exit status: 0 when all was measured, 1 when something failed."""
    plan = _plan(choice)
    return measure(plan, choice.data, new_folder(results, name, plan.suite), console, command)


def measure(
    plan: Plan, source: str, folder: Path, console: Console, command: Sequence[str], *, newest: bool = True
) -> int:
    """Measure into a new folder, report, and return the exit status; `newest` makes it what results/latest names."""
    from bench.console import steps
    from bench.engine.run import conduct, describe, first_interrupt_only
    from bench.machine.diagnosis import advice_line, disturbances
    from bench.report import summary
    from models import data

    started = datetime.now(UTC)
    with first_interrupt_only():
        try:
            cache.require_writable()
            data_set = data.load(source)
            advice = [advice_line(each) for each in disturbances(plan.threads)]
            summary.opening(plan, data_set, advice, console)
            typed, when = ["bench", *command[1:]], started.isoformat(timespec="seconds")
            description = describe(plan, data_set, typed, when, git_commit())
            with steps(console, plan.weight) as progress:
                status = conduct(plan, data_set, folder, progress, description | {"advice": advice})
        except BaseException:
            _remove_if_empty(folder)
            raise
        if status in COMPLETE and newest:
            _point_latest(folder.parent, folder)
        tripped = _write_report(folder, console)
    return 1 if tripped or status not in COMPLETE else 0


def report(folder: Path, console: Console) -> int:
    """Write the report of a run from its journal; return 1 when something failed or a gate tripped, else 0."""
    from jinja2 import TemplateError

    try:
        return _write_report(folder, console)
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, ValueError, TemplateError) as error:
        raise UserError(f"{folder}: this run is damaged ({type(error).__name__}: {error})") from error


def _write_report(folder: Path, console: Console) -> int:
    """Render everything, then write: a run that can't be read leaves its folder as it was."""
    from bench.analysis.speedups import Run
    from bench.report import page, plots, summary, tables

    measured = Run(folder)
    arms, drawn = tables.arm_rows(measured), plots.render(measured)
    texts = tables.render(measured, arms) | page.render(measured, arms, drawn)
    write_pages(folder, texts, drawn)
    summary.closing(measured, console)
    return 1 if summary.troubles(measured) else 0


def _remove_if_empty(folder: Path) -> None:
    """Leave nothing behind of a run in which nothing was measured."""
    journal = folder / JOURNAL
    if not journal.exists() or not journal.stat().st_size:
        shutil.rmtree(folder)


def list_everything(console: Console) -> None:
    """Print the suites, presets, stacks with their variants, models and recipes."""
    for title, rows in _inventory().items():
        table = Table(
            title=title, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2)
        )
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table, "")


def _inventory() -> dict[str, list[tuple[str, str]]]:
    public = [stack for stack in stacks().values() if not stack.internal]
    return {
        "Suites (--suite)": [(name, load_suite(name).summary) for name in suite_names()],
        "Presets (--preset)": [(preset.name, preset.summary) for preset in PRESETS.values()],
        "Stacks (--stack)": [(stack.name, f"{stack.summary}; environment {stack.environment}") for stack in public],
        "Variants": [
            (f"{stack.name}/{name}", f"{variant.summary} [{', '.join(variant.precisions)}]")
            for stack in public
            for name, variant in stack.variants.items()
        ],
        "Environment settings (+NAME behind an arm of a suite)": [
            (each.name, each.summary) for each in SETTINGS.values()
        ],
        "Models (--model)": [
            (network.name, f"{network.parameters:,} parameters; {network.summary}") for network in NETWORKS.values()
        ],
        "Recipes (train --recipe)": [
            (recipe.name, f"{recipe.network}, batch {recipe.batch_size}; {recipe.summary}")
            for recipe in map(load_recipe, recipe_names())
        ],
    }


def show_models(name: str, console: Console) -> None:
    """Print the layers of one model, or of all."""
    if name and name not in NETWORKS:
        raise unknown("model", name, NETWORKS)
    for network in [NETWORKS[name]] if name else NETWORKS.values():
        console.print(_layer_table(network))
        trained = f"{network.trainable_parameters:,} of them trainable"
        console.print(f"Total parameters: {network.parameters:,}, {trained}")
        console.print(f"Multiply-adds per image: {network.multiply_adds:,}")
        console.print(f"Digest of the specification: {network.digest[:16]}")


def _layer_table(network: Network) -> Table:
    table = Table("Layer", "Type", title=f"{network.name}: {network.summary}")
    for column in ("Output shape", "Parameters", "Multiply-adds"):
        table.add_column(column, justify="right")
    for placed in network.place():
        shape = f"({', '.join(('N', *map(str, placed.output_shape)))})"
        table.add_row(placed.name, placed.kind, shape, f"{placed.parameters:,}", f"{placed.multiply_adds:,}")
    return table


def _plan(choice: RunOptions) -> Plan:
    preset = find_preset(choice.preset)
    if not -1 <= choice.seed <= MAX_SEED:
        raise UserError(f"--seed {choice.seed}: allowed: 0 to {MAX_SEED}, or -1 to draw one")
    suite = _suite(choice)
    seed = choice.seed if choice.seed >= 0 else secrets.randbelow(MAX_SEED)
    plan = make_plan(suite, preset, seed, max(_threads(choice)))
    if not plan.environments:
        raise UserError("no stack can be measured: " + "; ".join(plan.missing.values()))
    if not any(takes_part(arm, case) for arm in suite.measured for case in suite.cases):
        raise UserError(f"suite {suite.name}: none of the arms chosen takes part in {', '.join(suite.scenarios)}")
    if plan.missing and (choice.stacks or choice.environments):
        raise UserError("; ".join(plan.missing.values()))
    return plan


def _suite(choice: RunOptions) -> Suite:
    suite = load_suite(choice.suite)
    wanted, environments = names_of("--stack", choice.stacks), names_of("--environments", choice.environments)
    for name in environments:
        if name not in environment_names():
            raise unknown("environment", name, environment_names())
    for name in wanted:
        home = find_stack(name).environment
        if environments and home not in environments:
            raise UserError(f"--stack {name}: is not in the environments {', '.join(environments)}")
    inside = [arm.stack for arm in suite.uses if find_stack(arm.stack).environment in environments]
    if environments and not inside:
        raise UserError(f"suite {suite.name} has no stack in the environments {', '.join(environments)}")
    models, precisions = names_of("--model", choice.models), names_of("--precision", choice.precisions)
    batch_sizes, threads = _numbers("--batch-size", choice.batch_sizes), _threads(choice)
    sweep = threads if len(threads) > 1 else []
    return narrow(suite, models, batch_sizes, precisions, wanted or inside, sweep)


def _threads(choice: RunOptions) -> list[int]:
    """Return the counts of threads to measure with, each once; several are a sweep."""
    return list(dict.fromkeys(map(chosen_threads, _numbers("--threads", choice.threads) or [0])))


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(name) for name in names_of(option, text)]
    except ValueError as error:
        raise UserError(f"{option} {text}: allowed: whole numbers, separated by commas") from error


def new_folder(results: Path, name: str, suite: Suite) -> Path:
    """Make the folder of a run, named after its suite and the time unless it has a name.

    Raises UserError when there is one of that name, or when it can't be made.
    """
    name = name or f"{suite.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    require_name(name)
    folder, link = results / name, results / LATEST
    if link.exists() and not link.is_symlink():
        raise UserError(f"{link}: is not a link to a run; move it away, or choose another --results")
    try:
        results.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except FileExistsError as error:
        raise UserError(f"{error.filename}: exists already; choose another --name or --results") from error
    except OSError as error:
        raise UserError(f"{folder}: can't be made ({error.strerror}); name a writable folder with --results") from error
    return folder


def _point_latest(results: Path, folder: Path) -> None:
    """Let results/latest point to the run, without a moment in which it points nowhere."""
    link = results / f".{LATEST}.{folder.name}"
    link.symlink_to(folder.name)
    link.replace(results / LATEST)
