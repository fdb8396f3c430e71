"""Turn a suite file and the user's options into cases and arms. All validation of user input happens here."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.protocol import stacks
from bench.errors import UserError, unknown
from bench.records import Arm, Case
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SUITES = Path(__file__).parent / "suites"
SCENARIOS = ("latency",)
PRECISIONS = ("fp32",)
MAX_BATCH_SIZE = 10_000


@dataclass(frozen=True)
class Suite:
    """What is measured: arms on cases, the baselines they are held against, and the primary comparisons."""

    name: str
    summary: str
    scenario: str
    models: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    precisions: tuple[str, ...]
    arms: tuple[Arm, ...]
    baselines: tuple[Arm, ...]
    primary: tuple[Arm, ...]

    @property
    def cases(self) -> tuple[Case, ...]:
        """Return every case; the first is the one that primary comparisons are made in."""
        combinations = product(self.models, self.batch_sizes, self.precisions)
        return tuple(Case(model, self.scenario, batch, precision) for model, batch, precision in combinations)

    @property
    def measured(self) -> tuple[Arm, ...]:
        """Return the arms, with the A/A arm behind its baseline where that is measured."""
        twins = [replace(baseline, replica=True) for baseline in self.baselines[:1]]
        return tuple(each for arm in self.arms for each in (arm, *(twin for twin in twins if _same_use(twin, arm))))


@dataclass(frozen=True)
class Source:
    """A suite file's text, to tell the line that an error is in."""

    path: Path
    text: str

    def error(self, key: str, message: str) -> UserError:
        """Return the error about `key`, with its line."""
        found = re.search(rf"^\s*{re.escape(key)}\s*=", self.text, re.MULTILINE)
        line = f", line {self.text.count(chr(10), 0, found.start(0) + len(found[0])) + 1}" if found else ""
        return UserError(f"{self.path}{line}: {message}")


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
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = tomllib.loads(text)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not TOML: {error}") from error
    return _parse(Source(path, text), content)


def _parse(source: Source, content: dict[str, Any]) -> Suite:
    readers: dict[str, Callable[[Source, str, Any], Any]] = {
        "name": _name,
        "summary": _text,
        "scenario": _one_of(SCENARIOS),
        "models": _some_of(NETWORKS),
        "batch_sizes": _batch_sizes,
        "precisions": _some_of(PRECISIONS),
        "arms": _arms,
        "baselines": _arms,
        "primary": _arms,
    }
    for key in sorted(content.keys() - readers.keys()):
        raise source.error(key, f"unknown key '{key}'; allowed: {', '.join(readers)}")
    for key in (key for key in readers if key not in content):
        raise source.error(key, f"the key '{key}' is missing")
    suite = Suite(**{key: read(source, key, content[key]) for key, read in readers.items()})
    for key in ("baselines", "primary"):
        for arm in getattr(suite, key):
            if arm not in suite.arms:
                raise source.error(key, f"'{arm.id}' in {key} is not one of the arms")
    for arm in suite.primary:
        if not stacks()[arm.stack].baseline or not baselines_of(suite, arm):
            raise source.error("primary", f"'{arm.id}' has no baseline: none of its vanilla stack")
    return suite


def _same_use(one: Arm, other: Arm) -> bool:
    return (one.stack, one.variant) == (other.stack, other.variant)


def baselines_of(suite: Suite, arm: Arm) -> list[Arm]:
    """Return what `arm` is held against.

    An Intel arm against each baseline of its vanilla stack, a vanilla arm against the first of its own.
    """
    stack = stacks()[arm.stack]
    own = [baseline for baseline in suite.baselines if baseline.stack == (stack.baseline or stack.name)]
    return own if stack.baseline else [baseline for baseline in own[:1] if baseline != arm]


def narrow(
    suite: Suite,
    models: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    precisions: Sequence[str] = (),
    chosen_stacks: Sequence[str] = (),
) -> Suite:
    """Replace what the user named on the command line, and keep the arms of the stacks he chose.

    Raises UserError for an unknown name, or when no arm is left.
    """
    for kind, values, allowed in (("model", models, NETWORKS), ("precision", precisions, PRECISIONS)):
        for value in values:
            if value not in allowed:
                raise unknown(kind, value, allowed)
    for batch_size in batch_sizes:
        if not 1 <= batch_size <= MAX_BATCH_SIZE:
            raise UserError(f"--batch-size {batch_size}: allowed: 1 to {MAX_BATCH_SIZE}")
    arms = tuple(arm for arm in suite.arms if not chosen_stacks or arm.stack in chosen_stacks)
    if not arms:
        present = ", ".join(dict.fromkeys(arm.stack for arm in suite.arms))
        raise UserError(f"suite {suite.name} has no arm of {', '.join(chosen_stacks)}; its stacks: {present}")
    return replace(
        suite,
        arms=arms,
        baselines=tuple(arm for arm in suite.baselines if arm in arms),
        primary=tuple(arm for arm in suite.primary if arm in arms),
        models=_distinct(models) or suite.models,
        batch_sizes=_distinct(batch_sizes) or suite.batch_sizes,
        precisions=_distinct(precisions) or suite.precisions,
    )


def _distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _text(source: Source, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise source.error(key, f"{key} must be a text")
    return value


def _name(source: Source, key: str, value: Any) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", _text(source, key, value)):
        raise source.error(key, f"{key} must be lower-case letters, digits and hyphens, at most 64")
    return str(value)


def _list(source: Source, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise source.error(key, f"{key} must be a list with at least one element")
    if len({repr(each) for each in value}) != len(value):
        raise source.error(key, f"{key} names something twice")
    return value


def _one_of(allowed: Sequence[str]) -> Callable[[Source, str, Any], str]:
    def read(source: Source, key: str, value: Any) -> str:
        if value not in allowed:
            raise source.error(key, f"unknown {key} {value!r}; allowed: {', '.join(allowed)}")
        return str(value)

    return read


def _some_of(allowed: Any) -> Callable[[Source, str, Any], tuple[str, ...]]:
    def read(source: Source, key: str, value: Any) -> tuple[str, ...]:
        for each in _list(source, key, value):
            if not isinstance(each, str) or each not in allowed:
                raise source.error(key, f"unknown {key.removesuffix('s')} {each!r}; allowed: {', '.join(allowed)}")
        return tuple(value)

    return read


def _batch_sizes(source: Source, key: str, value: Any) -> tuple[int, ...]:
    for each in _list(source, key, value):
        if type(each) is not int or not 1 <= each <= MAX_BATCH_SIZE:
            raise source.error(key, f"{key} must be whole numbers from 1 to {MAX_BATCH_SIZE}, not {each!r}")
    return tuple(value)


def _arms(source: Source, key: str, value: Any) -> tuple[Arm, ...]:
    return tuple(_arm(source, key, each) for each in _list(source, key, value))


def _arm(source: Source, key: str, value: Any) -> Arm:
    stack, _, variant = value.partition("/") if isinstance(value, str) else ("", "", "")
    if stack not in stacks():
        raise source.error(key, f"unknown stack in {value!r}; allowed: {', '.join(stacks())}")
    if variant not in stacks()[stack].variants:
        raise source.error(key, f"unknown variant in {value!r}; {stack} has: {', '.join(stacks()[stack].variants)}")
    return Arm(stack, variant)
