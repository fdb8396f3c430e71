"""What the command does that sets published claims beside what is measured here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from backends.registry import stacks
from bench.analysis.claims import CLAIMS, OPEN, Accuracy, Finding, Ratio, judge, needed, newest_runs, trainings
from bench.commands import run, train
from bench.journal import write_whole
from bench.suite.environments import is_installed
from models.errors import UserError
from models.recipes.parse import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

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


def _rows(findings: list[Finding]) -> list[dict[str, str]]:
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


def _csv(findings: list[Finding]) -> str:
    import pandas as pd

    return pd.DataFrame(_rows(findings)).to_csv(index=False)


def _markdown(findings: list[Finding]) -> str:
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


def _table(findings: list[Finding]) -> Table:
    table = Table("Source", "Claim", "Measured here", "Verdict", show_lines=True)
    for each in findings:
        style = STYLES.get(each.verdict.partition(":")[0], "")
        cells = (each.claim.source, each.claim.statement, each.measured)
        table.add_row(*map(Text, cells), Text(each.verdict, style))
    return table
