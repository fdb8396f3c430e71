"""`bench selftest`."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING

from bench.codec import encode
from bench.commands.folders import default_run_name
from bench.commands.run import measure
from bench.console import say, say_anyway
from bench.machine.facts import usable_cores
from bench.report.document import Cell, Column, table
from bench.report.writers import print_table
from bench.suite.environments import environment_of, find_stack
from bench.suite.plan import make_plan
from bench.suite.schedule import MAX_SEED, PRESETS

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from bench.analysis.selftest import Trial
    from bench.suite.user_variables import UserVariables

SELFTEST_FILE, PRESET = "selftest.json", "selftest"
TRIAL_COLUMNS: tuple[Column[Trial], ...] = (
    Column(
        "", lambda trial: "PASS" if trial.passed else "FAIL", "Result", lambda word: Cell(word, word), numeric=False
    ),
    Column("", lambda trial: trial.what, "What", numeric=False),
    Column("", lambda trial: trial.found, "Found", numeric=False),
    Column("", lambda trial: trial.wanted, "Should be", numeric=False),
)


def run_selftest(stack: str | None, results: Path, name: str | None, console: Console, variables: UserVariables) -> int:
    """Measure known differences; print and store PASS or FAIL for each trial; return 1 if something failed."""
    from bench.analysis.selftest import trials
    from bench.exports.outputs import SelftestOutput, show_output
    from bench.journal import write_atomically
    from bench.suite.selftest import default_arm, default_stack, make_suite

    stack = stack or default_stack()
    # Raises the error for a missing environment before anything is written.
    environment_of(find_stack(stack))
    threads = tuple(dict.fromkeys((1, usable_cores())))
    suite = make_suite(default_arm(stack), threads)
    plan = make_plan(suite, PRESETS[PRESET], secrets.randbelow(MAX_SEED), max(threads), variables)
    name = name or default_run_name(suite.name)
    status, run = measure(plan, "synthetic", results, name, console, is_latest=False)
    folder = results / name
    outcomes = trials(run)
    content = {"machine": encode(run.info.machine), "trials": [encode(trial) for trial in outcomes]}
    write_atomically(folder / SELFTEST_FILE, json.dumps(content, indent=1) + "\n")
    print_table(table(outcomes, TRIAL_COLUMNS, title="Selftest"), console)
    for trial in outcomes:
        if not trial.passed:
            say_anyway(console, f"FAIL: {trial.what}: {trial.found}, should be {trial.wanted}", "bold red")
    say(console, f"stored: {folder / SELFTEST_FILE}")
    status = status if all(trial.passed for trial in outcomes) else 1
    show_output(console, "selftest", status, SelftestOutput(str(folder), tuple(map(encode, outcomes))))
    return status
