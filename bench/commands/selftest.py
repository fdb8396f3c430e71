"""What `bench selftest` does."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from bench.codec import encode
from bench.commands import run
from bench.commands.options import chosen_threads
from bench.suite.environments import environment_of, find_stack
from bench.suite.plan import make_plan
from bench.suite.schedule import MAX_SEED, PRESETS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from bench.analysis.selftest import Trial

TABLE, PRESET = "selftest.json", "selftest"


def selftest(stack: str, results: Path, name: str, console: Console, command: Sequence[str]) -> int:
    """Measure known differences, print PASS or FAIL with figures, and store them; return 1 when something failed."""
    from bench.analysis.run import Run
    from bench.analysis.selftest import default_arm, default_stack, make_suite, trials
    from bench.journal import write_whole

    stack = stack or default_stack()
    environment_of(find_stack(stack))  # there, before anything is written
    threads = list(dict.fromkeys((1, chosen_threads(0))))
    suite, seed = make_suite(default_arm(stack), threads), secrets.randbelow(MAX_SEED)
    plan = make_plan(suite, PRESETS[PRESET], seed, max(threads))
    folder = run.new_folder(results, name, suite)
    status = run.measure(plan, "synthetic", folder, console, command, newest=False)
    measured = Run(folder)
    found = trials(measured)
    content = {"machine": encode(measured.info.machine), "trials": list(map(asdict, found))}
    write_whole(folder / TABLE, json.dumps(content, indent=1) + "\n")
    console.print(_table(found))
    console.print(f"stored: {folder / TABLE}", markup=False, highlight=False, soft_wrap=True)
    return max(status, int(not all(each.passed for each in found)))


def _table(found: list[Trial]) -> Table:
    titled: Any = {"title": "Selftest", "title_justify": "left", "title_style": "bold", "box": None}
    table = Table("", "What", "Found", "Should be", **titled)
    for each in found:
        word = Text("PASS", "bold green") if each.passed else Text("FAIL", "bold red")
        table.add_row(word, Text(each.what), Text(each.found), Text(each.wanted))
    return table
