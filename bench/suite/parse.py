"""Read suite files: TOML to a Suite, with the line of each error."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.protocol import PRECISIONS
from backends.registry import stacks
from bench.suite.arms import (
    ANY_PRECISION,
    DEFAULT_SETTINGS,
    LATENCY,
    LOADGEN,
    SERVER,
    STRONG,
    THROUGHPUT,
    TRAINING,
    WEAK,
    Arm,
    Batching,
    Ladder,
    Step,
    matches,
)
from bench.suite.suite import TRAINING_IMAGES, Suite, baselines_of
from bench.suite.variables import SETTINGS
from models.errors import unknown
from models.recipes.parse import MAX_BATCH_SIZE, MAX_EPOCHS, load_recipe, recipe_names
from models.recipes.toml_file import TomlFile, read_toml
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from models.recipes import Recipe

SUITES = Path(__file__).parent / "builtin"
SCENARIOS = (LATENCY, THROUGHPUT, TRAINING, *LOADGEN)
MOST_BOUND_US, LEAST_BATCH = 10_000_000, 2
# The first epoch of a process is its warm-up.
MIN_EPOCHS = 2
MAX_WORKERS = 1024


def suite_names() -> list[str]:
    """Return the names of the project's own suites."""
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def load_suite(name: str) -> Suite:
    """Read a suite by name, or a suite file by path (with a slash, or ending in .toml).

    Raises UserError if it is unknown or can't be read, or for an invalid value, with its line.
    """
    is_path = "/" in name or name.endswith(".toml")
    if not is_path and name not in suite_names():
        raise unknown("suite", name, [*suite_names(), "the path of a .toml file"])
    return _parse(*read_toml(Path(name) if is_path else SUITES / f"{name}.toml"))


def _parse(file: TomlFile, content: dict[str, Any]) -> Suite:
    required: dict[str, Callable[[TomlFile, str, Any], Any]] = {
        "name": _name,
        "summary": _text,
        "scenarios": _names_among(SCENARIOS),
        "models": _names_among(NETWORKS),
        "batch_sizes": _batch_sizes,
        "precisions": _names_among(PRECISIONS),
        "arms": _arms,
        "baselines": _arms,
        "primary": _arms,
    }
    optional: dict[str, Callable[[TomlFile, str, Any], Any]] = {
        "ladders": _ladders,
        "recipe": _recipe,
        "epochs": _number(MIN_EPOCHS, MAX_EPOCHS),
        "images": _number(1, TRAINING_IMAGES),
        "workers": _workers,
        "scaling": _names_among((STRONG, WEAK)),
        "server_bound_us": _number(1, MOST_BOUND_US),
    }
    readers = required | optional
    for key in sorted(content.keys() - readers.keys()):
        raise file.error(key, f"unknown key '{key}'; allowed: {', '.join(readers)}")
    for key in required:
        if key not in content:
            raise file.error(key, f"the key '{key}' is missing")
    values = {key: read(file, key, content[key]) for key, read in readers.items() if key in content}
    suite = Suite(arm_patterns=values.pop("arms"), **values)
    _check_arms(file, suite)
    _check_scenarios(file, suite)
    return suite


def _check_arms(file: TomlFile, suite: Suite) -> None:
    """Raise UserError if baselines, primary arms or ladders are not among the arms, or a primary has no baseline."""
    arms = ", ".join(map(_as_written, suite.arm_patterns))
    for key in ("baselines", "primary"):
        for pattern in getattr(suite, key):
            if pattern not in suite.arm_patterns:
                raise file.error(key, f"'{_as_written(pattern)}' in {key} is not one of the arms: {arms}")
    for pattern in suite.primary:
        matching = [arm for arm in suite.arms if matches(arm, pattern)]
        if not stacks()[pattern.stack].baselines or not any(baselines_of(suite, arm) for arm in matching):
            raise file.error("primary", f"'{_as_written(pattern)}' has no baseline of its vanilla stack")
    for ladder in suite.ladders:
        for step in ladder.steps:
            if not any(matches(step.arm, pattern) for pattern in suite.arm_patterns):
                raise file.error("ladders", f"'{step.arm.id}' in ladder {ladder.name} is not one of the arms")


def _check_scenarios(file: TomlFile, suite: Suite) -> None:
    """Raise UserError if scenarios are mixed that one run can't measure, or if one lacks a key that it needs."""
    if (TRAINING in suite.scenarios) != bool(suite.recipe and suite.epochs):
        raise file.error("recipe", f"the scenario '{TRAINING}' needs a recipe and epochs, and no other does")
    if bool(suite.workers) != bool(suite.scaling) or (suite.workers and TRAINING not in suite.scenarios):
        raise file.error("workers", f"workers and scaling need each other, and the scenario '{TRAINING}'")
    if (SERVER in suite.scenarios) != bool(suite.server_bound_us):
        raise file.error("server_bound_us", f"the scenario '{SERVER}' needs a server_bound_us, and no other does")
    for own in ((TRAINING,), LOADGEN):
        if not set(own).isdisjoint(suite.scenarios) and not set(suite.scenarios) <= set(own):
            but = f" than {', '.join(own[1:])}" if own[1:] else ""
            raise file.error("scenarios", f"'{own[0]}' can't be combined with other scenarios{but}")
    for pattern in suite.arm_patterns:
        variant = stacks()[pattern.stack].variants[pattern.variant]
        if pattern.workers and variant.asynchronous:
            raise file.error("arms", f"'{_as_written(pattern)}': an asynchronous variant has streams, not workers")
        needs_loadgen = pattern.workers or pattern.batching is not None
        if variant.trains != (TRAINING in suite.scenarios) or (needs_loadgen and not suite.uses_loadgen):
            raise file.error("arms", f"'{_as_written(pattern)}' takes part in none of {', '.join(suite.scenarios)}")


