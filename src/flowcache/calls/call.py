"""One call: what is known of it while it runs, and what came of it. Knows no HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from flowcache.audit.attempt import Attempt
from flowcache.errors import Failure, Internal
from flowcache.executing import Heard, Receiver
from flowcache.ports import Command

if TYPE_CHECKING:
    from flowcache.authz.principal import Principal
    from flowcache.calls.admission import Share
    from flowcache.calls.running import Calls
    from flowcache.operations.operation import Operation

__all__ = ["Call", "Caller", "Outcome", "as_failure", "bug"]

_log = structlog.get_logger(__name__)


class Outcome:
    """What came of a call: ``body`` is the answer's, ``failure`` is None where it succeeded."""

    __slots__ = ("body", "failure")

    def __init__(self, body: bytes, failure: Failure | None = None) -> None:
        self.body = body
        self.failure = failure


class Caller:
    """Whoever waits for the outcome of a call."""

    __slots__ = ()

    def answer(self, outcome: Outcome) -> None:
        """Take the outcome. Called once, unless the call is cancelled; it must not wait."""
        raise NotImplementedError


class Call(Receiver):
    """What is known of a call so far. What its records say of it stands in ``attempt``."""

    __slots__ = (
        "attempt",
        "caller",
        "calls",
        "command",
        "deadline",
        "held",
        "is_over",
        "name",
        "operation",
        "principal",
        "repeatable",
        "share",
        "started",
        "task",
    )

    principal: Principal
    operation: Operation
    command: Command

    def __init__(self, calls: Calls, caller: Caller, attempt: Attempt, started: float) -> None:
        self.calls = calls
        self.caller = caller
        self.attempt = attempt
        self.started = started
        """When it came (monotonic seconds); its latency counts from here."""
        self.name: str | None = None
        """The operation as the caller named it: SET of a hash runs as HSET."""
        self.deadline: float | None = None
        self.repeatable = True
        """Whether nothing was done that could be done twice."""
        self.share: Share | None = None
        """Its place among the calls at work, while it has one."""
        self.held = 0
        """The weight of what is held for it: a large body or value."""
        self.task: asyncio.Task[None] | None = None
        """The last task that was made for it, if any."""
        self.is_over = False
        """Whether it was counted: then its outcome is known."""

    def hear(self, result: Heard) -> None:
        """Take what came of the command."""
        self.calls.resume(self, result)


def bug(request_id: str) -> Internal:
    """Return what a caller is told of a bug: nothing but where to look."""
    return Internal(f"A bug in flowcache; its log tells more under {request_id}.")


def as_failure(fault: BaseException, request_id: str, **where: str | None) -> Failure:
    """Return the failure to answer with when ``fault`` was raised; a bug is logged with ``where``.

    It has no traceback: that refers to the frames of the call, which may refer to the failure, and
    such a cycle would keep the call and its body in memory until the garbage collector runs.
    """
    if not isinstance(fault, Failure):
        _log.error("a bug", request_id=request_id, **where, exc_info=fault)
        return bug(request_id)
    fault.__traceback__ = fault.__context__ = None
    return fault
