"""What the envelope promises: one line of strict JSON, whatever happened."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache.contract import answer
from flowcache.errors import (
    Failure,
    InvalidResponse,
    RedisUnavailable,
    TooLarge,
    all_failures,
)
from flowcache.ports import Reply
from tests.property.strategies import (
    anything,
    dumped,
    json_values,
    modest,
    objects,
    raw_bodies,
    replies,
    scalars,
    surrogates,
    texts,
)
from tests.unit.http.asgi import Answered, Endpoint

STATUS = {"ok": 200} | {kind.code: kind.status for kind in all_failures()}
MEGABYTE = 1 << 20

kinds = st.sampled_from([*all_failures(), *RedisUnavailable.__subclasses__()])


def refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not JSON")


def strict(line: bytes) -> Any:
    """Read one line of JSON as strictly as the specification has it."""
    line, end = line[:-1], line[-1:]
    assert end == b"\n"
    assert not {b"\n", b"\r"} & {line[at : at + 1] for at in range(len(line))}
    return json.loads(line.decode("utf-8", "strict"), parse_constant=refuse)


def with_data(data: object) -> bytes:
    return answer.encode(answer.succeeded(data, "id", 0.5, "GET", True), MEGABYTE)


def checked(answered: Answered) -> Any:
    """Return the envelope after checking what every envelope has."""
    envelope = strict(answered.body)
    assert envelope["metadata"].keys() == {"requestId", "latencyMs", "operation", "hit"}
    assert envelope["success"] is (answered.status == 200)
    if not envelope["success"]:
        assert envelope["data"] is None
        assert envelope["metadata"]["hit"] is None
        assert answered.status == STATUS[envelope["code"]]
        assert isinstance(envelope["retryable"], bool)
        assert envelope["error"].endswith(".")
    return envelope


@given(anything)
@modest
def test_data_is_one_line_of_strict_json_or_an_invalid_response(data: object) -> None:
    """Whatever an operation hands out is written as strict JSON or refused as a whole."""
    try:
        line = with_data(data)
    except InvalidResponse:
        return
    assert strict(line).keys() == {"success", "data", "metadata"}


@given(json_values)
@modest
def test_json_is_sent_as_it_is(data: object) -> None:
    """A JSON value arrives as the value it was."""
    assert strict(with_data(data))["data"] == data


@given(surrogates, st.sampled_from([str, lambda x: [x], lambda x: {"a": x}, lambda x: {x: 1}]))
@modest
def test_a_surrogate_is_an_invalid_response(text: str, around: Callable[[str], object]) -> None:
    """Text that is no Unicode is refused wherever it stands, and not repeated in the refusal."""
    with pytest.raises(InvalidResponse) as refusal:
        with_data(around(text))
    assert refusal.value.message == "The answer can't be written as JSON."


@given(json_values)
@modest
def test_an_answer_is_whole_or_too_large(data: object) -> None:
    """An answer as long as the limit is sent, a byte more is refused: none is cut."""
    wrapped = answer.succeeded(data, "id", 0.5, "GET", True)
    line = answer.encode(wrapped, MEGABYTE)
    assert answer.encode(wrapped, len(line)) == line
    with pytest.raises(TooLarge, match=str(len(line))):
        answer.encode(wrapped, len(line) - 1)


@given(kinds, texts, st.none() | texts, st.floats(0, 1e6))
@modest
def test_any_failure_is_one_line(
    kind: type[Failure], message: str, operation: str | None, latency_ms: float
) -> None:
    """A failure's answer has all of its fields, whatever its message and operation are."""
    envelope = strict(
        answer.encode(answer.failed(kind(message), "id", latency_ms, operation), MEGABYTE)
    )
    assert envelope == {
        "success": False,
        "data": None,
        "metadata": {
            "requestId": "id",
            "latencyMs": latency_ms,
            "operation": operation,
            "hit": None,
        },
        "error": message,
        "code": kind.code,
        "retryable": kind.default_retryable,
    }


@given(raw_bodies)
@modest
async def test_no_body_gets_a_500(raw: bytes) -> None:
    """Whatever is posted is answered with the envelope, and the fault is never ours."""
    endpoint = Endpoint()
    checked(answered := await endpoint.post(raw))
    assert answered.status in {200, 400, 413}
    assert len(endpoint.audit) == len(endpoint.metrics) == 1


@given(objects)
@modest
async def test_no_object_gets_a_500(fields: dict[str, Any]) -> None:
    """Whatever the fields are, the answer is the envelope, and the call is recorded once."""
    endpoint = Endpoint()
    envelope = checked(answered := await endpoint.post(dumped(fields)))
    assert answered.status in {200, 400, 413}
    assert endpoint.audit[0].outcome == envelope.get("code", "ok")
    assert endpoint.audit[0].request_id == envelope["metadata"]["requestId"]


@given(st.sampled_from(["GET", "SET", "HSET", "HGETALL", "DEL"]), replies, scalars)
@modest
async def test_no_reply_is_taken_for_a_bug(name: str, reply: Reply, flow: object) -> None:
    """Whatever Redis replies is an answer, or one that breaks its schema; never ``internal``."""
    endpoint = Endpoint(reply)
    fields = {"operation": name, "key": "k", "value": {"a": 1}}
    envelope = checked(await endpoint.post(dumped(fields)))
    assert envelope.get("code", "ok") in {"ok", "invalid_response"}
