"""One call: what is known of it while it runs, and what came of it. Knows no HTTP."""

from __future__ import annotations

import structlog

from flowcache.audit.attempt import Attempt
from flowcache.errors import Failure, Internal

__all__ = ["Call", "Outcome", "as_failure", "bug"]

_log = structlog.get_logger(__name__)


class Call:
    """What is known of a call so far. What its records say of it stands in ``attempt``."""

    __slots__ = ("attempt", "deadline", "is_counted", "operation", "repeatable", "started")

    def __init__(self, attempt: Attempt, started: float) -> None:
        self.attempt = attempt
        self.started = started
        """When it came (monotonic seconds); its latency counts from here."""
        self.operation: str | None = None
        """As the caller named it: SET of a hash runs as HSET."""
        self.deadline: float | None = None
        self.repeatable = True
        """Whether nothing was done that could be done twice."""
        self.is_counted = False
        """Whether it was counted: then its answer is known."""


class Outcome:
    """What came of a call: ``body`` is the answer's, ``failure`` is None where it succeeded."""

    __slots__ = ("body", "failure")

    def __init__(self, body: bytes, failure: Failure | None = None) -> None:
        self.body = body
        self.failure = failure


def bug(request_id: str) -> Internal:
    """Return what a caller is told of a bug: nothing but where to look."""
    return Internal(f"A bug in flowcache; its log tells more under {request_id}.")


def as_failure(fault: Exception, request_id: str, **where: str | None) -> Failure:
    """Return the failure to answer with when ``fault`` was raised; a bug is logged with ``where``.

    It has no traceback: that refers to the frames of the call, which may refer to the failure, and
    such a cycle would keep the call and its body in memory until the garbage collector runs.
    """
    if not isinstance(fault, Failure):
        _log.error("a bug", request_id=request_id, **where, exc_info=fault)
        return bug(request_id)
    fault.__traceback__ = fault.__context__ = None
    return fault