def _as_written(pattern: Arm) -> str:
    """Return an arm pattern as suite files write it."""
    precision = f"/{pattern.precision}" if pattern.precision != ANY_PRECISION else ""
    settings = f"+{pattern.settings}" if pattern.settings != DEFAULT_SETTINGS else ""
    batching = f"~{pattern.batching.largest}in{pattern.batching.wait_us}us" if pattern.batching else ""
    workers = "~workers" if pattern.workers else ""
    return f"{pattern.stack}/{pattern.variant}{precision}{settings}{batching}{workers}"


def _text(file: TomlFile, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise file.error(key, f"{key} must be a text")
    return value


def _name(file: TomlFile, key: str, value: Any) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", _text(file, key, value)):
        raise file.error(key, f"{key} must be lower-case letters, digits and hyphens, at most 64")
    return str(value)


def _list(file: TomlFile, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise file.error(key, f"{key} must be a list with at least one element")
    if len(set(map(repr, value))) != len(value):
        raise file.error(key, f"{key} names something twice")
    return value


def _names_among(allowed: Collection[str]) -> Callable[[TomlFile, str, Any], tuple[str, ...]]:
    def read(file: TomlFile, key: str, value: Any) -> tuple[str, ...]:
        for name in _list(file, key, value):
            if not isinstance(name, str) or name not in allowed:
                raise file.error(key, f"unknown {key.removesuffix('s')} {name!r}; allowed: {', '.join(allowed)}")
        return tuple(value)

    return read


def _batch_sizes(file: TomlFile, key: str, value: Any) -> tuple[int, ...]:
    for size in _list(file, key, value):
        if type(size) is not int or not 1 <= size <= MAX_BATCH_SIZE:
            raise file.error(key, f"{key} must be whole numbers from 1 to {MAX_BATCH_SIZE}, not {size!r}")
    return tuple(value)


def _workers(file: TomlFile, key: str, value: Any) -> tuple[int, ...]:
    counts = _list(file, key, value)
    if any(type(count) is not int or not 1 <= count <= MAX_WORKERS for count in counts) or counts[0] != 1:
        raise file.error(key, f"{key} must be 1 and whole numbers up to {MAX_WORKERS}, not {value!r}")
    return tuple(sorted(counts))


def _number(low: int, high: int) -> Callable[[TomlFile, str, Any], int]:
    def read(file: TomlFile, key: str, value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise file.error(key, f"{key} must be a whole number from {low} to {high}, not {value!r}")
        return value

    return read


def _recipe(file: TomlFile, key: str, value: Any) -> Recipe:
    if value not in recipe_names():
        raise file.error(key, f"unknown {key} {value!r}; allowed: {', '.join(recipe_names())}")
    return load_recipe(value)


def _arms(file: TomlFile, key: str, value: Any) -> tuple[Arm, ...]:
    patterns = tuple(_arm(file, key, text) for text in _list(file, key, value))
    # The same arm may be written in two ways.
    if len(set(patterns)) != len(patterns):
        raise file.error(key, f"{key} names something twice")
    return patterns


def _arm(file: TomlFile, key: str, value: Any) -> Arm:
    """Read stack/variant[/precision][+settings], then ~LARGESTinWAITus or ~workers."""
    text = value if isinstance(value, str) else ""
    text, tilde, option = text.partition("~")
    batching, workers = re.fullmatch(r"(\d{1,4})in(\d{1,6})us", option), option == "workers"
    if tilde and not workers and (batching is None or int(batching[1]) < LEAST_BATCH):
        raise file.error(
            key, f"{value!r} ends in '~{option}'; allowed: ~workers, or the largest batch and longest wait: ~8in1000us"
        )
    path, plus, settings = text.partition("+")
    stack, _, rest = path.partition("/")
    variant, slash, precision = rest.partition("/")
    for kind, name, allowed in (
        ("stack", stack, stacks()),
        ("variant", variant, stacks()[stack].variants if stack in stacks() else {}),
        ("precision", precision if slash else PRECISIONS[0], PRECISIONS),
        ("settings", settings if plus else DEFAULT_SETTINGS, SETTINGS),
    ):
        if name not in allowed:
            public = [name for name in allowed if kind != "stack" or not stacks()[name].internal]
            raise file.error(key, f"unknown {kind} in {value!r}; allowed: {', '.join(public)}")
    return Arm(
        stack,
        variant,
        precision if slash else ANY_PRECISION,
        settings if plus else DEFAULT_SETTINGS,
        batching=Batching(int(batching[1]), int(batching[2])) if batching else None,
        workers=workers,
    )


def _ladders(file: TomlFile, key: str, value: Any) -> tuple[Ladder, ...]:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise file.error(key, "ladders must be tables: [[ladders]]")
    ladders = []
    for table in value:
        if table.keys() != {"name", "steps"}:
            raise file.error(key, "a ladder has a name and steps")
        ladders.append(Ladder(_name(file, key, table["name"]), _steps(file, key, table["steps"])))
    if len({ladder.name for ladder in ladders}) != len(ladders):
        raise file.error(key, "two ladders have the same name")
    return tuple(ladders)


def _steps(file: TomlFile, key: str, value: Any) -> tuple[Step, ...]:
    malformed = file.error(key, 'the steps of a ladder must be pairs: ["what changes", "stack/variant"]')
    if not isinstance(value, list) or not value:
        raise malformed
    steps = []
    for pair in value:
        match pair:
            case [str(name), text] if name.strip():
                arm = _arm(file, key, text)
                precision = PRECISIONS[0] if arm.precision == ANY_PRECISION else arm.precision
                steps.append(Step(name, replace(arm, precision=precision)))
            case _:
                raise malformed
    return tuple(steps)
