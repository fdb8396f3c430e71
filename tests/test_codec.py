import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.codec import FLAT, CodecError, decode, encode, read_json

# Texts that read_json returns as they are.
texts = st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" \n\t"), max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@dataclass(frozen=True)
class Inner:
    size: int
    note: str = "none"


@dataclass(frozen=True)
class Outer:
    name: str
    share: float
    ready: bool
    counts: tuple[int, ...]
    names: tuple[str, ...]
    pair: tuple[str, int]
    by_name: dict[str, Inner]
    maybe: Inner | None
    flat: Inner = field(metadata=FLAT)
    items: tuple[Inner, ...] = ()
    levels: tuple[float, ...] = ()


OUTER = Outer(
    "n", 0.5, True, (1, 2), ("a",), ("b", 3), {"k": Inner(4)}, None, Inner(5, "flat"), (Inner(6),), (0.5, 1.0)
)
CONTENT = {
    "name": "n", "share": 0.5, "ready": True, "counts": [1, 2], "names": ["a"], "pair": ["b", 3],
    "by_name": {"k": {"size": 4, "note": "none"}}, "maybe": None, "size": 5, "note": "flat",
    "items": [{"size": 6, "note": "none"}], "levels": [0.5, 1.0],
}  # fmt: skip

values = st.builds(
    Outer,
    name=texts,
    share=st.floats(allow_nan=False, allow_infinity=False),
    ready=st.booleans(),
    counts=st.lists(st.integers(-(2**63), 2**63 - 1)).map(tuple),
    names=st.lists(texts).map(tuple),
    pair=st.tuples(texts, st.integers(0, 9)),
    by_name=st.dictionaries(texts, st.builds(Inner, st.integers(0, 9), texts)),
    maybe=st.none() | st.builds(Inner, st.integers(0, 9)),
    flat=st.builds(Inner, st.integers(0, 9), texts),
    items=st.lists(st.builds(Inner, st.integers(0, 9))).map(tuple),
    levels=st.lists(st.floats(allow_nan=False, allow_infinity=False)).map(tuple),
)


def test_a_dataclass_becomes_nested_json_with_flat_fields_in_the_object_around_them() -> None:
    assert json.loads(json.dumps(encode(OUTER))) == CONTENT
    assert decode(Outer, CONTENT) == OUTER


@given(values)
def test_every_value_survives_the_way_through_json(value) -> None:
    assert decode(Outer, read_json(json.dumps(encode(value), allow_nan=False))) == value


def test_fields_with_a_default_may_be_missing() -> None:
    content = {name: value for name, value in CONTENT.items() if name not in ("note", "items", "levels")}
    older = decode(Outer, content)
    assert (older.flat, older.items, older.levels) == (Inner(5), (), ())


def test_an_integer_is_a_float_as_well_and_a_boolean_is_neither() -> None:
    share = decode(Outer, CONTENT | {"share": 1, "levels": [1, 2.5]})
    assert (type(share.share), share.levels) == (float, (1.0, 2.5))
    assert all(type(level) is float for level in share.levels)
    for wrong in ({"share": True}, {"size": True}, {"counts": [True]}, {"levels": [True]}, {"ready": 1}):
        with pytest.raises(CodecError):
            decode(Outer, CONTENT | wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "name must be a string"),
        ({"share": "x"}, "share must be a number"),
        ({"share": 10**400}, "share is out of range"),
        ({"size": 2**63}, "size is out of range"),
        ({"ready": 0}, "ready must be true or false"),
        ({"counts": 1}, "counts must be a list of integers"),
        ({"counts": [2**63]}, "counts has an integer that is out of range"),
        ({"names": [1]}, "names must be a list of strings"),
        ({"pair": ["b"]}, "pair must have 2 items"),
        ({"pair": "bc"}, "pair must be a list"),
        ({"pair": ["b", "c"]}, "pair.1 must be an integer"),
        ({"by_name": []}, "by_name must be an object"),
        ({"by_name": {"k": {"size": None}}}, "by_name.k.size must be an integer"),
        ({"by_name": {"k": {}}}, "by_name.k lacks size"),
        ({"by_name": {"a\nb": {}}}, r"by_name.'a\nb' lacks size"),
        ({"maybe": {"size": 1, "other": 2}}, "maybe has the unknown 'other'; allowed: size, note"),
        ({"maybe": 1}, "maybe must be an object"),
        ({"items": [{"size": 1}, 2]}, "items.1 must be an object"),
        ({"flat": {}}, "has the unknown 'flat'; allowed: name, share, "),
    ],
)
def test_an_error_names_the_field_and_what_it_must_be(change, message) -> None:
    with pytest.raises(CodecError) as caught:
        decode(Outer, CONTENT | change)
    assert str(caught.value).startswith(message)


