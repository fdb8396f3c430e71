"""What the shell completes: the names that options take. Nothing heavy is imported: a user waits for each answer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer import _completion_classes
from typer.core import TyperArgument, TyperOption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# The shell sets it.
COMPLETING = "_BENCH_COMPLETE"
SUITES = Path(__file__).parents[1] / "suite" / "builtin"


class AsTyped:
    """What turns the text of an option into its value while the shell completes: nothing."""

    def coerce(self, value: object, **_: object) -> object:
        return value


def quicken() -> None:
    """While the shell completes, let Typer import neither Pydantic, to check values, nor Rich, to show help texts."""
    if COMPLETING in os.environ:
        vars(_completion_classes)["_sanitize_help_text"] = str
        setattr(TyperOption, "get_runtime_param", lambda _: AsTyped())  # noqa: B010 - it is no attribute of ours
        setattr(TyperArgument, "get_runtime_param", lambda _: AsTyped())  # noqa: B010 - as above


def listed(values: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return a completion of the last name in a list that is separated by commas."""

    def complete(incomplete: str) -> list[str]:
        before, comma, _ = incomplete.rpartition(",")
        return [f"{before}{comma}{value}" for value in values() if value not in before.split(",")]

    return complete


def suites() -> list[str]:
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def presets() -> list[tuple[str, str]]:
    from bench.suite.schedule import PRESETS

    return [(preset.name, preset.summary) for preset in PRESETS.values() if not preset.internal]


def stacks() -> list[str]:
    from backends.registry import stacks as known

    return [stack.name for stack in known().values() if not stack.internal]


def environments() -> list[str]:
    from backends.registry import stacks as known

    return sorted({stack.environment for stack in known().values() if stack.environment})


def models() -> list[str]:
    from models.zoo import NETWORKS

    return list(NETWORKS)


def recipes() -> list[str]:
    from models.recipes.parse import recipe_names

    return recipe_names()


def variants(context: typer.Context) -> list[str]:
    """Return the variants that train of the stack that is named before."""
    from backends.registry import stacks as known

    stack = known().get(context.params.get("stack") or "")
    return list(stack.trainings) if stack else []


def arms() -> list[str]:
    from backends.registry import stacks as known

    public = [stack for stack in known().values() if not stack.internal]
    return [
        f"{stack.name}/{name}" for stack in public for name, variant in stack.variants.items() if not variant.trains
    ]


def precisions() -> list[str]:
    from backends.protocol import PRECISIONS

    return list(PRECISIONS)


def limits() -> list[str]:
    from bench.suite.variables import ISA_LIMITS

    return list(ISA_LIMITS)


def formats() -> list[str]:
    return ["pyperf", "pytest-benchmark", "github-action-benchmark", "bencher", "latex", "trace", "parquet"]


def rules() -> list[str]:
    return ["at-rest", "as-it-was"]


def data() -> list[str]:
    return ["auto", "fashion-mnist", "synthetic"]


def runs(incomplete: str) -> list[str]:
    """Return the folders of runs below the folder that is typed so far, or below `results`."""
    typed = incomplete.rpartition("/")[0]
    parents = [typed] if typed else ["results", "."]
    return [str(file.parent) for parent in parents for file in sorted(Path(parent).glob("*/run.json"))]


def run_names(context: typer.Context) -> list[str]:
    """Return the names of the runs in the folder for results."""
    results = Path(context.params.get("results") or "results")
    return [file.parent.name for file in sorted(results.glob("*/run.json")) if not file.parent.is_symlink()]
