"""Counters. A counter is a whole number under a key, with one TTL that each step renews.

Repeating a step counts twice, so a flow that repeats failed calls sends an `idempotencyKey`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from flowcache.contract.request import Request
from flowcache.operations.operation import WRITES, Operation, Repeated, Sample, Ttl
from flowcache.operations.parameters import Whole
from flowcache.operations.replies import Number
from flowcache.ports import Bound, Values

__all__ = ["OPERATIONS"]

_MAX_STEP = 999_999_999_999_999
_EXACT = 2**53


class _Step(msgspec.Struct, frozen=True, gc=False):
    value: Annotated[
        int,
        Whole(
            -_MAX_STEP,
            _MAX_STEP,
            "steps",
            "a whole number, which may be negative; 1 if absent",
        ),
    ] = 1


def _incr(request: Request, step: _Step) -> tuple[bytes, ...]:
    return b"INCRBY", request.key, b"%d" % step.value


def _decr(request: Request, step: _Step) -> tuple[bytes, ...]:
    return b"INCRBY", request.key, b"%d" % -step.value


OPERATIONS = (
    Operation(
        name="INCR",
        summary="Add `value`, 1 if absent, to the number under the key and renew its TTL; returns "
        "the new number. A key that is not there counts from 0. Not where values are encrypted.",
        permissions=WRITES,
        parameters=_Step,
        words=_incr,
        uses=("INCRBY key x", "STRLEN key", "GET key", "EXPIRE key x"),
        values=Values.IN_CLEAR,  # Redis can't count what it can't read
        bound=Bound.COUNTER,
        ttl=Ttl.GIVEN,
        repeated=Repeated.RECORDED,
        read=Number("INCR", 1 - _EXACT),
        answers=int,
        sample=Sample("attempts:42", 1, fields={"value": 1, "ttl": 600}),
    ),
    Operation(
        name="DECR",
        summary="Subtract `value`, 1 if absent, from the number under the key and renew its TTL; "
        "returns the new number. A key that is not there counts from 0. Not where values are "
        "encrypted.",
        permissions=WRITES,
        parameters=_Step,
        words=_decr,
        uses=("INCRBY key x", "STRLEN key", "GET key", "EXPIRE key x"),
        values=Values.IN_CLEAR,
        bound=Bound.COUNTER,
        ttl=Ttl.GIVEN,
        repeated=Repeated.RECORDED,
        read=Number("DECR", 1 - _EXACT),
        answers=int,
        sample=Sample("attempts:42", 0, fields={"value": 1, "ttl": 600}),
    ),
)
