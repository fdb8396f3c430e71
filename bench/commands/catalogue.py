"""`bench list` and `bench models`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from backends.registry import stacks
from bench.suite.parse import load_suite, suite_names
from bench.suite.schedule import PRESETS
from bench.suite.variables import SETTINGS
from models.errors import unknown
from models.recipes.parse import load_recipe, recipe_names
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from rich.console import Console


def list_all(console: Console) -> None:
    public = [stack for stack in stacks().values() if not stack.internal]
    sections = {
        "Suites (--suite)": [(name, load_suite(name).summary) for name in suite_names()],
        "Presets (--preset)": [(preset.name, preset.summary) for preset in PRESETS.values() if not preset.internal],
        "Stacks (--stack)": [(stack.name, f"{stack.summary}; environment {stack.environment}") for stack in public],
        "Variants": [
            (f"{stack.name}/{name}", f"{variant.summary} [{', '.join(variant.precisions)}]")
            for stack in public
            for name, variant in stack.variants.items()
        ],
        "Environment settings (+NAME after an arm in a suite file)": [
            (settings.name, settings.summary) for settings in SETTINGS.values()
        ],
        "Models (--model)": [
            (network.name, f"{network.parameters:,} parameters; {network.summary}") for network in NETWORKS.values()
        ],
        "Recipes (train --recipe)": [
            (recipe.name, f"{recipe.network}, batch {recipe.batch_size}; {recipe.summary}")
            for recipe in map(load_recipe, recipe_names())
        ],
    }
    for title, rows in sections.items():
        table = Table(
            title=title, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2)
        )
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table, "")


def show_models(name: str | None, console: Console) -> None:
    if name and name not in NETWORKS:
        raise unknown("model", name, NETWORKS)
    for network in [NETWORKS[name]] if name else NETWORKS.values():
        table = Table("Layer", "Type", title=f"{network.name}: {network.summary}")
        for column in ("Output shape", "Parameters", "Multiply-adds"):
            table.add_column(column, justify="right")
        for placed in network.place():
            shape = f"({', '.join(('N', *map(str, placed.output_shape)))})"
            table.add_row(placed.name, placed.kind, shape, f"{placed.parameters:,}", f"{placed.multiply_adds:,}")
        console.print(table)
        console.print(f"Total parameters: {network.parameters:,}, {network.trainable_parameters:,} of them trainable")
        console.print(f"Multiply-adds per image: {network.multiply_adds:,}")
        console.print(f"Digest of the specification: {network.digest[:16]}")
