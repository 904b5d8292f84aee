"""How replies are read: what becomes data, and what is refused without being shown."""

from __future__ import annotations

import pytest

from flowcache.contract import answer
from flowcache.errors import InvalidResponse
from flowcache.operations.catalogue import CATALOGUE
from flowcache.operations.strings import from_stored
from flowcache.ports import Reply

LEAK = b"kept quiet"


@pytest.mark.parametrize(
    ("name", "reply", "data", "hit"),
    [
        ("SET", b"OK", "OK", None),
        ("GET", None, None, False),
        ("GET", b"null", None, True),
        ("GET", b"", "", True),
        ("GET", b'{"a":1}', {"a": 1}, True),
        ("GET", b"plain text", "plain text", True),
        ("GET", b"12", 12, True),
        ("GET", b"\xff\x00", {"base64": "/wA="}, True),
        ("HSET", 0, 0, None),
        ("HSET", 3, 3, None),
        ("HGETALL", {}, None, False),
        ("HGETALL", {b"a": b"1", "é".encode(): b""}, {"a": "1", "é": ""}, True),
        ("DEL", 0, 0, None),
        ("DEL", 1, 1, None),
        ("INCR", -3, -3, None),
        ("INCR", 2**53 - 1, 2**53 - 1, None),
    ],
)
def test_a_reply_is_the_data_of_the_contract(
    name: str, reply: Reply, data: object, hit: bool | None
) -> None:
    """Each operation's data is of the contract's type; only what looks a key up hits or misses."""
    assert CATALOGUE[name].read(reply) == (data, hit)


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("SET", None),
        ("SET", LEAK),
        ("SET", "OK"),
        ("SET", 1),
        ("SET", [b"OK"]),
        ("GET", "text"),
        ("GET", 1),
        ("GET", [LEAK]),
        ("GET", {LEAK: LEAK}),
        ("INCR", None),
        ("INCR", True),
        ("INCR", b"1"),
        ("INCR", 2**53),
        ("INCR", -(2**53)),
        ("HSET", None),
        ("HSET", -1),
        ("HSET", True),
        ("HSET", 1.0),
        ("HSET", LEAK),
        ("HGETALL", None),
        ("HGETALL", []),
        ("HGETALL", [LEAK, LEAK]),
        ("HGETALL", LEAK),
        ("HGETALL", {LEAK: None}),
        ("HGETALL", {LEAK: 1}),
        ("HGETALL", {1: LEAK}),
        ("HGETALL", {LEAK: b"\xff"}),
        ("HGETALL", {b"\xff": LEAK}),
        ("DEL", None),
        ("DEL", -1),
        ("DEL", False),
        ("DEL", LEAK),
    ],
)
def test_a_reply_of_another_shape_is_refused_unseen(name: str, reply: Reply) -> None:
    """What does not fit the schema is an invalid response that shows nothing of what was there."""
    with pytest.raises(InvalidResponse) as refusal:
        CATALOGUE[name].read(reply)
    message = f"What Redis answered to {name} does not fit its response schema."
    assert refusal.value.args == (message,)
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (b'"\\ud800"', '"\\ud800"'),
        (b"1e400", "1e400"),
        (b"NaN", "NaN"),
        (b"[" * 100_000, "[" * 100_000),
        (b"7" * 4301, "7" * 4301),
        (b"{'a': 1}", "{'a': 1}"),
        (b"\xef\xbb\xbf1", "\ufeff1"),
    ],
)
def test_what_no_strict_parser_takes_is_text(text: bytes, meant: str) -> None:
    """JSON that could not be sent on as JSON comes back as the text it is."""
    assert from_stored(text) == meant


@pytest.mark.parametrize(
    "text", [b"7" * 4300, b"-" + b"7" * 4300, b"1e308", b'"\\u0000"', b'{"":{"":[]}}']
)
def test_whatever_is_stored_can_be_sent(text: bytes) -> None:
    """A value that GET understands is one that the answer can hold."""
    data, hit = CATALOGUE["GET"].read(text)
    assert answer.encode(answer.succeeded(data, "id", 0.1, "GET", hit), 1 << 20)


def test_any_nesting_that_is_stored_can_be_sent() -> None:
    """However deep a stored value is, it comes back: as JSON, or else as text."""
    for depth in range(900, 1100):
        data, hit = CATALOGUE["GET"].read(b"[" * depth + b"]" * depth)
        assert answer.encode(answer.succeeded(data, "id", 0.1, "GET", hit), 1 << 20)


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_operation_is_documented(name: str) -> None:
    """Every row of the catalogue says what it does, and shows a value where it takes one."""
    operation = CATALOGUE[name]
    assert operation.summary.endswith(".")
    assert {each.name for each in operation.takes} <= set(operation.sample.fields)
    assert all(each.kind.about for each in operation.takes)
