"""Frozen dataclasses to and from JSON: journal lines, run.json, the messages of workers."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

# From a JSON value to a field's value; raises CodecError for a value of another type.
Reader: TypeAlias = Callable[[Any], Any]

# The metadata of a field whose own fields stand in the JSON of the dataclass around it.
FLAT = {"flat": True}

# JSON has one type for whole numbers and others, so that 1 is a float as well.
PLAIN: dict[Any, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}


class CodecError(ValueError):
    """JSON that does not fit the dataclass it is read as; `path` leads to the field, such as `data.name`."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(f"{path} {problem}".strip())
        self.problem, self.path = problem, path


def encode(value: Any) -> Any:
    """Return what `json.dumps` writes: dataclasses as dictionaries, at any depth."""
    if is_dataclass(value):
        content: dict[str, Any] = {}
        for field in fields(value):
            inner = encode(getattr(value, field.name))
            content |= inner if field.metadata else {field.name: inner}
        return content
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, tuple) and value and type(value[0]) not in PLAIN:
        return [encode(item) for item in value]
    return value


def decode(kind: type[T], content: Any, *, strict: bool = True) -> T:
    """Return the dataclass in `content`, which `json.loads` has read.

    Fields with a default may be missing. Unknown fields are refused where `strict`, else ignored, at any depth. Raises
    CodecError.
    """
    value: T = _reader(kind, strict)(content)  # type: ignore[arg-type] # a type is hashable, whatever T is
    return value


@cache
def _reader(hint: Any, strict: bool) -> Reader:  # noqa: FBT001 - the cache wants it by position
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return _dataclass_reader(hint, strict)
    if hint in PLAIN:
        return _checked(lambda value: type(value) in PLAIN[hint], hint.__name__)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        read = _reader(inner, strict)
        return lambda value: None if value is None else read(value)
    if origin is tuple and arguments[-1:] == (...,):
        return _tuple_reader(arguments[0], strict)
    if origin is tuple:
        readers = [_reader(argument, strict) for argument in arguments]
        check = _checked(lambda value: type(value) is list and len(value) == len(readers), f"a list of {len(readers)}")
        return lambda value: tuple(read(item) for read, item in zip(readers, check(value), strict=True))
    if origin is dict:
        return _dictionary_reader(arguments[1], strict)
    raise TypeError(f"{hint!r} can't be read from JSON")


def _checked(fits: Callable[[Any], bool], what: str) -> Reader:
    def read(value: Any) -> Any:
        if not fits(value):
            raise CodecError(f"must be {what}")
        return value

    return read


def _tuple_reader(hint: Any, strict: bool) -> Reader:  # noqa: FBT001 - as above
    if hint in PLAIN:
        # Most of a journal is lists of whole numbers: one pass over each of them.
        allowed = PLAIN[hint]
        plain = _checked(
            lambda value: type(value) is list and all(type(item) in allowed for item in value),
            f"a list of {hint.__name__}",
        )
        return lambda value: tuple(plain(value))
    read, check = _reader(hint, strict), _checked(lambda value: type(value) is list, "a list")
    return lambda value: tuple(_inside(str(index), read, item) for index, item in enumerate(check(value)))


def _dictionary_reader(hint: Any, strict: bool) -> Reader:  # noqa: FBT001 - as above
    read, check = _reader(hint, strict), _checked(lambda value: type(value) is dict, "an object")
    return lambda value: {key: _inside(key, read, item) for key, item in check(value).items()}


def _dataclass_reader(kind: Any, strict: bool) -> Reader:  # noqa: FBT001 - as above
    hints = get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name], strict) for field in fields(kind)}
    flat = {field.name: [inner.name for inner in fields(hints[field.name])] for field in fields(kind) if field.metadata}
    required = {field.name for field in fields(kind) if field.default is field.default_factory is MISSING}
    allowed = [name for outer in readers for name in flat.get(outer, [outer])]
    check = _checked(lambda value: type(value) is dict, "an object")

    def read(value: Any) -> Any:
        content = check(value)
        if strict and (unknown := content.keys() - set(allowed)):
            raise CodecError(f"has the unknown {', '.join(sorted(unknown))}; allowed: {', '.join(allowed)}")
        if missing := required - content.keys() - flat.keys():
            raise CodecError(f"lacks {', '.join(sorted(missing))}")
        values = {name: _inside(name, readers[name], content[name]) for name in readers.keys() & content.keys()}
        for name, inner in flat.items():
            values[name] = readers[name]({key: content[key] for key in inner if key in content})
        return kind(**values)

    return read


def _inside(name: str, read: Reader, value: Any) -> Any:
    try:
        return read(value)
    except CodecError as error:
        raise CodecError(error.problem, f"{name}.{error.path}".rstrip(".")) from None
