"""Read recipes: the published ones by name, the user's own from TOML files."""

from __future__ import annotations

import json
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import UserError, unknown
from models.recipes import CONSTANT, COSINE, OPTIMIZERS, PLATEAU, RECIPES, Augmentation, Recipe
from models.recipes.toml_file import TomlFile, read_toml
from models.weights import INITIAL
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_EPOCHS, MAX_BATCH_SIZE = 10_000, 10_000


def recipe_names() -> list[str]:
    """Return the recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name: str, changes: str = "") -> Recipe:
    """Read a recipe by name, or a recipe file by path (anything with a slash or ending in .toml).

    `changes` are `key=value` pairs, separated by commas, that replace what it says.

    Raises UserError when it is unknown, can't be read, or says what is not allowed (with the line).
    """
    is_path = "/" in name or name.endswith(".toml")
    if not is_path and name not in recipe_names():
        raise unknown("recipe", name, [*recipe_names(), "the path of a .toml file"])
    source, content = read_toml(Path(name) if is_path else RECIPES / f"{name}.toml")
    return _parse(source, content | _changes(changes))


def _changes(text: str) -> dict[str, Any]:
    """Return what `--set` changes; a value that is no TOML is taken as text."""
    found: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or key not in _settable():
            raise UserError(f"--set {pair}: allowed: KEY=VALUE,... with the keys {', '.join(_settable())}")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found


def _settable() -> list[str]:
    return [field.name for field in fields(Recipe) if field.name not in ("name", "summary", "augmentation")]


def _parse(source: TomlFile, content: dict[str, Any]) -> Recipe:
    _require_keys(source, "a recipe", content, Recipe)
    values = {key: _value(source, key, value) for key, value in content.items() if key != "augmentation"}
    recipe = Recipe(**values, augmentation=_augmentation(source, content.get("augmentation", {})))
    waits = {"patience": recipe.patience > 0, f'schedule = "{PLATEAU}"': recipe.schedule == PLATEAU}
    for key, needed in waits.items():
        if needed and not recipe.validation:
            raise source.error(key.split()[0], f"{key} needs images to judge by: set validation to their share")
    return recipe


def _require_keys(source: TomlFile, what: str, content: dict[str, Any], kind: type) -> None:
    names = [field.name for field in fields(kind)]
    for key in sorted(content.keys() - set(names)):
        raise source.error(key, f"unknown key '{key}' of {what}; allowed: {', '.join(names)}")
    for field in fields(kind):
        if field.name not in content and field.default is MISSING and field.default_factory is MISSING:
            raise source.error(field.name, f"the key '{field.name}' of {what} is missing")


def _augmentation(source: TomlFile, content: Any) -> Augmentation:
    if not isinstance(content, dict):
        raise source.error("augmentation", "augmentation must be a table")
    _require_keys(source, "an augmentation", content, Augmentation)
    return Augmentation(**{key: _value(source, key, value, "augmentation") for key, value in content.items()})


def _number(low: float, high: float, kind: type = float) -> tuple[Callable[[Any], bool], str]:
    def allowed(value: Any) -> bool:
        right = isinstance(value, int) if kind is int else isinstance(value, int | float)
        return right and not isinstance(value, bool) and low <= value <= high

    return allowed, f"{'whole numbers' if kind is int else 'numbers'} from {low:g} to {high:g}"


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, str) and value in names, ", ".join(names)


TEXT = (lambda value: isinstance(value, str) and bool(value.strip()), "a text")
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": TEXT,
    "summary": TEXT,
    "network": _one_of(*NETWORKS),
    "epochs": _number(1, MAX_EPOCHS, int),
    "batch_size": _number(1, MAX_BATCH_SIZE, int),
    "optimizer": _one_of(*OPTIMIZERS),
    "learning_rate": _number(0, 100),
    "initial": _one_of(*INITIAL),
    "momentum": _number(0, 0.9999),
    "rho": _number(0, 100),
    "schedule": _one_of(CONSTANT, COSINE, PLATEAU),
    "plateau_patience": _number(1, MAX_EPOCHS, int),
    "plateau_factor": _number(0, 0.9999),
    "validation": _number(0, 0.9),
    "patience": _number(0, MAX_EPOCHS, int),
    "rotation": _number(0, 180),
    "shift": _number(0, 1),
    "shear": _number(0, 80),
    "zoom": _number(0, 0.9),
    "share": _number(0, 1),
    "flip": (lambda value: isinstance(value, bool), "true, false"),
}


def _value(source: TomlFile, key: str, value: Any, line_of: str = "") -> Any:
    allowed, what = RULES[key]
    if not allowed(value):
        raise source.error(line_of or key, f"{key} is {value!r}; allowed: {what}")
    return value


def to_toml(recipe: Recipe, comment: str) -> str:
    """Return a recipe as the text of a file that `load_recipe` reads."""
    lines = [f"# {comment}"]
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if field.name == "augmentation":
            inner = ", ".join(f"{each.name} = {_written(getattr(value, each.name))}" for each in fields(value))
            lines.append(f"augmentation = {{ {inner} }}")
        elif value is not None:
            lines.append(f"{field.name} = {_written(value)}")
    text = "\n".join(lines) + "\n"
    tomllib.loads(text)
    return text


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, str) else repr(value)
