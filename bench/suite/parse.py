"""Read suite files: TOML to a Suite, errors with the line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.protocol import PRECISIONS
from backends.registry import stacks
from bench.suite.arms import DEFAULT_SETTINGS, LATENCY, THROUGHPUT, TRAINING, Arm, Ladder, Step
from bench.suite.suite import EVERY, MAX_BATCH_SIZE, TRAINING_IMAGES, Suite, _is_use, baselines_of
from bench.suite.variables import SETTINGS
from models.errors import unknown
from models.recipes.parse import MAX_EPOCHS, load_recipe, recipe_names
from models.recipes.toml_file import TomlFile, read_toml
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from models.recipes import Recipe

SUITES = Path(__file__).parent / "builtin"


SCENARIOS = (LATENCY, THROUGHPUT, TRAINING)


MIN_EPOCHS = 2  # the first of a process is its warm-up


def suite_names() -> list[str]:
    """Return the suites that come with the project."""
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def load_suite(name: str) -> Suite:
    """Read a suite by name, or a suite file by path (anything with a slash or ending in .toml).

    Raises UserError when it is unknown, can't be read, or says what is not allowed (with the line).
    """
    is_path = "/" in name or name.endswith(".toml")
    if not is_path and name not in suite_names():
        raise unknown("suite", name, [*suite_names(), "the path of a .toml file"])
    path = Path(name) if is_path else SUITES / f"{name}.toml"
    return _parse(*read_toml(path))


def _parse(source: TomlFile, content: dict[str, Any]) -> Suite:
    readers: dict[str, Callable[[TomlFile, str, Any], Any]] = {
        "name": _name,
        "summary": _text,
        "scenarios": _some_of(SCENARIOS),
        "models": _some_of(NETWORKS),
        "batch_sizes": _batch_sizes,
        "precisions": _some_of(PRECISIONS),
        "arms": _arms,
        "baselines": _arms,
        "primary": _arms,
    }
    optional: dict[str, Callable[[TomlFile, str, Any], Any]] = {
        "ladders": _ladders,
        "recipe": _recipe,
        "epochs": _count(MIN_EPOCHS, MAX_EPOCHS),
        "images": _count(1, TRAINING_IMAGES),
    }
    for key in sorted(content.keys() - readers.keys() - optional.keys()):
        raise source.error(key, f"unknown key '{key}'; allowed: {', '.join(readers | optional)}")
    for key in (key for key in readers if key not in content):
        raise source.error(key, f"the key '{key}' is missing")
    present = {key: read for key, read in (readers | optional).items() if key in content}
    values: dict[str, Any] = {key: read(source, key, content[key]) for key, read in present.items()}
    suite = Suite(uses=values.pop("arms"), **values)
    _check_references(source, suite)
    return suite


def _check_references(source: TomlFile, suite: Suite) -> None:
    """Raise UserError when what is named is none of the arms, or takes part in nothing."""
    arms = ", ".join(map(_written, suite.uses))
    for key in ("baselines", "primary"):
        for arm in getattr(suite, key):
            if arm not in suite.uses:
                raise source.error(key, f"'{_written(arm)}' in {key} is not one of the arms: {arms}")
    _check_scenarios(source, suite)
    _check_primary(source, suite)
    for ladder in suite.ladders:
        for step in ladder.steps:
            if not any(_is_use(step.arm, use) for use in suite.uses):
                raise source.error("ladders", f"'{step.arm.id}' in ladder {ladder.name} is not one of the arms")


def _check_scenarios(source: TomlFile, suite: Suite) -> None:
    """Raise UserError when arms that train and arms that answer are mixed, or what training needs is missing."""
    if (TRAINING in suite.scenarios) != bool(suite.recipe and suite.epochs):
        raise source.error("recipe", f"the scenario '{TRAINING}' needs a recipe and epochs, and no other does")
    kinds = {each == TRAINING for each in suite.scenarios}
    if len(kinds) > 1:
        raise source.error("scenarios", f"'{TRAINING}' stands alone: its arms do nothing else")
    for use in suite.uses:
        if stacks()[use.stack].variants[use.variant].trains not in kinds:
            raise source.error("arms", f"'{_written(use)}' takes part in none of {', '.join(suite.scenarios)}")


def _check_primary(source: TomlFile, suite: Suite) -> None:
    """Raise UserError when a primary arm has no baseline."""
    for use in suite.primary:
        meant = [arm for arm in suite.arms if _is_use(arm, use)]
        if not stacks()[use.stack].baselines or not any(baselines_of(suite, arm) for arm in meant):
            raise source.error("primary", f"'{_written(use)}' has no baseline: none of its vanilla stack")


def _written(use: Arm) -> str:
    """Return an arm as a suite's file writes it."""
    precision = f"/{use.precision}" if use.precision != EVERY else ""
    settings = f"+{use.settings}" if use.settings != DEFAULT_SETTINGS else ""
    return f"{use.stack}/{use.variant}{precision}{settings}"


