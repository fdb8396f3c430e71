"""`bench run` and `bench report`."""

from __future__ import annotations

import secrets
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.folders import link_latest, run_folder
from bench.commands.provenance import provenance
from bench.engine import cache
from bench.machine.facts import usable_cores
from bench.suite.plan import Plan, make_plan
from bench.suite.schedule import MAX_SEED
from bench.suite.suite import Suite, narrow, takes_part
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from bench.suite.schedule import Preset

COMPLETE = ("complete", "settled")


@dataclass(frozen=True)
class RunOptions:
    """What to measure; empty tuples leave the suite as it is, and its stacks those that are installed."""

    suite: Suite
    preset: Preset
    stacks: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    precisions: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    data: str = "auto"
    seed: int | None = None
    results: Path = Path("results")
    name: str | None = None


def run(options: RunOptions, console: Console) -> int:
    """Measure and report; return 1 if something failed or a gate tripped, else 0."""
    return measure(plan_run(options), options.data, options.results, options.name, console)


def plan_run(options: RunOptions) -> Plan:
    """Return the plan; raises UserError if nothing can be measured, or not all that was named."""
    threads = options.threads or (usable_cores(),)
    suite = narrow(
        options.suite,
        models=options.models,
        batch_sizes=options.batch_sizes,
        precisions=options.precisions,
        chosen_stacks=options.stacks,
        environments=options.environments,
        threads=threads if len(threads) > 1 else (),
    )
    seed = secrets.randbelow(MAX_SEED) if options.seed is None else options.seed
    plan = make_plan(suite, options.preset, seed, max(threads))
    if not plan.environments:
        raise UserError("no stack can be measured: " + "; ".join(plan.missing.values()))
    if not any(takes_part(arm, case) for arm in suite.measured for case in suite.cases):
        raise UserError(f"suite {suite.name}: none of the chosen arms takes part in {', '.join(suite.scenarios)}")
    if plan.missing and (options.stacks or options.environments):
        raise UserError("; ".join(plan.missing.values()))
    return plan


def measure(
    plan: Plan, source: str, results: Path, name: str | None, console: Console, *, is_latest: bool = True
) -> int:
    """Measure into a new folder and report; return the exit status. `is_latest` lets results/latest point to it."""
    from bench.console import steps
    from bench.engine.run import conduct, describe
    from bench.machine.diagnosis import disturbances
    from bench.report import summary
    from models import data

    origin, name = provenance(), name or f"{plan.suite.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    with first_interrupt_only():
        with run_folder(results, name) as folder:
            cache.require_writable()
            data_set = data.load(source)
            advice = tuple(finding.line for finding in disturbances(plan.threads))
            summary.opening(plan, data_set, advice, console)
            with steps(console, plan.weight) as progress:
                status = conduct(plan, data_set, folder, progress, describe(plan, data_set, origin, advice))
        if status in COMPLETE and is_latest:
            link_latest(folder)
        tripped = write_report(folder, console)
    return 1 if tripped or status not in COMPLETE else 0


def report(folder: Path, console: Console) -> int:
    """Report a run again from its files; return 1 if something failed or a gate tripped, else 0."""
    try:
        return write_report(folder, console)
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, ValueError) as error:
        raise UserError(f"{folder}: this run is damaged ({type(error).__name__}: {error})") from error


@contextmanager
def first_interrupt_only() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into KeyboardInterrupt, and ignore later ones.

    The end of an interrupted run (workers are stopped, the report is written) must survive an impatient second signal,
    and the copy that tox sends.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)

    def interrupt(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
