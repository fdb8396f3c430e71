"""`bench run` and `bench report`."""

from __future__ import annotations

import secrets
import shlex
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.folders import (
    MEASURING,
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
from bench.suite.parse import MAX_WORKERS
from bench.suite.plan import Plan, make_plan
from bench.suite.schedule import MAX_SEED
from bench.suite.suite import Suite, narrow, takes_part, variant_of
from bench.suite.user_variables import UserVariables
from bench.worker.network import LOOPBACK, address_of
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
    workers: tuple[int, ...] = ()
    interface: str | None = None
    # Commands through which the ranks of a group start, in turn.
    places: tuple[str, ...] = ()
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
    _check_groups(options)
    threads = options.threads or (default_threads(options),)
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
    if options.workers:
        # Efficiency compares with one worker.
        suite = replace(suite, workers=tuple(sorted({1, *options.workers})))
    seed = options.seed
    if options.resume is not None:
        seed = read_run(interrupted_run(options.results, options.resume)).seed
    elif seed is None:
        seed = secrets.randbelow(MAX_SEED)
    most = usable_cores() if BEST_THREADS in threads else max(threads)
    plan = make_plan(suite, options.preset, seed, most, options.variables)
    if suite.workers:
        places = tuple(tuple(shlex.split(place)) for place in options.places)
        plan = replace(plan, interface=options.interface or LOOPBACK, places=places)
        _check_division(plan)
    if not plan.environments:
        raise UserError("no stack can be measured: " + "; ".join(plan.missing.values()))
    if not any(takes_part(arm, case) for arm in suite.measured for case in suite.cases):
        raise UserError(f"suite {suite.name}: none of the chosen arms takes part in {', '.join(suite.scenarios)}")
    if plan.missing and (options.stacks or options.environments):
        raise UserError("; ".join(plan.missing.values()))
    return plan


def default_threads(options: RunOptions) -> int:
    """Return the number of usable cores, divided among the workers that train together."""
    return max(1, usable_cores() // max((1, *(options.workers or options.suite.workers))))


def _check_groups(options: RunOptions) -> None:
    """Raise UserError for options of workers that train together if the suite has none, or that can't be followed."""
    given = {"--workers": options.workers, "--interface": options.interface, "--place": options.places}
    if odd := [name for name, value in given.items() if value and not options.suite.workers]:
        raise UserError(f"{odd[0]}: suite {options.suite.name} has no workers that train together; allowed: scaling")
    if options.suite.workers and (len(options.threads) > 1 or BEST_THREADS in options.threads):
        raise UserError("--threads: with workers that train together, give one number: the cores of each worker")
    if odd_counts := [count for count in options.workers if not 1 <= count <= MAX_WORKERS]:
        raise UserError(f"--workers {odd_counts[0]}: allowed: 1 to {MAX_WORKERS}")
    if options.interface and not options.places:
        try:
            address_of(options.interface)
        except UserError as error:
            raise UserError(f"--interface {options.interface}: {error}") from error
    for place in options.places:
        try:
            words = shlex.split(place)
        except ValueError as error:
            raise UserError(f"--place {place}: {error}; allowed: a command such as 'ip netns exec NAME'") from error
        if not words or shutil.which(words[0]) is None:
            raise UserError(f"--place {place}: no such command; allowed: one such as 'ip netns exec NAME'")


def _check_division(plan: Plan) -> None:
    """Raise UserError if workers would have no cores of their own, or unequal shares of a batch."""
    most, cores = max(plan.suite.workers), usable_cores()
    if most * plan.threads > cores:
        raise UserError(
            f"{most} workers with {plan.threads} cores each need {most * plan.threads} cores, and {cores} are usable; "
            "allowed: fewer --workers or --threads"
        )
    for case in plan.suite.cases:
        for images in (case.global_batch_size, plan.epoch_images % case.global_batch_size):
            if images % case.workers:
                raise UserError(
                    f"{case.label}: a batch of {images} images can't be divided equally; allowed: a --batch-size and "
                    f"--workers that divide each other and the {plan.epoch_images} images of an epoch"
                )


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
    from bench.machine.diagnosis import disturbances
    from bench.processes.lock import only_command_in, only_measurement
    from bench.report.run_report import exit_status, opening, write_report
    from models.data import load
    from models.timeouts import timeout_factor

    with (
        only_measurement(results / name),
        nullcontext(interrupted_run(results, name)) if resumed else run_folder(results, name) as folder,
        only_command_in(folder),
        nullcontext(earlier_records(folder) if resumed else []) as earlier,
        kept_records(folder),
    ):
        require_writable()
        timeout_factor()
        data = load(source)
        advice = tuple(finding.line for finding in (*disturbances(plan.threads), *compile_obstacles(plan)))
        opening(plan, data, advice, console)
        with steps(console, total_weights(plan, earlier), may_end=bool(plan.preset.looks)) as progress:
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
    from bench.processes.lock import only_command_in
    from bench.report.run_report import exit_status, write_report

    # What is no folder is no run, which is said when it is read.
    alone = only_command_in(folder, MEASURING, shared=True) if folder.is_dir() else nullcontext()
    with refusing_damage(folder), alone:
        run = write_report(folder, console, rule)
        status = exit_status(run)
        show_output(console, "report", status, run_output(run))
    return status
