"""`bench claims`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.registry import stacks
from bench.analysis.claims import (
    CLAIMS,
    OPEN,
    Accuracy,
    Ratio,
    TrainedModel,
    counts,
    judge_claim,
    needed,
)
from bench.analysis.run import Run
from bench.commands.run import RunOptions, measure_suite
from bench.commands.train import TrainOptions, train_model
from bench.console import say
from bench.exports.outputs import ClaimsOutput, as_rows, show_output
from bench.journal import RUN, write_atomically
from bench.machine.facts import usable_cores
from bench.report.claims import ACCURACY_RULE, CLAIM_COLUMNS, SPEEDUP_RULE
from bench.report.document import Paragraph, Section, table
from bench.report.writers import print_table, section_to_markdown, to_csv
from bench.run_info import read_run
from bench.suite.environments import is_installed
from bench.suite.parse import load_suite
from bench.suite.user_variables import user_variables
from bench.training.history import TRAINING_FILE, is_complete, kept_epoch, read_history, read_training
from models.errors import UserError
from models.recipes.parse import load_recipe, recipe_names

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from backends.protocol import Stack
    from bench.suite.schedule import Preset
    from bench.training.history import Epoch
    from models.recipes import Recipe

CLAIMS_TABLE, CLAIMS_PAGE = "claims.csv", "claims.md"


def compare_claims(preset: Preset | None, results: Path, source: str, console: Console) -> int:
    """Compare all claims with the runs and trainings in `results`; return 1 while some have none.

    With a preset, missing runs and trainings are measured first.
    """
    if preset is None and not results.is_dir():
        raise UserError(f"{results}: no such folder; name the one with runs and trainings, or leave out --only-read")
    if preset:
        _require_real_data(source)
        _measure_missing(preset, results, source, console)
    runs, trained = newest_runs(results), trainings(results)
    outcomes = [judge_claim(claim, runs, trained) for claim in CLAIMS]
    results.mkdir(parents=True, exist_ok=True)
    write_atomically(results / CLAIMS_TABLE, to_csv(outcomes, CLAIM_COLUMNS))
    page = Section(
        "Published claims, and what is measured here",
        (Paragraph(f"{SPEEDUP_RULE} {ACCURACY_RULE}"), table(outcomes, CLAIM_COLUMNS)),
    )
    write_atomically(results / CLAIMS_PAGE, section_to_markdown(page))
    print_table(table(outcomes, [column for column in CLAIM_COLUMNS if column.brief]), console, lines=True)
    say(console, f"table: {results / CLAIMS_TABLE}, {results / CLAIMS_PAGE}")
    status = 1 if any(outcome.verdict.startswith(OPEN) for outcome in outcomes) else 0
    files = str(results / CLAIMS_TABLE), str(results / CLAIMS_PAGE)
    show_output(console, "claims", status, ClaimsOutput(files, as_rows(outcomes, CLAIM_COLUMNS)))
    return status


def newest_runs(results: Path) -> dict[str, Run]:
    """Return the newest run of each suite that claims are tested with."""
    suites, newest = needed(CLAIMS, Ratio), dict[str, Run]()
    for file in results.glob(f"*/{RUN}"):
        folder = file.parent
        try:
            # The journal of a run is large: read it last.
            if folder.is_symlink() or (info := read_run(folder)).suite.name not in suites:
                continue
            before = newest.get(info.suite.name)
            if (before is None or info.started > before.info.started) and counts(run := Run(folder)):
                newest[info.suite.name] = run
        except UserError:
            continue
    return newest


def trainings(results: Path) -> dict[str, dict[str, TrainedModel]]:
    """Return by recipe and folder the finished trainings with a published recipe on the real data.

    Of each recipe only those that trained for the most epochs count, up to as many as the recipe asks for.
    """
    trained: dict[str, dict[str, TrainedModel]] = {}
    longest: dict[str, int] = {}
    for file in sorted(results.glob(f"*/{TRAINING_FILE}")):
        folder = file.parent
        try:
            job, history = read_training(folder).job, read_history(folder)
        except UserError:
            continue
        recipe = job.recipe
        published = recipe.name in recipe_names() and recipe == load_recipe(recipe.name)
        if not (published and is_complete(folder) and history and job.epochs > 0 and job.data.name == "fashion-mnist"):
            continue
        epochs = min(job.epochs, recipe.epochs)
        if epochs > longest.get(recipe.name, 0):
            trained[recipe.name], longest[recipe.name] = {}, epochs
        if epochs == longest[recipe.name]:
            trained[recipe.name][folder.name] = trained_model(recipe, history)
    return trained


def trained_model(recipe: Recipe, history: list[Epoch]) -> TrainedModel:
    """Return the accuracy of the epoch whose weights the training kept."""
    return TrainedModel(history[kept_epoch(recipe, history)].test_accuracy, len(history))


def _require_real_data(source: str) -> None:
    from models.data import load

    if load(source).name != "fashion-mnist":
        raise UserError(
            f"--data {source}: claims are about Fashion-MNIST; --only-read uses what was measured on it before"
        )


def _measure_missing(preset: Preset, results: Path, source: str, console: Console) -> None:
    """Measure the missing runs and trainings; interrupted trainings continue."""
    present, trained = newest_runs(results), trainings(results)
    for suite in needed(CLAIMS, Ratio):
        if suite not in present:
            say(console, f"measuring suite {suite}, preset {preset.name}", "bold")
            options = RunOptions(load_suite(suite), preset, data=source, results=results, variables=user_variables())
            measure_suite(options, console)
            # It was interrupted, or the preset claims nothing.
            if suite not in newest_runs(results):
                return
    for name in needed(CLAIMS, Accuracy):
        if name not in trained:
            stack = _trainer(name)
            say(console, f"training recipe {name} on {stack.name}", "bold")
            recipe, variables = load_recipe(name), user_variables()
            train_model(
                TrainOptions(recipe, stack, usable_cores(), data=source, results=results, variables=variables),
                None,
                console,
            )


def _trainer(recipe: str) -> Stack:
    """Return the first installed stack of those that claims name: first the recipe's own, then its baselines."""
    criteria = [claim.criterion for claim in CLAIMS if isinstance(claim.criterion, Accuracy)]
    criteria.sort(key=lambda criterion: criterion.recipe != recipe)
    for criterion in criteria:
        extension = stacks()[criterion.stack]
        for stack in (extension, *(stacks()[name] for name in extension.baselines)):
            if is_installed(stack):
                return stack
    raise UserError("no stack that trains is installed; make an environment: tox -e vanilla --notest")
