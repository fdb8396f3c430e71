"""What the command does that sets published claims beside what is measured here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from backends.registry import stacks
from bench.analysis.claims import (
    CLAIMS,
    OPEN,
    Accuracy,
    ClaimResult,
    Ratio,
    TrainedModel,
    counts,
    judge,
    needed,
)
from bench.analysis.run import Run
from bench.commands import run, train
from bench.journal import write_whole
from bench.run_info import RUN, read_run
from bench.suite.environments import is_installed
from bench.training.history import TRAINING_FILE, is_complete, kept_epoch, read_history, read_training
from models.errors import UserError
from models.recipes.parse import load_recipe, recipe_names

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from bench.training.history import Epoch
    from models.recipes import Recipe

TABLE, PAGE = "claims.csv", "claims.md"
# What trains a recipe whose accuracy is claimed: the first that is installed, in the order of the reports.
TRAINERS = {"vgg": ("itex", "tensorflow", "ipex", "pytorch"), "bn": ("itex", "tensorflow", "ipex", "pytorch")}
OTHER_TRAINERS = ("ipex", "pytorch", "itex", "tensorflow")
RULE = (
    "A claimed ratio is reproduced where the measured interval reaches it, both sides on this machine at the same "
    "time; a claimed accuracy where the mean is no more than two standard errors of the test images below it."
)
STYLES = {"reproduced": "green", "not reproduced": "red"}


def claims(*, measure: bool, preset: str, results: Path, source: str, console: Console, argv: list[str]) -> int:
    """Measure what is missing unless told not to, judge all claims, write the table; return 1 while some are open."""
    if measure:
        _require_real_data(source)
        _measure_missing(preset, results, source, console, argv)
    runs, trained = newest_runs(results), trainings(results)
    findings = [judge(claim, runs, trained) for claim in CLAIMS]
    results.mkdir(parents=True, exist_ok=True)
    write_whole(results / TABLE, _csv(findings))
    write_whole(results / PAGE, _markdown(findings))
    console.print(_table(findings))
    console.print(f"table: {results / TABLE}, {results / PAGE}", markup=False, highlight=False, soft_wrap=True)
    return 1 if any(each.verdict.startswith(OPEN) for each in findings) else 0


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
        if not (published and is_complete(folder) and history and job.data.name == "fashion-mnist"):
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


def _measure_missing(preset: str, results: Path, source: str, console: Console, argv: list[str]) -> None:
    """Make the runs and trainings that are not there yet; what was interrupted goes on."""
    present, trained = newest_runs(results), trainings(results)
    for suite in needed(CLAIMS, Ratio):
        if suite not in present:
            console.print(f"measuring suite {suite}, preset {preset}", style="bold", highlight=False)
            choice = run.RunOptions(suite, preset, "", "", "", "", "", "", source, -1)
            run.run(choice, results, "", console, argv)
            if suite not in newest_runs(results):  # interrupted, or with a preset that claims nothing
                return
    for name in needed(CLAIMS, Accuracy):
        if name not in trained:
            stack = _trainer(name)
            console.print(f"training recipe {name} on {stack}", style="bold", highlight=False)
            wish = train.TrainOptions(name, stack, "", "fp32", load_recipe(name).epochs, 0, 0, source)
            train.train(wish, results, "", "", console, argv)


def _require_real_data(source: str) -> None:
    from models import data

    if data.load(source).name != "fashion-mnist":
        raise UserError(
            f"--data {source}: claims are about Fashion-MNIST; --only-read judges by what was measured on it"
        )


def _trainer(recipe: str) -> str:
    for name in TRAINERS.get(recipe, OTHER_TRAINERS):
        if is_installed(stacks()[name]):
            return name
    raise UserError("no stack that trains is installed; make an environment: tox -e vanilla --notest")


def _rows(findings: list[ClaimResult]) -> list[dict[str, str]]:
    return [
        {
            "source": each.claim.source,
            "claim": each.claim.statement,
            "measured": each.measured,
            "verdict": each.verdict,
            "from": each.origin,
        }
        for each in findings
    ]


def _csv(findings: list[ClaimResult]) -> str:
    import pandas as pd

    return pd.DataFrame(_rows(findings)).to_csv(index=False)


def _markdown(findings: list[ClaimResult]) -> str:
    from bench.report.page import markdown_cell

    lines = [
        "# Published claims, and what is measured here",
        "",
        RULE,
        "",
        "| Source | Claim | Measured here | Verdict | From |",
        "|---|---|---|---|---|",
    ]
    rows = (" | ".join(markdown_cell(value) for value in row.values()) for row in _rows(findings))
    return "\n".join([*lines, *(f"| {row} |" for row in rows)]) + "\n"


def _table(findings: list[ClaimResult]) -> Table:
    table = Table("Source", "Claim", "Measured here", "Verdict", show_lines=True)
    for each in findings:
        style = STYLES.get(each.verdict.partition(":")[0], "")
        cells = (each.claim.source, each.claim.statement, each.measured)
        table.add_row(*map(Text, cells), Text(each.verdict, style))
    return table
