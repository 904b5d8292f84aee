"""Counters: INCR. A counter is a whole number under a key, with one TTL that each step renews.

Repeating an INCR counts twice, so a flow that repeats failed calls sends an `idempotencyKey`.
"""

from __future__ import annotations

import msgspec

from flowcache.authz.permissions import Permission
from flowcache.contract import coercion
from flowcache.contract.bounds import DEFAULT_BOUNDS, Bounds
from flowcache.contract.request import Request
from flowcache.operations.operation import Operation, Result, Sample, unexpected
from flowcache.ports import Command, Reply, SizeLimits

__all__ = ["INCR"]

_MAX_STEP = 999_999_999_999_999
_EXACT = 2**53
"""From here on a number is no longer exact: not in a flow, which counts in doubles, nor in Lua."""


def _incr(request: Request, sizes: SizeLimits) -> Command:
    value = None if request.value is msgspec.UNSET else request.value
    step = coercion.optional(
        "value", value, coercion.integer, -_MAX_STEP, _MAX_STEP, "steps", default=1
    )
    words = (b"INCRBY", request.key, b"%d" % step)
    return Command(words, ttl=request.ttl, writes=True, sizes=sizes)


def _read_incr(reply: Reply, _: Bounds = DEFAULT_BOUNDS) -> Result:
    if type(reply) is not int or abs(reply) >= _EXACT:
        raise unexpected("INCR")
    return Result(reply, None)


INCR = Operation(
    name="INCR",
    summary="Add `value`, 1 if absent, to the number under the key and renew its TTL; returns the "
    "new number. A key that is not there counts from 0. Not where values are encrypted.",
    permission=Permission.DATA_WRITE,
    command=_incr,
    read=_read_incr,
    answers=int,
    sample=Sample("attempts:42", 1),
    value="a whole number, which may be negative; 1 if absent",
    value_schema={
        "anyOf": [
            {"type": "integer", "minimum": -_MAX_STEP, "maximum": _MAX_STEP},
            {"type": "string", "pattern": r"^\s*[+-]?0*[0-9]{1,15}(?:\.0*)?\s*$"},
            {"$ref": "#/components/schemas/Absent"},
        ]
    },
    value_optional=True,
    example=1,
    can_be_sealed=False,  # Redis can't count what it can't read
)
