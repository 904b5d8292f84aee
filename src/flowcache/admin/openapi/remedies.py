"""An example of each failure, and what a flow should do about it."""

from __future__ import annotations

from typing import NamedTuple

from flowcache.api.app import ROUTE
from flowcache.errors import Failure

__all__ = ["REMEDIES", "Remedy", "first_line"]


class Remedy(NamedTuple):
    """An example message of a code, and what a flow should do about it."""

    error: str
    advice: str


_OPEN_FATE = (
    "Continue without the cache. Repeat the call only if `retryable` is true, after `Retry-After` "
    "seconds: then a write without an `idempotencyKey` was not done, and a write with one, sent "
    "again with the same body, is done once. If it is false, a write may have been done, or may "
    "be done a moment later."
)
"""Advice if Redis may have done the write; docs/flow-authors.md explains it."""

REMEDIES: dict[str, Remedy] = {
    "invalid_request": Remedy(
        "ttl: expected a whole number of seconds from 1 to 2592000, got a string 'soon'.",
        "Correct the flow: `error` names the field and what was expected. Repeating fails again.",
    ),
    "unauthorized": Remedy(
        "No credential; send the header Authorization: Bearer <token>.",
        "Send the token that the operator of the service gave you.",
    ),
    "forbidden": Remedy(
        "This credential may not do this; it lacks data:write.",
        "Ask the operator for the permission. Repeating fails again.",
    ),
    "not_found": Remedy(
        "There is no POST /data-action.",
        f"Correct the URL: data actions go to `POST {ROUTE}`.",
    ),
    "method_not_allowed": Remedy(
        f"GET is not allowed on {ROUTE}; use POST.",
        "Send the method that the header `Allow` names.",
    ),
    "wrong_type": Remedy(
        "The key holds another type of value.",
        "Use the operations of the type that the key was written with, or another key.",
    ),
    "conflict": Remedy(
        "The idempotency key was used with another body.",
        "Use one `idempotencyKey` for one write only; the first write stands.",
    ),
    "too_large": Remedy(
        "body: over the limit of 262144 bytes. Split the value over several keys.",
        "Send or store less under one key.",
    ),
    "rate_limited": Remedy(
        "Too many calls.",
        "Nothing was done. Wait for the seconds in `Retry-After`; continue without the cache until "
        "then.",
    ),
    "invalid_response": Remedy(
        "What Redis answered to HGETALL does not fit its response schema.",
        "Continue without the cache, and delete or rewrite the key: another program wrote it. "
        "A write may have been done.",
    ),
    "internal": Remedy(
        "A bug in flowcache; its log tells more under 5f0c9a7e2b1d4c68-0000002a.",
        "Continue without the cache, and report the `requestId` to the operator. A write may have "
        "been done.",
    ),
    "circuit_open": Remedy(
        "Redis has not been answering for this key; it is given time to recover.",
        "Continue without the cache. Redis is tried again after `Retry-After` seconds; it may "
        "still fail, or an operator may keep the circuit open.",
    ),
    "overloaded": Remedy(
        "flowcache has too many calls at work; this call was not begun.",
        "Nothing was done. Continue without the cache, or repeat the call after `Retry-After` "
        "seconds.",
    ),
    "audit_unavailable": Remedy(
        "The audit journal can't be written, so nothing was done.",
        _OPEN_FATE,
    ),
    "redis_unavailable": Remedy(
        "Redis is unreachable.",
        _OPEN_FATE,
    ),
    "deadline_exceeded": Remedy(
        "Redis did not answer in time.",
        _OPEN_FATE,
    ),
}
"""Code -> its example and its remedy."""


def first_line(kind: type[Failure]) -> str:
    """Return the first line of what is said of a failure, with the backticks of Markdown."""
    return (kind.__doc__ or kind.__name__).partition("\n")[0].replace("``", "`")