def test_a_missing_field_is_named_where_it_is_missing() -> None:
    with pytest.raises(CodecError, match=r"^lacks name, share$"):
        decode(Outer, {name: value for name, value in CONTENT.items() if name not in ("name", "share")})
    with pytest.raises(CodecError, match=r"^lacks size$"):
        decode(Outer, {name: value for name, value in CONTENT.items() if name != "size"})


def test_unknown_fields_are_ignored_at_any_depth_unless_strict() -> None:
    content = CONTENT | {"other": 1, "maybe": {"size": 1, "other": 2}}
    assert decode(Outer, content, strict=False).maybe == Inner(1)
    with pytest.raises(CodecError, match="'other'"):
        decode(Outer, content)


@given(json_values, st.booleans())
def test_no_content_makes_the_decoder_crash(content, strict) -> None:
    with pytest.raises(CodecError):
        decode(Outer, content, strict=strict)


@given(st.sampled_from([*CONTENT]), json_values)
def test_a_changed_field_is_refused_or_survives(name, value) -> None:
    try:
        changed = decode(Outer, CONTENT | {name: value})
    except CodecError:
        return
    assert decode(Outer, json.loads(json.dumps(encode(changed)))) == changed


@pytest.mark.parametrize(
    "text",
    ["", "x", "{", "NaN", "Infinity", "-Infinity", "1e999", "-1e999", '{"a":1,"a":2}', '[{"a":{"b":1,"b":1}}]',
     "1" * 5000, "[" * 100_000, '{"a":' * 100_000, "\ufeff1", "1 2"],
    ids=lambda text: text[:9],
)  # fmt: skip
def test_only_standard_json_is_read(text) -> None:
    with pytest.raises(CodecError, match="is not JSON"):
        read_json(text)


@given(st.text())
def test_no_text_makes_the_parser_crash(text) -> None:
    try:
        read_json(text)
    except CodecError:
        return
    json.loads(text)


@given(json_values)
def test_standard_json_is_read_as_by_the_standard_library(value) -> None:
    assert read_json(json.dumps(value)) == value


def test_a_type_that_json_does_not_have_is_a_mistake_of_the_program() -> None:
    @dataclass(frozen=True)
    class Odd:
        value: set[int]

    with pytest.raises(TypeError, match="can't be read from JSON"):
        decode(Odd, {"value": []})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\x00\x7f\x9b", r"a\x00\x7f\x9b"),
        ("right\u202eleft", r"right\u202eleft"),
        ("two\nlines\t|", "two\nlines\t|"),
        ("Größe µs ≤", "Größe µs ≤"),
        ("x" * 2001, "x" * 2000 + "... (2,001 characters, SHA-256 9f2c9dcddb048a0b)"),
        ("7" * 10_000, "7" * 10_000),
    ],
    ids=["colour", "control characters", "direction", "line", "letters", "long", "labels"],
)
@pytest.mark.parametrize("in_ascii", [True, False])
def test_texts_of_others_are_safe_to_show(text, shown, in_ascii) -> None:
    written = json.dumps({"key": [text]}, ensure_ascii=in_ascii)
    assert read_json(written) == {"key": [shown]}
    assert list(read_json(json.dumps({text: 1}))) == [shown]
