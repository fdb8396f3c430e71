"""`bench run` and `bench report`."""

from __future__ import annotations

import secrets
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.folders import (
    default_run_name,
    earlier_records,
    interrupted_run,
    kept_records,
    link_latest,
    refusing_damage,
    run_folder,
)
from bench.machine.facts import usable_cores
from bench.records import INTERRUPTED
from bench.run_info import read_run
from bench.suite.arms import BEST_THREADS, TRAINING
from bench.suite.plan import Plan, make_plan
from bench.suite.schedule import MAX_SEED
from bench.suite.suite import Suite, narrow, takes_part, variant_of
from bench.suite.user_variables import UserVariables
from models.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from bench.analysis.latency import Rule
    from bench.analysis.run import Run
    from bench.machine.diagnosis import Finding
    from bench.suite.schedule import Preset


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
    # The name of a run to go on with.
    resume: str | None = None
    variables: UserVariables = field(default_factory=UserVariables)


def run_suite(options: RunOptions, console: Console) -> int:
    """Measure and report; return 1 if something failed or a gate tripped, else 0."""
    status, run = measure_suite(options, console)
    from bench.exports.outputs import run_output, show_output

    show_output(console, "run", status, run_output(run))
    return status


def measure_suite(options: RunOptions, console: Console) -> tuple[int, Run]:
    """Measure and report; return the exit status and the run."""
    if options.resume and options.seed is not None:
        raise UserError("--seed and --resume: give one of them; a run goes on with its own seed")
    if options.name and options.resume:
        raise UserError("--name and --resume: give one of them; --resume takes the name of the unfinished run")
    plan = plan_run(options)
    name = options.resume or options.name or default_run_name(plan.suite.name)
    return measure(plan, options.data, options.results, name, console, resumed=options.resume is not None)


def plan_run(options: RunOptions) -> Plan:
    """Return the plan; raises UserError if nothing can be measured, or not all that was named."""
    threads = options.threads or (usable_cores(),)
    if BEST_THREADS in threads and TRAINING in options.suite.scenarios:
        raise UserError(f"--threads best: suite {options.suite.name} trains; allowed: whole numbers")
    suite = narrow(
        options.suite,
        models=options.models,
        batch_sizes=options.batch_sizes,
        precisions=options.precisions,
        chosen_stacks=options.stacks,
        environments=options.environments,
        threads=threads if len(threads) > 1 or BEST_THREADS in threads else (),
        limits=options.limits,
    )
    seed = options.seed
    if options.resume is not None:
        seed = read_run(interrupted_run(options.results, options.resume)).seed
    elif seed is None:
        seed = secrets.randbelow(MAX_SEED)
    most = usable_cores() if BEST_THREADS in threads else max(threads)
    plan = make_plan(suite, options.preset, seed, most, options.variables)
    if not plan.environments:
        raise UserError("no stack can be measured: " + "; ".join(plan.missing.values()))
    if not any(takes_part(arm, case) for arm in suite.measured for case in suite.cases):
        raise UserError(f"suite {suite.name}: none of the chosen arms takes part in {', '.join(suite.scenarios)}")
    if plan.missing and (options.stacks or options.environments):
        raise UserError("; ".join(plan.missing.values()))
    return plan


def measure(
    plan: Plan,
    source: str,
    results: Path,
    name: str,
    console: Console,
    *,
    is_latest: bool = True,
    resumed: bool = False,
) -> tuple[int, Run]:
    """Measure into a new folder, or go on in that of an unfinished run, and report; return the exit status and the run.

    `is_latest` lets results/latest point to it.
    """
    from bench.cache import require_writable
    from bench.console import say, steps
    from bench.engine.describe import origin_of_now
    from bench.engine.run import measure_run, total_weights
    from bench.engine.workers import timeout_factor
    from bench.lock import only_measurement
    from bench.machine.diagnosis import disturbances
    from bench.report.run_report import exit_status, opening, write_report
    from models.data import load

    with (
        only_measurement(results / name),
        nullcontext(earlier_records(interrupted_run(results, name)) if resumed else []) as earlier,
        nullcontext(results / name) if resumed else run_folder(results, name) as folder,
        kept_records(folder),
    ):
        require_writable()
        timeout_factor()
        data = load(source)
        advice = tuple(finding.line for finding in (*disturbances(plan.threads), *compile_obstacles(plan)))
        opening(plan, data, advice, console)
        with steps(console, total_weights(plan, earlier)) as progress:
            status = measure_run(plan, data, folder, progress, origin_of_now(advice), earlier if resumed else None)
    say(console, "writing the report")
    with kept_records(folder):
        run = write_report(folder, console)
    # Last, because a file system may have no links.
    if status != INTERRUPTED and is_latest:
        link_latest(folder, console)
    return 1 if status == INTERRUPTED else exit_status(run), run


def compile_obstacles(plan: Plan) -> list[Finding]:
    """Return why arms of a plan that compile can't be measured, once for each reason."""
    from bench.machine.diagnosis import compiling

    compiled = [arm for arm in plan.arms if variant_of(arm).compiles]
    findings = [compiling(plan.environments[arm.stack].folder) for arm in compiled]
    return list(dict.fromkeys(finding for finding in findings if finding.advice))


def report_run(folder: Path, rule: Rule | None, console: Console) -> int:
    """Report a run again from its files; return 1 if something failed or a gate tripped, else 0.

    `rule` replaces the run's own rule for latencies.
    """
    from bench.exports.outputs import run_output, show_output
    from bench.report.run_report import exit_status, write_report

    with refusing_damage(folder):
        run = write_report(folder, console, rule)
        status = exit_status(run)
        show_output(console, "report", status, run_output(run))
    return status
