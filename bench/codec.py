"""Frozen dataclasses to and from JSON: journal lines, run.json, the messages of workers."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from math import isfinite
from typing import Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

_T = TypeVar("_T")

# From a JSON value to a field's value; raises CodecError for a value of another type.
Reader: TypeAlias = Callable[[Any], Any]

# The metadata of a field whose own fields are written into the JSON object of the dataclass around it.
FLAT = {"flat": True}

# Larger integers would overflow where they become floats.
MIN_INT, MAX_INT = -(2**63), 2**63 - 1
# The longest text that a report shows.
LONGEST_TEXT = 2000
# A list, an object or a text takes much more memory than the few characters that it can have.
MOST_PARTS = 2_000_000


class CodecError(ValueError):
    """JSON that does not fit the dataclass it is read as; `path` leads to the field, such as `data.name`."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(f"{path} {problem}".strip())
        self.problem, self.path = problem, path

    def inside(self, name: str) -> CodecError:
        """Return the same problem, seen from the object or list that has `name` as a field or index."""
        shown = name if name.isprintable() else ascii(name)
        return CodecError(self.problem, f"{shown}.{self.path}" if self.path else shown)


def read_json(text: str) -> Any:
    """Return the value in a JSON text that anybody may have written, with texts that are safe to show.

    Control characters, and others that change how a text around them is shown, are escaped; what is longer than
    LONGEST_TEXT is cut, unless it consists of digits, and ends with a digest of all of it. Raises CodecError for texts
    that are not JSON, also for those that only Python reads: NaN, infinities and repeated keys.
    """
    if sum(map(text.count, '[{"')) > MOST_PARTS:
        raise CodecError(f"has more than {MOST_PARTS:,} lists, objects and texts")
    try:
        value = _STRICT_JSON.decode(text)
        # Most lines of a journal have neither an escape nor a long text.
        return value if "\\" not in text and text.isprintable() and len(text) <= LONGEST_TEXT else _safe(value)
    except (ValueError, RecursionError) as error:
        raise CodecError(f"is not JSON ({error})") from error


def _safe(value: Any) -> Any:
    if isinstance(value, str):
        return _safe_text(value)
    if isinstance(value, dict):
        return {_safe_text(key): _safe(item) for key, item in value.items()}
    # Samples are long lists of numbers.
    if isinstance(value, list) and not set(map(type, value)) <= {int}:
        return [_safe(item) for item in value]
    return value


def _safe_text(text: str) -> str:
    if len(text) > LONGEST_TEXT and not (text.isascii() and text.isdigit()):
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
        text = f"{text[:LONGEST_TEXT]}... ({len(text):,} characters, SHA-256 {digest})"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


