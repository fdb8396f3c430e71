"""`bench doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.registry import stacks
from bench.console import WARNING, say
from bench.machine.diagnosis import Finding, compiling, current_findings, static_findings
from bench.report.document import Cell, Column, table
from bench.report.text import variable_facts
from bench.report.writers import print_table
from bench.suite.environments import MissingEnvironmentError, environment_of, is_installed
from bench.suite.user_variables import UserVariables, user_variables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

FINDING_COLUMNS: tuple[Column[Finding], ...] = (
    Column("", lambda finding: "!" if finding.advice else "ok", " ", lambda mark: Cell(mark, mark), numeric=False),
    Column("", lambda finding: finding.what, "What", numeric=False),
    Column("", lambda finding: finding.value, "Value", numeric=False),
)


def examine_machine(console: Console) -> None:
    findings = [
        *static_findings(),
        *current_findings(),
        variables_finding(user_variables()),
        *stack_findings(),
        *compile_findings(),
    ]
    print_table(table(findings, FINDING_COLUMNS, title="This machine"), console)
    for finding in findings:
        if finding.advice:
            say(console, finding.line, WARNING)


def variables_finding(variables: UserVariables) -> Finding:
    advice = "--env NAME=VALUE sets one for all arms alike" if variables.dropped else ""
    return Finding("Environment variables", "; ".join(variable_facts(variables)) or "none that change results", advice)


def compile_findings() -> list[Finding]:
    """Return whether torch.compile works in each environment whose stacks use it, or at all if there is none."""
    compiled = [stack for stack in stacks().values() if any(variant.compiles for variant in stack.variants.values())]
    folders: list[Path | None] = [environment_of(stack).folder for stack in compiled if is_installed(stack)]
    return list(dict.fromkeys(map(compiling, folders or [None])))


def stack_findings() -> Iterator[Finding]:
    """Yield the versions in the environment of each stack, or the command that creates it."""
    for stack in stacks().values():
        if stack.internal:
            continue
        try:
            environment = environment_of(stack)
        except MissingEnvironmentError as error:
            yield Finding(f"Stack {stack.name}", "not installed", str(error))
        else:
            packages = environment.packages
            versions = ", ".join(f"{name} {packages[name]}" for name in stack.packages if name in packages)
            yield Finding(f"Stack {stack.name}", f"environment {environment.name}, {versions}")
