"""`bench list` and `bench models`."""

from __future__ import annotations

from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING

from backends.registry import stacks
from bench.console import say
from bench.report.document import Column, table, text_table
from bench.report.writers import print_table
from bench.suite.parse import load_suite, suite_names
from bench.suite.schedule import PRESETS
from bench.suite.variables import SETTINGS
from models.errors import unknown
from models.recipes.parse import load_recipe, recipe_names
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from rich.console import Console


LAYER_COLUMNS: tuple[Column[tuple[str, ...]], ...] = (
    Column("", itemgetter(0), "Layer", numeric=False),
    Column("", itemgetter(1), "Type", numeric=False),
    Column("", itemgetter(2), "Output shape"),
    Column("", itemgetter(3), "Parameters"),
    Column("", itemgetter(4), "Multiply-adds"),
)


def list_all(console: Console) -> None:
    from bench.exports.outputs import ListedStack, ListOutput, Named, show_output

    listed = ListOutput(
        suites=tuple(Named(name, load_suite(name).summary) for name in suite_names()),
        presets=tuple(Named(preset.name, preset.summary) for preset in PRESETS.values() if not preset.internal),
        stacks=tuple(
            ListedStack(
                stack.name,
                stack.summary,
                stack.environment,
                tuple(
                    Named(f"{stack.name}/{name}", f"{variant.summary} [{', '.join(variant.precisions)}]")
                    for name, variant in stack.variants.items()
                ),
            )
            for stack in stacks().values()
            if not stack.internal
        ),
        settings=tuple(Named(settings.name, settings.summary) for settings in SETTINGS.values()),
        models=tuple(
            Named(network.name, f"{network.parameters:,} parameters; {network.summary}")
            for network in NETWORKS.values()
        ),
        recipes=tuple(
            Named(recipe.name, f"{recipe.network}, batch {recipe.batch_size}; {recipe.summary}")
            for recipe in map(load_recipe, recipe_names())
        ),
    )
    sections = {
        "Suites (--suite)": listed.suites,
        "Presets (--preset)": listed.presets,
        "Stacks (--stack)": [
            Named(stack.name, f"{stack.summary}; environment {stack.environment}") for stack in listed.stacks
        ],
        "Variants": [variant for stack in listed.stacks for variant in stack.variants],
        "Environment settings (+NAME after an arm in a suite file)": listed.settings,
        "Models (--model)": listed.models,
        "Recipes (train --recipe)": listed.recipes,
    }
    for title, rows in sections.items():
        print_table(replace(text_table(("", ""), [(row.name, row.summary) for row in rows]), title=title), console)
    show_output(console, "list", 0, listed)


def show_models(name: str | None, console: Console) -> None:
    if name and name not in NETWORKS:
        raise unknown("model", name, NETWORKS)
    for network in [NETWORKS[name]] if name else NETWORKS.values():
        rows = [
            (
                placed.name,
                placed.kind,
                f"({', '.join(('N', *map(str, placed.output_shape)))})",
                f"{placed.parameters:,}",
                f"{placed.multiply_adds:,}",
            )
            for placed in network.place()
        ]
        print_table(table(rows, LAYER_COLUMNS, title=f"{network.name}: {network.summary}"), console)
        say(console, f"Total parameters: {network.parameters:,}, {network.trainable_parameters:,} of them trainable")
        say(console, f"Multiply-adds per image: {network.multiply_adds:,}")
        say(console, f"Digest of the specification: {network.digest[:16]}")