def _number(text: str) -> float:
    if not isfinite(value := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(content := dict(pairs)) != len(pairs):
        raise ValueError("an object has a key twice")
    return content


_STRICT_JSON = json.JSONDecoder(parse_float=_number, parse_constant=_number, object_pairs_hook=_object)


def encode(value: Any) -> Any:
    """Return what `json.dumps` writes: dataclasses as dictionaries, at any depth."""
    if is_dataclass(value):
        content: dict[str, Any] = {}
        for field in fields(value):
            inner = encode(getattr(value, field.name))
            content |= inner if "flat" in field.metadata else {field.name: inner}
        return content
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    # Samples are long tuples of integers, which json.dumps writes as they are.
    if isinstance(value, tuple) and value and not isinstance(value[0], int):
        return [encode(item) for item in value]
    return value


def decode(kind: type[_T], content: Any, *, strict: bool = True) -> _T:
    """Return the dataclass in `content`, a value that `json.loads` has returned.

    Fields with a default may be missing. Unknown fields are refused if `strict`, else ignored, at any depth. Raises
    CodecError.
    """
    value: _T = _reader(kind, strict)(content)  # type: ignore[arg-type] # a type is hashable, whatever _T is
    return value


@cache
def _reader(hint: Any, strict: bool) -> Reader:  # noqa: FBT001 - the cache passes it by position
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return _dataclass_reader(hint, strict)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        read = _reader(inner, strict)
        return lambda value: None if value is None else read(value)
    if origin is tuple and arguments[-1:] == (...,):
        read = _reader(arguments[0], strict)
        return lambda value: tuple(
            _inside(str(index), read, item) for index, item in enumerate(_require(value, list, "a list"))
        )
    if origin is tuple:
        readers = [_reader(argument, strict) for argument in arguments]
        return lambda value: _read_fixed(readers, value)
    if origin is dict:
        read = _reader(arguments[1], strict)
        return lambda value: {key: _inside(key, read, item) for key, item in _require(value, dict, "an object").items()}
    raise TypeError(f"{hint!r} can't be read from JSON")


def _require(value: Any, kind: type, name: str) -> Any:
    if type(value) is not kind:
        raise CodecError(f"must be {name}")
    return value


def _inside(name: str, read: Reader, value: Any) -> Any:
    try:
        return read(value)
    except CodecError as error:
        raise error.inside(name) from None


def _read_int(value: Any, name: str = "an integer") -> int:
    # Not isinstance: bool is a subclass of int.
    if type(value) is not int:
        raise CodecError(f"must be {name}")
    if not MIN_INT <= value <= MAX_INT:
        raise CodecError("is out of range")
    return value


def _read_ints(value: Any) -> tuple[int, ...]:
    # Most of a journal is lists of integers: each of these checks is one pass in C.
    if type(value) is not list or not set(map(type, value)) <= {int}:
        raise CodecError("must be a list of integers")
    if value and not MIN_INT <= min(value) <= max(value) <= MAX_INT:
        raise CodecError("has an integer that is out of range")
    return tuple(value)


def _read_strings(value: Any) -> tuple[str, ...]:
    if type(value) is not list or not set(map(type, value)) <= {str}:
        raise CodecError("must be a list of strings")
    return tuple(value)


_PLAIN: dict[Any, Reader] = {
    bool: lambda value: _require(value, bool, "true or false"),
    int: _read_int,
    # JSON has one type for integers and other numbers.
    float: lambda value: value if type(value) is float else float(_read_int(value, "a number")),
    str: lambda value: _require(value, str, "a string"),
    tuple[int, ...]: _read_ints,
    tuple[str, ...]: _read_strings,
}


def _read_fixed(readers: list[Reader], value: Any) -> tuple[Any, ...]:
    if len(_require(value, list, "a list")) != len(readers):
        raise CodecError(f"must have {len(readers)} items")
    return tuple(_inside(str(index), read, item) for index, (read, item) in enumerate(zip(readers, value, strict=True)))


def _dataclass_reader(kind: Any, strict: bool) -> Reader:  # noqa: FBT001 - as above
    hints = get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name], strict) for field in fields(kind) if not field.metadata}
    flat = {
        field.name: (_reader(hints[field.name], strict), [inner.name for inner in fields(hints[field.name])])
        for field in fields(kind)
        if "flat" in field.metadata
    }
    required = {field.name for field in fields(kind) if field.default is field.default_factory is MISSING} - flat.keys()
    allowed = dict.fromkeys([*readers, *(name for _, inner in flat.values() for name in inner)])

    def read(value: Any) -> Any:
        content = _require(value, dict, "an object")
        if strict and (unknown := content.keys() - allowed.keys()):
            raise CodecError(f"has the unknown {', '.join(map(ascii, sorted(unknown)))}; allowed: {', '.join(allowed)}")
        if missing := required - content.keys():
            raise CodecError(f"lacks {', '.join(sorted(missing))}")
        values = {}
        for name, reader in readers.items():
            if name in content:
                try:
                    values[name] = reader(content[name])
                except CodecError as error:
                    raise error.inside(name) from None
        for name, (reader, inner) in flat.items():
            values[name] = reader({field: content[field] for field in inner if field in content})
        return kind(**values)

    return read
