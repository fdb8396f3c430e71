"""`bench doctor`."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from backends.registry import stacks
from bench.console import WARNING, say, say_anyway
from bench.exports.outputs import DoctorOutput, show_output
from bench.machine.diagnosis import Finding, compiling, current_findings, static_findings
from bench.report.document import Cell, Column, table
from bench.report.text import variable_facts
from bench.report.writers import print_table
from bench.suite.environments import MissingEnvironmentError, environment_of, environments_dir, is_installed
from bench.suite.user_variables import UserVariables, user_variables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from backends.protocol import Stack

FINDING_COLUMNS: tuple[Column[Finding], ...] = (
    Column("", lambda finding: "!" if finding.advice else "ok", " ", lambda mark: Cell(mark, mark), numeric=False),
    Column("", lambda finding: finding.what, "What", numeric=False),
    Column("", lambda finding: finding.value, "Value", numeric=False),
)


def examine_machine(console: Console) -> None:
    """Show all findings and, after them, what to do about those that disturb or prevent measurements."""
    findings = (
        *static_findings(),
        *current_findings(),
        variables_finding(user_variables()),
        *environment_findings(),
        *compile_findings(),
    )
    print_table(table(findings, FINDING_COLUMNS, title="This machine"), console)
    advised = [finding for finding in findings if finding.advice]
    if advised:
        say(console, "What to do, so that measurements work and are precise", "bold")
    for finding in advised:
        say_anyway(console, f"! {finding.line}", WARNING)
    if not advised:
        say_anyway(console, "Nothing here disturbs measurements.")
    show_output(console, "doctor", 0, DoctorOutput(findings))


def variables_finding(variables: UserVariables) -> Finding:
    advice = "--env NAME=VALUE sets one for all arms alike" if variables.dropped else ""
    return Finding("Environment variables", "; ".join(variable_facts(variables)) or "none that change results", advice)


def compile_findings() -> list[Finding]:
    """Return whether torch.compile works in each environment whose stacks use it, or at all if there is none."""
    compiled = [stack for stack in stacks().values() if any(variant.compiles for variant in stack.variants.values())]
    folders: list[Path | None] = [environment_of(stack).folder for stack in compiled if is_installed(stack)]
    return list(dict.fromkeys(map(compiling, folders or [None])))


def environment_findings() -> Iterator[Finding]:
    """Yield what is installed in each environment, or the command that mends it; those that are absent come last."""
    members: dict[str, list[Stack]] = defaultdict(list)
    for stack in stacks().values():
        if not stack.internal and stack.environment:
            members[stack.environment].append(stack)
    absent = [name for name in members if not (environments_dir() / name).exists()]
    for name, own in members.items():
        if name in absent:
            continue
        versions, faults = dict[str, None](), dict[str, None]()
        for stack in own:
            try:
                packages = environment_of(stack).packages
                versions |= dict.fromkeys(f"{key} {packages[key]}" for key in stack.packages if key in packages)
            except MissingEnvironmentError as error:
                faults[str(error)] = None
        for fault in faults:
            value, _, advice = fault.partition("; ")
            yield Finding(f"Environment {name}", value, advice)
        if versions:
            yield Finding(f"Environment {name}", ", ".join(versions))
    if absent:
        remedy = f"make those you need: tox -e {','.join(absent)} --notest"
        yield Finding("Environments not there", ", ".join(absent), remedy)
