"""`bench doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from backends.registry import stacks
from bench.console import WARNING, say
from bench.machine.diagnosis import Finding, current_findings, static_findings
from bench.suite.environments import MissingEnvironmentError, environment_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console


def examine_machine(console: Console) -> None:
    findings = [*static_findings(), *current_findings(), *stack_findings()]
    table = Table("", "What", "Value", box=None, title="This machine", title_justify="left", title_style="bold")
    for finding in findings:
        mark = Text("!", "bold yellow") if finding.advice else Text("ok", "green")
        table.add_row(mark, Text(finding.what), Text(finding.value))
    console.print(table, "")
    for finding in findings:
        if finding.advice:
            say(console, finding.line, WARNING)


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
