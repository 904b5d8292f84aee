"""The envelope, field by field: what flows map their variables from."""

from __future__ import annotations

import json

import pytest

from flowcache.contract import answer
from flowcache.errors import CircuitOpen, InvalidResponse


def test_a_success_has_these_fields_in_this_order() -> None:
    """Fields are never renamed or removed."""
    line = answer.encode(answer.succeeded({"a": 1}, "id", 0.42, "GET", True), 1000)
    assert line == (
        b'{"success":true,"data":{"a":1},'
        b'"metadata":{"requestId":"id","latencyMs":0.42,"operation":"GET","hit":true}}\n'
    )


def test_a_failure_has_these_fields_in_this_order() -> None:
    """A failure has all that a success has, and says what went wrong; it is no miss."""
    line = answer.encode(answer.failed(CircuitOpen("Wait."), "id", 0.42, None), 1000)
    assert line == (
        b'{"success":false,"data":null,'
        b'"metadata":{"requestId":"id","latencyMs":0.42,"operation":null,"hit":null},'
        b'"error":"Wait.","code":"circuit_open","retryable":true}\n'
    )


@pytest.mark.parametrize(
    "data", [10**5000, object(), {(1, 2): 3}, "\ud800", {"\ud800": 1}], ids=type
)
def test_what_json_can_not_say_is_an_invalid_response(data: object) -> None:
    """Data that can't be written is refused in a sentence that shows none of it."""
    with pytest.raises(InvalidResponse, match=r"^The answer can't be written as JSON\.$"):
        answer.encode(answer.succeeded(data, "id", 0.42, "GET", True), 1000)


@pytest.mark.parametrize("data", [float("nan"), float("inf"), [float("-inf")]])
def test_no_answer_holds_what_json_lacks(data: object) -> None:
    """A number that JSON lacks is never written as ``NaN`` or ``Infinity``."""
    line = answer.encode(answer.succeeded(data, "id", 0.42, "GET", True), 1000)
    assert json.loads(line)["data"] in (None, [None])


def test_line_breaks_are_escaped() -> None:
    """A stored text of many lines is one line on the wire."""
    line = answer.encode(answer.succeeded("a\r\nb\n", "id", 0.42, "GET", True), 1000)
    assert b"\\r\\n" in line
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
