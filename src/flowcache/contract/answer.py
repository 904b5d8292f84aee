"""The envelope of every answer: one JSON object on one line, which ends with a line break.

Wire compatibility: fields are never renamed or removed; a new one may be added to `metadata`.
The envelope holds by construction: these two structs are the only things that are sent.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from flowcache.errors import Failure, InvalidResponse, TooLarge

__all__ = ["Answer", "FailedAnswer", "Metadata", "encode", "encode_failed", "failed", "succeeded"]


class Metadata(msgspec.Struct, frozen=True, gc=False):
    """About the call. ``hit`` is null where nothing was looked up: a write is not a hit."""

    requestId: str  # noqa: N815 - wire names
    latencyMs: float  # noqa: N815
    operation: str | None
    hit: bool | None
    stale: Literal[True] | msgspec.UnsetType = msgspec.UNSET
    """There only when it is true: a replica answered in its primary's place."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The answer to a call that did what it was asked."""

    success: bool
    data: Any
    metadata: Metadata


class FailedAnswer(msgspec.Struct, frozen=True, gc=False):
    """The answer to a call that did not."""

    success: bool
    data: Any
    metadata: Metadata
    error: str
    code: str
    retryable: bool


_ENCODER = msgspec.json.Encoder()


def succeeded(
    data: object,
    request_id: str,
    latency_ms: float,
    operation: str | None,
    hit: bool | None,
    stale: bool = False,
) -> Answer:
    """Wrap an operation's data."""
    metadata = Metadata(request_id, latency_ms, operation, hit, True if stale else msgspec.UNSET)
    return Answer(True, data, metadata)


def failed(
    failure: Failure, request_id: str, latency_ms: float, operation: str | None
) -> FailedAnswer:
    """Wrap a failure. A failure is no miss: ``hit`` is null."""
    metadata = Metadata(request_id, latency_ms, operation, None)
    return FailedAnswer(False, None, metadata, failure.message, failure.code, failure.retryable)


def encode(answer: Answer | FailedAnswer, max_bytes: int) -> bytes:
    """Return the answer's bytes, with the line break at the end.

    Raises:
        TooLarge: it is longer than ``max_bytes``, the line break included. It is never cut.
        InvalidResponse: its data can't be written as JSON.
    """
    try:
        encoded = _ENCODER.encode(answer) + b"\n"
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError, TypeError, ValueError):
        raise InvalidResponse("The answer can't be written as JSON.") from None
    if len(encoded) > max_bytes:
        raise TooLarge(
            f"The answer is {len(encoded)} bytes; at most {max_bytes} are sent. Store less a key."
        )
    return encoded


def encode_failed(
    failure: Failure, request_id: str, latency_ms: float, operation: str | None
) -> bytes:
    """Return the bytes of the answer to a call that failed."""
    return _ENCODER.encode(failed(failure, request_id, latency_ms, operation)) + b"\n"
