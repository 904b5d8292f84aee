"""What stands around every answer: its id, its headers, and what is said of a bug."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from math import ceil

from flowcache.contract import answer
from flowcache.errors import Failure, Internal, InvalidRequest
from flowcache.server.refusal import Refusal, Refuse

__all__ = ["JSON_HEADERS", "bug", "failure_headers", "refusals", "request_ids"]

_WHOLE = 1 << 20
"""More bytes than a refusal of the server itself ever has."""


def request_ids() -> Callable[[], str]:
    """Return a source of ids, unique among all workers and restarts.

    A random prefix a worker and a counter: what a uuid4 costs would be a tenth of a request.
    """
    prefix = os.urandom(8).hex()
    numbers = count(1)
    return lambda: f"{prefix}-{next(numbers):08x}"


JSON_HEADERS = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)


def failure_headers(failure: Failure) -> list[tuple[bytes, bytes]]:
    """Return the headers of a failure's answer; ``Retry-After`` is in whole seconds, rounded up."""
    headers = list(JSON_HEADERS)
    if failure.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, ceil(failure.retry_after))))
    if failure.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def bug(request_id: str) -> Internal:
    """Return what a caller is told of a bug: nothing but where to look."""
    return Internal(f"A bug in flowcache; its log tells more under {request_id}.")


def refusals() -> Refuse:
    """Return what writes the server's own answers, to what never reached the application."""
    next_id = request_ids()

    def refuse(why: str | None) -> Refusal:
        request_id = next_id()
        failure = bug(request_id) if why is None else InvalidRequest(why)
        body = answer.encode(answer.failed(failure, request_id, 0.0, None), _WHOLE)
        return Refusal(request_id, failure.status, failure_headers(failure), body)

    return refuse
