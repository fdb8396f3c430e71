import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.codec import CodecError
from bench.records import (
    KINDS,
    Choice,
    Conditions,
    End,
    Failure,
    Overhead,
    Proof,
    Record,
    Reference,
    Slice,
    SplitTrial,
    Start,
    TrainedEpoch,
    counted_ns,
    from_line,
    to_line,
    watched_ns,
)
from bench.worker.messages import EpochReply

CONDITIONS = Conditions(1, 2, 3, 4, 0.5, None, -7, 12)
SLICE = Slice("a", "c", 1, 0, 2, (5, 6, 7), (1, 2), (10, 20), 30, 1, CONDITIONS)
EPOCH = TrainedEpoch("a", "c", 1, 0, 2, EpochReply(10, 0.5, 11, 12, 1, "d", 7, 0), 0.25, CONDITIONS)
CHOICE = Choice("a", "c", 2, 4, (SplitTrial(2, 4, ((5, 6), (7, 8))), SplitTrial(8, 1, (), "exited")))
PROOF = Proof("a", "c", "fp32", 2, ("k", "l"), {"v": "1"}, 10, "0", 0.9, 1e-6, 1.0, 5, 7)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from([name for kind in KINDS.values() for name in kind.__dataclass_fields__] + ["wall_ns"])


@pytest.mark.parametrize(
    "record", [SLICE, EPOCH, PROOF, Overhead((1, 2)), Overhead(()), CHOICE, Start("a", "c", True, 1, 2, 3)]
)
def test_a_record_is_read_back_unchanged(record) -> None:
    assert from_line(to_line(record)) == record


def test_a_line_is_one_flat_object() -> None:
    assert json.loads(to_line(EPOCH)) == {
        "kind": "trainedepoch", "arm": "a", "case": "c", "block": 1, "round": 0, "position": 2,
        "images": 10, "loss": 0.5, "wall_ns": 11, "cpu_ns": 12, "wait_ns": 1, "digest": "d", "memory_bytes": 7,
        "involuntary_switches": 0, "losses": [], "test_accuracy": 0.25,
        "idle_cpu_ns": 1, "harness_cpu_ns": 2, "steal_ns": 3, "throttled_ns": 4, "load": 0.5, "frequency_hz": None,
        "foreign_ns": -7, "watched_ns": 12, "counted_ns": None, "parts_ns": [],
    }  # fmt: skip


def test_every_record_has_a_kind_of_its_own() -> None:
    assert set(KINDS.values()) == set(get_args(Record))
    assert len(KINDS) == len(set(KINDS.values()))


def test_older_lines_lack_what_was_not_recorded() -> None:
    content = json.loads(to_line(SLICE))
    del content["foreign_ns"], content["watched_ns"], content["counted_ns"]
    older = from_line(json.dumps(content))
    assert (older.conditions.foreign_ns, watched_ns(older), counted_ns(older)) == (None, 20, 20)


@pytest.mark.parametrize("record", [SLICE, EPOCH, PROOF, End("complete", 1)], ids=lambda record: type(record).__name__)
def test_a_field_of_another_type_is_named(record) -> None:
    kind, *fields = json.loads(to_line(record)).items()
    for name, value in fields:
        wrong = 1 if isinstance(value, str) else "x"
        with pytest.raises(CodecError) as caught:
            from_line(json.dumps(dict([kind, *fields]) | {name: wrong}))
        assert str(caught.value).startswith(f"{kind[1]}.{name} must be ")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "is not JSON"),
        ("nonsense", "is not JSON"),
        ("[]", "is not a record; the kinds are reference, "),
        ('{"kind":"other"}', "is not a record"),
        ('{"kind":[]}', "is not a record"),
        ('{"status":"x","wall_ns":1}', "is not a record"),
        ('{"kind":"end"}', "end lacks status, wall_ns"),
        ('{"kind":"end","status":1,"wall_ns":1}', "end.status must be a string"),
        ('{"kind":"end","status":"x","wall_ns":true}', "end.wall_ns must be an integer"),
        ('{"kind":"end","status":"x","wall_ns":1.0}', "end.wall_ns must be an integer"),
        ('{"kind":"end","status":"x","wall_ns":NaN}', "NaN is not a finite number"),
        ('{"kind":"end","status":"x","wall_ns":1,"wall_ns":2}', "an object has a key twice"),
        ('{"kind":"end","status":"x","wall_ns":1,"b\\na":2}', r"end has the unknown 'b\na'; allowed: status, wall_ns"),
        ('{"kind":"end","status":"x","wall_ns":9223372036854775808}', "end.wall_ns is out of range"),
        ('{"kind":"overhead","samples_ns":["1"]}', "overhead.samples_ns must be a list of integers"),
        ('{"kind":"overhead","samples_ns":[1,true]}', "overhead.samples_ns must be a list of integers"),
        (
            '{"kind":"overhead","samples_ns":[-9223372036854775809]}',
            "overhead.samples_ns has an integer that is out of",
        ),
        ("[" * 100_000, "is not JSON"),
        ("1" * 5000, "is not JSON"),
    ],
    ids=lambda value: value[:40],
)
def test_a_line_that_is_not_a_record_is_refused_with_the_reason(line, problem) -> None:
    with pytest.raises(CodecError) as caught:
        from_line(line)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=80) | st.dictionaries(st.sampled_from(["kind", "status", "arm"]), st.text()).map(json.dumps))
def test_no_text_makes_the_reader_crash(line) -> None:
    with pytest.raises(CodecError):
        from_line(line)


@given(st.sampled_from([*KINDS]), st.dictionaries(field_names, json_values, max_size=25))
def test_no_fields_make_the_reader_crash(kind, content) -> None:
    try:
        record = from_line(json.dumps({"kind": kind} | content))
    except CodecError:
        return
    assert isinstance(record, KINDS[kind])


@given(st.sampled_from([SLICE, EPOCH, PROOF]), field_names, json_values)
def test_no_single_field_makes_the_reader_crash(record, name, value) -> None:
    try:
        changed = from_line(json.dumps(json.loads(to_line(record)) | {name: value}))
    except CodecError:
        return
    assert from_line(to_line(changed)) == changed


def test_the_accuracy_of_the_reference_is_the_share_of_equal_labels() -> None:
    assert Reference("m", "0123", "0129").accuracy == 0.75


def test_the_total_of_a_start_is_the_sum_of_its_parts() -> None:
    assert Start("a", "c", False, 10, 20, 30).total_ns == 60


def test_a_failure_is_of_an_arm_unless_it_names_a_block() -> None:
    assert from_line('{"kind":"failure","arm":"a","case":"c","block":null,"reason":"r"}') == Failure(
        "a", "c", None, "r"
    )