def _text(source: TomlFile, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise source.error(key, f"{key} must be a text")
    return value


def _name(source: TomlFile, key: str, value: Any) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", _text(source, key, value)):
        raise source.error(key, f"{key} must be lower-case letters, digits and hyphens, at most 64")
    return str(value)


def _list(source: TomlFile, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise source.error(key, f"{key} must be a list with at least one element")
    if len({repr(each) for each in value}) != len(value):
        raise source.error(key, f"{key} names something twice")
    return value


def _one_of(allowed: Sequence[str]) -> Callable[[TomlFile, str, Any], str]:
    def read(source: TomlFile, key: str, value: Any) -> str:
        if value not in allowed:
            raise source.error(key, f"unknown {key} {value!r}; allowed: {', '.join(allowed)}")
        return str(value)

    return read


def _some_of(allowed: Any) -> Callable[[TomlFile, str, Any], tuple[str, ...]]:
    def read(source: TomlFile, key: str, value: Any) -> tuple[str, ...]:
        for each in _list(source, key, value):
            if not isinstance(each, str) or each not in allowed:
                raise source.error(key, f"unknown {key.removesuffix('s')} {each!r}; allowed: {', '.join(allowed)}")
        return tuple(value)

    return read


def _batch_sizes(source: TomlFile, key: str, value: Any) -> tuple[int, ...]:
    for each in _list(source, key, value):
        if type(each) is not int or not 1 <= each <= MAX_BATCH_SIZE:
            raise source.error(key, f"{key} must be whole numbers from 1 to {MAX_BATCH_SIZE}, not {each!r}")
    return tuple(value)


def _recipe(source: TomlFile, key: str, value: Any) -> Recipe:
    return load_recipe(_one_of(recipe_names())(source, key, value))


def _count(low: int, high: int) -> Callable[[TomlFile, str, Any], int]:
    def read(source: TomlFile, key: str, value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise source.error(key, f"{key} must be a whole number from {low} to {high}, not {value!r}")
        return value

    return read


def _arms(source: TomlFile, key: str, value: Any) -> tuple[Arm, ...]:
    arms = tuple(_arm(source, key, each) for each in _list(source, key, value))
    if len(set(arms)) != len(arms):
        raise source.error(key, f"{key} names something twice")
    return arms


def _arm(source: TomlFile, key: str, value: Any) -> Arm:
    """Read "stack/variant", "stack/variant/precision", each with "+settings" behind it or not."""
    text = value if isinstance(value, str) else ""
    use, plus, settings = text.partition("+")
    stack, _, rest = use.partition("/")
    variant, slash, precision = rest.partition("/")
    allowed = (
        ("stack", stack, stacks()),
        ("variant", variant, stacks()[stack].variants if stack in stacks() else ()),
        ("precision", precision if slash else PRECISIONS[0], PRECISIONS),
        ("settings", settings if plus else DEFAULT_SETTINGS, SETTINGS),
    )
    for kind, name, names in allowed:
        if name not in names:
            raise source.error(key, f"unknown {kind} in {value!r}; allowed: {', '.join(_public(names))}")
    return Arm(stack, variant, precision if slash else EVERY, settings if plus else DEFAULT_SETTINGS)


def _public(names: Iterable[str]) -> list[str]:
    """Leave out the stacks that the harness has for itself."""
    return [name for name in names if name not in stacks() or not stacks()[name].internal]


def _ladders(source: TomlFile, key: str, value: Any) -> tuple[Ladder, ...]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise source.error(key, "ladders must be tables: [[ladders]]")
    for each in value:
        if each.keys() != {"name", "steps"}:
            raise source.error(key, "a ladder has a name and steps")
    ladders = tuple(Ladder(_name(source, key, each["name"]), _steps(source, key, each["steps"])) for each in value)
    if len({ladder.name for ladder in ladders}) != len(ladders):
        raise source.error(key, "two ladders have the same name")
    return ladders


def _steps(source: TomlFile, key: str, value: Any) -> tuple[Step, ...]:
    pairs = isinstance(value, list) and all(isinstance(step, list) and len(step) == 2 for step in value)  # noqa: PLR2004 - of a pair
    if not pairs or not value or not all(isinstance(step[0], str) and step[0].strip() for step in value):
        raise source.error(key, 'the steps of a ladder must be pairs: ["what changes", "stack/variant"]')
    read = [(name, _arm(source, key, arm)) for name, arm in value]
    return tuple(Step(name, replace(arm, precision=arm.precision or PRECISIONS[0])) for name, arm in read)
