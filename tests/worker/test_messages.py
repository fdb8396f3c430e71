import json
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.codec import CodecError, decode, encode
from bench.worker.messages import REQUESTS, Done, RunSlice, batch_interval_ns, read_request, request_line

PLAIN = {
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(),
    NoneType: st.none(),
}


def strategy(hint):
    """Return a strategy for a field's type, whose values JSON can hold."""
    if hint in PLAIN:
        return PLAIN[hint]
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return st.builds(hint, **{field.name: strategy(hints[field.name]) for field in fields(hint)})
    if get_origin(hint) is UnionType:
        return st.one_of(map(strategy, get_args(hint)))
    if get_origin(hint) is dict:
        return st.dictionaries(st.text(), strategy(get_args(hint)[1]), max_size=3)
    *items, last = get_args(hint)
    if last is Ellipsis:
        return st.lists(strategy(items[0]), max_size=3).map(tuple)
    return st.tuples(*map(strategy, (*items, last)))


@pytest.mark.parametrize("kind", REQUESTS.values(), ids=REQUESTS)
@given(data=st.data())
def test_requests_and_replies_are_equal_after_a_round_trip(kind, data) -> None:
    request = data.draw(strategy(kind))
    line = request_line(request)
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert read_request(line) == request
    reply = data.draw(strategy(kind.reply_type()))
    assert decode(kind.reply_type(), json.loads(json.dumps(encode(reply)))) == reply


def test_fields_with_a_default_may_be_missing() -> None:
    defaults = {field.name for field in fields(RunSlice) if field.default is not MISSING}
    assert defaults == {"begin_ns", "asynchronous", "lead_in_ns"}
    assert read_request('{"do": "RunSlice", "case": "c", "budget_ns": 2, "lead_in": 1}') == RunSlice("c", 2, 1)


@pytest.mark.parametrize(
    "line", ['{"do": "RunSlice", "case": 1, "budget_ns": 2, "lead_in": 1}', '{"do": "Save", "case": "c", "more": 1}']
)
def test_a_line_with_other_fields_is_refused(line) -> None:
    with pytest.raises(CodecError):
        read_request(line)


def test_a_request_without_a_result_has_an_empty_reply() -> None:
    assert encode(Done()) == {}


def test_workers_together_take_the_inverse_of_their_added_rates() -> None:
    assert batch_interval_ns([10, 10], [100, 100]) == 5
    assert batch_interval_ns([10, 5], [100, 100]) == pytest.approx(100 / 15)
