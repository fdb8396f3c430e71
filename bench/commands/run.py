"""`bench run` and `bench report`."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.folders import default_run_name, link_latest, refusing_damage, run_folder
from bench.commands.origin import origin_of_now
from bench.machine.facts import usable_cores
from bench.suite.plan import Plan, make_plan
from bench.suite.schedule import MAX_SEED
from bench.suite.suite import Suite, narrow, takes_part
from models.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from bench.analysis.latency import Rule
    from bench.suite.schedule import Preset

COMPLETE = ("complete", "settled")


@dataclass(frozen=True)
class RunOptions:
    """What to measure; an empty tuple means the suite's own values, and every stack that is installed."""

    suite: Suite
    preset: Preset
    stacks: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    precisions: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    limits: tuple[str, ...] = ()
    data: str = "auto"
    seed: int | None = None
    results: Path = Path("results")
    name: str | None = None


def run_suite(options: RunOptions, console: Console) -> int:
    """Measure and report; return 1 if something failed or a gate tripped, else 0."""
    plan = plan_run(options)
    name = options.name or default_run_name(plan.suite.name)
    return measure(plan, options.data, options.results, name, console)


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
        limits=options.limits,
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


def measure(plan: Plan, source: str, results: Path, name: str, console: Console, *, is_latest: bool = True) -> int:
    """Measure into a new folder and report; return the exit status. `is_latest` lets results/latest point to it."""
    from bench.console import steps
    from bench.engine.cache import require_writable
    from bench.engine.run import first_interrupt_only, measure_run, total_weights
    from bench.machine.diagnosis import disturbances
    from bench.report.run_report import opening, write_report
    from models.data import load

    with first_interrupt_only():
        with run_folder(results, name) as folder:
            require_writable()
            data = load(source)
            advice = tuple(finding.line for finding in disturbances(plan.threads))
            opening(plan, data, advice, console)
            with steps(console, total_weights(plan)) as progress:
                status = measure_run(plan, data, folder, progress, origin_of_now(advice))
        if status in COMPLETE and is_latest:
            link_latest(folder)
        tripped = write_report(folder, console)
    return 1 if tripped or status not in COMPLETE else 0


def report_run(folder: Path, rule: Rule | None, console: Console) -> int:
    """Report a run again from its files; return 1 if something failed or a gate tripped, else 0.

    `rule` replaces the run's own rule for latencies.
    """
    from bench.report.run_report import write_report

    with refusing_damage(folder):
        return write_report(folder, console, rule)
