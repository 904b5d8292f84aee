"""Keys of any type."""

from __future__ import annotations

from flowcache.contract.bounds import DEFAULT_BOUNDS, Bounds
from flowcache.contract.request import Request
from flowcache.operations.operation import (
    READS,
    WRITES,
    Operation,
    Repeated,
    Result,
    Sample,
    Ttl,
    on_key,
    unexpected,
)
from flowcache.operations.parameters import Nothing
from flowcache.operations.replies import Number
from flowcache.ports import Reply, Values

__all__ = ["OPERATIONS"]


def _read_exists(reply: Reply, _: Bounds = DEFAULT_BOUNDS) -> Result:
    if type(reply) is not int or reply not in (0, 1):
        raise unexpected("EXISTS")
    return Result(reply, reply == 1)


def _expire(request: Request, _: Nothing) -> tuple[bytes, ...]:
    return b"EXPIRE", request.key, b"%d" % request.ttl


_MISSING = -2
"""What TTL replies where there is no key."""


def _read_ttl(reply: Reply, _: Bounds = DEFAULT_BOUNDS) -> Result:
    if type(reply) is not int or reply < _MISSING:
        raise unexpected("TTL")
    return Result(None, False) if reply == _MISSING else Result(reply, True)


OPERATIONS = (
    Operation(
        name="EXISTS",
        summary="Tell whether there is the key: 1, or 0 on a miss.",
        permissions=READS,
        words=on_key(b"EXISTS"),
        uses=("EXISTS key",),
        values=Values.NONE,
        repeated=Repeated.NATURALLY,
        read=_read_exists,
        answers=int,
        sample=Sample("profile:42", 1, {"miss": 0}),
    ),
    Operation(
        name="EXPIRE",
        summary="Give the key, of any type, the TTL `ttl`; returns 1, or 0 if there is no key.",
        permissions=WRITES,
        words=_expire,
        uses=("EXPIRE key x",),
        values=Values.NONE,
        ttl=Ttl.IN_WORDS,
        repeated=Repeated.RECORDED,
        read=Number("EXPIRE"),
        answers=int,
        sample=Sample("profile:42", 1, {"none": 0}, {"ttl": 600}),
    ),
    Operation(
        name="TTL",
        summary="Return the seconds that the key has left, -1 if it has no TTL, null on a miss.",
        permissions=READS,
        words=on_key(b"TTL"),
        uses=("TTL key",),
        values=Values.NONE,
        repeated=Repeated.NATURALLY,
        read=_read_ttl,
        answers=int | None,
        sample=Sample("profile:42", 600, {"miss": -2}),
    ),
    Operation(
        name="DEL",
        summary="Remove the key, whatever its type; returns how many keys were removed.",
        permissions=WRITES,
        words=on_key(b"UNLINK"),  # as DEL, but Redis frees a large value in the background
        uses=("UNLINK key",),
        values=Values.NONE,
        repeated=Repeated.RECORDED,
        read=Number("DEL"),
        answers=int,
        sample=Sample("profile:42", 1, {"none": 0}),
    ),
)
