"""What stands around every answer: its id, its headers, and how one tells of a failure."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import count
from math import ceil

from flowcache.calls.call import bug
from flowcache.contract.answer import encode_failed
from flowcache.errors import Failure, InvalidRequest
from flowcache.server.refusal import Refusal, Refuse

__all__ = ["JSON_HEADERS", "failed_answer", "failure_headers", "refusals", "request_ids"]


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


def failure_headers(failure: Failure) -> Sequence[tuple[bytes, bytes]]:
    """Return the headers of a failure's answer; ``Retry-After`` is in whole seconds, rounded up."""
    headers = list(JSON_HEADERS)
    if failure.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, ceil(failure.retry_after))))
    if failure.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def failed_answer(failure: Failure, request_id: str) -> Refusal:
    """Return the whole answer to a request that failed and is not a call."""
    body = encode_failed(failure, request_id, 0.0, None)
    return Refusal(request_id, failure.status, failure_headers(failure), body)


def refusals() -> Refuse:
    """Return what writes the server's own answers, to what never reached the application."""
    next_id = request_ids()

    def refuse(why: str | None) -> Refusal:
        request_id = next_id()
        return failed_answer(bug(request_id) if why is None else InvalidRequest(why), request_id)

    return refuse
