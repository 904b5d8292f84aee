"""Everything that can go wrong with a call, as one tree.

    Failure
    ├── InvalidRequest      400  the body does not follow the contract
    ├── Unauthorized        401  no credential, or a wrong one
    ├── Forbidden           403  the credential may not do this
    ├── NotFound            404  no such route or named action
    ├── MethodNotAllowed    405  a known route with another method
    ├── WrongType           409  the key holds another Redis type
    ├── Conflict            409  a condition did not hold
    ├── TooLarge            413  body, key, value or answer over its limit
    ├── RateLimited         429  too many calls; ``retry_after`` says when
    ├── InvalidResponse     500  the answer breaks its schema
    ├── Internal            500  a bug
    ├── CircuitOpen         503  the shard's circuit is open
    ├── Overloaded          503  this instance has no capacity; nothing was done
    ├── Unrecorded          503  the audit record can't be stored, in strict mode
    ├── RedisUnavailable    503  Redis gives no usable reply now
    │   ├── Declined             Redis is healthy and declines this call
    │   │   └── Unfinished       Redis did a write, but not its TTL or record
    │   ├── NotYet               Redis answers, but is not ready yet
    │   ├── TlsFailed            TLS fails: one side doesn't accept the other's certificate
    │   └── LockedOut            Redis refuses our user or password
    │       └── NoPassword       the file of the password can't be read
    └── DeadlineExceeded    504  no answer came in time
        ├── Unconfirmed          the replicas did not confirm the write in time
        └── AnsweredLate         Redis answered too late for the second command

A ``code`` and its status are wire format: they are never renamed, renumbered or reused. Foreign
exceptions are turned into these where they enter: those of JSON in `contract/request.py`, those of
Redis in `store/`. `api/envelope.py` turns these into answers.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AnsweredLate",
    "CircuitOpen",
    "Conflict",
    "DeadlineExceeded",
    "Declined",
    "Failure",
    "Forbidden",
    "Internal",
    "InvalidRequest",
    "InvalidResponse",
    "LockedOut",
    "MethodNotAllowed",
    "NoPassword",
    "NotFound",
    "NotYet",
    "Overloaded",
    "RateLimited",
    "RedisUnavailable",
    "TlsFailed",
    "TooLarge",
    "Unauthorized",
    "Unconfirmed",
    "Unfinished",
    "Unrecorded",
    "WrongType",
    "all_failures",
]


class Failure(Exception):
    """Tell why a call failed, in the words the caller reads.

    ``message`` is one sentence for a flow author: it names the field or the remedy and never
    carries a stored value or a secret. ``retryable`` says whether the very same call may
    succeed later *and* is safe to repeat. ``retry_after`` is in seconds. ``shard`` is the name of
    the shard where a command failed; None where no command was run.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    default_retryable: ClassVar[bool] = False
    default_retry_after: ClassVar[float | None] = None
    """Used if the raiser gives no ``retry_after``."""
    probe_soon: ClassVar[bool] = False
    """Whether the reason passes by itself, so that a circuit need not stay open for its time."""

    __slots__ = ("message", "retry_after", "retryable", "shard")

    def __init__(
        self, message: str, *, retryable: bool | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_after = self.default_retry_after if retry_after is None else retry_after
        self.shard: str | None = None

    @property
    def detail(self) -> dict[str, str] | None:
        """What is logged and recorded of it, and not told to the caller."""
        return None


class InvalidRequest(Failure):
    """The body does not follow the contract; the message names the field."""

    __slots__ = ()
    code, status = "invalid_request", 400


class Unauthorized(Failure):
    """No credential was presented, or a wrong one.

    ``why`` is for the operator: the caller is answered the same whatever is wrong.
    """

    __slots__ = ("why",)
    code, status = "unauthorized", 401

    def __init__(
        self,
        message: str,
        why: str | None = None,
        *,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, retryable=retryable, retry_after=retry_after)
        self.why = why

    @property
    def detail(self) -> dict[str, str] | None:
        return None if self.why is None else {"why": self.why}


class Forbidden(Failure):
    """The credential is known and may not do this."""

    __slots__ = ()
    code, status = "forbidden", 403


class NotFound(Failure):
    """No such route or named action."""

    __slots__ = ()
    code, status = "not_found", 404


class MethodNotAllowed(Failure):
    """A known route with another method; the header ``Allow`` names the right ones."""

    __slots__ = ()
    code, status = "method_not_allowed", 405


class WrongType(Failure):
    """The key holds another Redis type than the operation works on."""

    __slots__ = ()
    code, status = "wrong_type", 409


class Conflict(Failure):
    """A condition did not hold, or an idempotency key came back with another body."""

    __slots__ = ()
    code, status = "conflict", 409


class TooLarge(Failure):
    """The body, the key, the value or the answer is over its limit."""

    __slots__ = ()
    code, status = "too_large", 413


class RateLimited(Failure):
    """The caller sends more than it may."""

    __slots__ = ()
    code, status, default_retryable, default_retry_after = "rate_limited", 429, True, 1.0


class InvalidResponse(Failure):
    """The reply of Redis does not fit the operation's response schema."""

    __slots__ = ()
    code, status = "invalid_response", 500


class Internal(Failure):
    """A bug in flowcache. The traceback is in the log, never in the answer."""

    __slots__ = ()
    code, status = "internal", 500


class CircuitOpen(Failure):
    """The shard's circuit is open; nothing was sent to Redis."""

    __slots__ = ()
    code, status, default_retryable, default_retry_after = "circuit_open", 503, True, 1.0


class Overloaded(Failure):
    """This instance has no capacity for the call. Nothing was done; the call may be repeated."""

    __slots__ = ()
    code, status, default_retryable, default_retry_after = "overloaded", 503, True, 1.0


class Unrecorded(Failure):
    """The audit record of the call can't be stored, so the call is refused.

    Only where `audit.mode` is ``strict``. Neither this nor `Overloaded` says anything about a
    shard: both are raised outside of the circuits.
    """

    __slots__ = ()
    code, status, default_retryable, default_retry_after = "audit_unavailable", 503, True, 1.0


class RedisUnavailable(Failure):
    """Redis refused the command, or the connection to it was lost."""

    __slots__ = ()
    code, status, default_retryable, default_retry_after = "redis_unavailable", 503, True, 1.0


class Declined(RedisUnavailable):
    """Redis is well and declines this call: out of memory, disk full, too many calls wait.

    It says nothing about the health of the shard: other calls go on.
    """

    __slots__ = ()


class Unfinished(Declined):
    """Redis did a write and then declined its TTL or its record. Repeating it could do it twice."""

    __slots__ = ()
    default_retryable = False


class TlsFailed(RedisUnavailable):
    """Redis is reachable, but TLS fails: one side doesn't accept the other's certificate."""

    __slots__ = ()


class LockedOut(RedisUnavailable):
    """Redis answers, but refuses flowcache's user or password."""

    __slots__ = ()


class NoPassword(LockedOut):
    """The file of flowcache's password for Redis can't be read, so none can be shown."""

    __slots__ = ()


class NotYet(RedisUnavailable):
    """Redis answers, and says that it is not ready: it loads its data, it runs a script.

    It takes no time to be told so, and it passes: a circuit is probed again soon.
    """

    __slots__ = ()
    probe_soon = True


class DeadlineExceeded(Failure):
    """No answer came from Redis before the call's deadline."""

    __slots__ = ()
    code, status, default_retryable, default_retry_after = "deadline_exceeded", 504, True, 1.0


class Unconfirmed(DeadlineExceeded):
    """The replicas did not confirm the write, or an earlier one, in time.

    The message says whether the primary did it.
    """

    __slots__ = ()
    probe_soon = True


class AnsweredLate(DeadlineExceeded):
    """Redis answered, and the deadline had passed before the rest could be asked for.

    A read needs a second command at times, and a write whose script Redis has forgotten. It says
    that Redis is well.
    """

    __slots__ = ()


def all_failures() -> tuple[type[Failure], ...]:
    """Return each kind of failure, in the order of the contract's table."""
    return tuple(Failure.__subclasses__())
