"""What every answer of the contract has to be, whatever was asked."""

from __future__ import annotations

import json
from typing import Any

from tests.service import Answer

__all__ = ["STATUS", "answered", "envelope", "refused"]

STATUS = {
    "invalid_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "wrong_type": 409,
    "conflict": 409,
    "too_large": 413,
    "rate_limited": 429,
    "invalid_response": 500,
    "internal": 500,
    "circuit_open": 503,
    "overloaded": 503,
    "audit_unavailable": 503,
    "redis_unavailable": 503,
    "deadline_exceeded": 504,
}
"""The contract's codes. Written out again: the code under test must not vouch for itself."""

_SUCCESS = {"success", "data", "metadata"}
_FAILURE = _SUCCESS | {"error", "code", "retryable"}
_METADATA = {"requestId", "latencyMs", "operation", "hit"}


def envelope(answer: Answer) -> dict[str, Any]:
    """Return the answer's object; fail unless it is one, on one line, with all that is promised."""
    assert answer.headers["content-type"] == "application/json", answer
    assert answer.headers["cache-control"] == "no-store", answer
    assert answer.body.endswith(b"\n"), answer
    assert answer.body.count(b"\n") == 1, answer
    assert b"\r" not in answer.body, answer
    told = json.loads(answer.body.decode("utf-8", "strict"), parse_constant=_no_json)
    assert isinstance(told, dict), answer
    metadata = told["metadata"]
    assert metadata.keys() >= _METADATA, answer
    assert isinstance(metadata["requestId"], str), answer
    assert metadata["requestId"], answer
    assert type(metadata["latencyMs"]) in (int, float), answer
    assert metadata["latencyMs"] >= 0, answer
    assert metadata["operation"] is None or isinstance(metadata["operation"], str), answer
    assert metadata["hit"] is None or isinstance(metadata["hit"], bool), answer
    if answer.status == 200:
        assert told["success"] is True, answer
        assert told.keys() == _SUCCESS, answer
        return told
    assert told["success"] is False, answer
    assert told.keys() == _FAILURE, answer
    assert told["data"] is None, answer
    assert metadata["hit"] is None, answer
    assert STATUS[told["code"]] == answer.status, answer
    assert isinstance(told["error"], str), answer
    assert told["error"].endswith("."), answer
    assert isinstance(told["retryable"], bool), answer
    assert "Traceback" not in told["error"], answer
    return told


def _no_json(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def answered(answer: Answer) -> dict[str, Any]:
    """Return the object of a call that did what it was asked; fail when it did not."""
    told = envelope(answer)
    assert answer.status == 200, told
    return told


def refused(answer: Answer, code: str, says: str = "") -> dict[str, Any]:
    """Return the object of a call refused with ``code`` in words that hold ``says``."""
    told = envelope(answer)
    assert told.get("code") == code, told
    assert says in told["error"], told
    return told
