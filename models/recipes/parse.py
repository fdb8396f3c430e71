"""Read recipes: the published ones by name, and users' own from TOML files."""

from __future__ import annotations

import json
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from models.errors import UserError, unknown
from models.recipes import CONSTANT, COSINE, ONE_CYCLE, OPTIMIZERS, PLATEAU, RECIPES, SGD, Augmentation, Recipe
from models.recipes.toml_file import TomlFile, read_toml
from models.weights import INITIAL
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Callable

    # A check of a value, and the description of what it allows.
    Rule: TypeAlias = tuple[Callable[[Any], bool], str]

MAX_EPOCHS, MAX_BATCH_SIZE = 10_000, 10_000


def recipe_names() -> list[str]:
    """Return the names of the published recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name: str, changes: str = "") -> Recipe:
    """Read a recipe by name, or a recipe file by path (anything with a slash or ending in .toml).

    `changes` are comma-separated `key=value` pairs that replace values of the recipe.

    Raises UserError when the recipe is unknown, can't be read, or holds a value that is not allowed (with its line).
    """
    is_path = "/" in name or name.endswith(".toml")
    if not is_path and name not in recipe_names():
        raise unknown("recipe", name, [*recipe_names(), "the path of a .toml file"])
    file, content = read_toml(Path(name) if is_path else RECIPES / f"{name}.toml")
    content |= _parse_changes(changes)
    _require_keys(file, "a recipe", content, Recipe)
    values = {key: _checked(file, key, value) for key, value in content.items() if key != "augmentation"}
    recipe = Recipe(**values, augmentation=_augmentation(file, content.get("augmentation", {})))
    for key, text, is_used in (
        ("patience", "patience", recipe.patience > 0),
        ("schedule", f'schedule = "{PLATEAU}"', recipe.schedule == PLATEAU),
    ):
        if is_used and not recipe.validation:
            raise file.error(key, f"{text} needs a validation loss: set validation to the fraction to hold out")
    if recipe.nesterov and not (recipe.optimizer == SGD and recipe.momentum):
        raise file.error("nesterov", f'nesterov = true needs optimizer = "{SGD}" and a momentum above 0')
    return recipe


def _parse_changes(text: str) -> dict[str, Any]:
    """Return the values that `--set` gives; one that is not TOML is taken as text."""
    settable = [field.name for field in fields(Recipe) if field.name not in ("name", "summary", "augmentation")]
    changes: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or key not in settable:
            raise UserError(f"--set {pair}: allowed: KEY=VALUE,... with the keys {', '.join(settable)}")
        try:
            changes[key] = tomllib.loads(f"value = {value}")["value"]
            # Errors show the value, so Python must be able to write it.
            repr(changes[key])
        except (ValueError, RecursionError):
            changes[key] = value
    return changes


def _require_keys(file: TomlFile, what: str, content: dict[str, Any], kind: type) -> None:
    names = [field.name for field in fields(kind)]
    for key in sorted(content.keys() - set(names)):
        raise file.error(key, f"unknown key '{key}' of {what}; allowed: {', '.join(names)}")
    for field in fields(kind):
        if field.name not in content and field.default is MISSING and field.default_factory is MISSING:
            raise file.error(field.name, f"the key '{field.name}' of {what} is missing")


def _augmentation(file: TomlFile, content: Any) -> Augmentation:
    if not isinstance(content, dict):
        raise file.error("augmentation", "augmentation must be a table")
    _require_keys(file, "an augmentation", content, Augmentation)
    return Augmentation(**{key: _checked(file, key, value, "augmentation") for key, value in content.items()})


def _checked(file: TomlFile, key: str, value: Any, line_of: str | None = None) -> Any:
    """Return a value that its rule allows; the error names the line of `line_of`, by default that of the key."""
    is_allowed, allowed = RULES[key]
    if not is_allowed(value):
        raise file.error(line_of or key, f"{key} is {value!r}; allowed: {allowed}")
    return value


def _number(low: float, high: float, kind: type = float) -> Rule:
    def is_allowed(value: Any) -> bool:
        is_number = isinstance(value, int) if kind is int else isinstance(value, int | float)
        return is_number and not isinstance(value, bool) and low <= value <= high

    return is_allowed, f"{'whole numbers' if kind is int else 'numbers'} from {low:g} to {high:g}"


def _one_of(*names: str) -> Rule:
    return lambda value: isinstance(value, str) and value in names, ", ".join(names)


TEXT = (lambda value: isinstance(value, str) and bool(value.strip()), "a text")
BOOLEAN = (lambda value: isinstance(value, bool), "true, false")
RULES: dict[str, Rule] = {
    "name": TEXT,
    "summary": TEXT,
    "network": _one_of(*NETWORKS),
    "epochs": _number(1, MAX_EPOCHS, int),
    "batch_size": _number(1, MAX_BATCH_SIZE, int),
    "optimizer": _one_of(*OPTIMIZERS),
    "learning_rate": _number(0, 100),
    "initial": _one_of(*INITIAL),
    "momentum": _number(0, 0.9999),
    "nesterov": BOOLEAN,
    "weight_decay": _number(0, 1),
    "label_smoothing": _number(0, 0.9999),
    "rho": _number(0, 100),
    "schedule": _one_of(CONSTANT, COSINE, ONE_CYCLE, PLATEAU),
    "warmup": _number(0, 0.9999),
    "plateau_patience": _number(1, MAX_EPOCHS, int),
    "plateau_factor": _number(0, 0.9999),
    "validation": _number(0, 0.9),
    "patience": _number(0, MAX_EPOCHS, int),
    "target": _number(0, 1),
    "rotation": _number(0, 180),
    "shift": _number(0, 1),
    "shear": _number(0, 80),
    "zoom": _number(0, 0.9),
    "share": _number(0, 1),
    "flip": BOOLEAN,
}


def to_toml(recipe: Recipe, comment: str) -> str:
    lines = [f"# {comment}"]
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if field.name == "augmentation":
            inner = ", ".join(f"{name} = {_toml_value(inner)}" for name, inner in vars(value).items())
            lines.append(f"augmentation = {{ {inner} }}")
        elif value is not None:
            lines.append(f"{field.name} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
