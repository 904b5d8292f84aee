"""Hashes. A field's value is a string; the whole hash has one TTL."""

from __future__ import annotations

from typing import Annotated

import msgspec

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
    over,
    unexpected,
)
from flowcache.operations.parameters import HashFields, Text, Texts
from flowcache.operations.replies import Number
from flowcache.ports import Bound, Reply, Values

__all__ = ["OPERATIONS"]


class _Fields(msgspec.Struct, frozen=True, gc=False):
    value: Annotated[
        dict[str, bytes],
        HashFields(
            "an object; numbers and booleans become their JSON text, nested values JSON",
        ),
    ]


def _hset(request: Request, given: _Fields) -> tuple[bytes, ...]:
    words = [b"HSET", request.key]
    for name, value in given.value.items():
        words += (name.encode(), value)
    return tuple(words)


class _OneField(msgspec.Struct, frozen=True, gc=False):
    field: Annotated[bytes, Text("the name of the field")]


def _hget(request: Request, given: _OneField) -> tuple[bytes, ...]:
    return b"HGET", request.key, given.field


def _read_hget(reply: Reply, _: Bounds = DEFAULT_BOUNDS) -> Result:
    if reply is None:
        return Result(None, False)
    try:
        return Result(reply.decode(), True)
    except (UnicodeDecodeError, AttributeError):
        raise unexpected("HGET") from None


class _Names(msgspec.Struct, frozen=True, gc=False):
    fields: Annotated[
        tuple[bytes, ...], Texts(1000, "an array of names of fields, or one name as a string")
    ]


def _hdel(request: Request, given: _Names) -> tuple[bytes, ...]:
    return b"HDEL", request.key, *given.fields


def _read_hgetall(reply: Reply, bounds: Bounds = DEFAULT_BOUNDS) -> Result:
    if not isinstance(reply, dict):
        raise unexpected("HGETALL")
    if not reply:  # Redis has no empty hashes: none means no key
        return Result(None, False)
    if len(reply) > bounds.max_elements:
        raise over(bounds)
    try:
        return Result({name.decode(): value.decode() for name, value in reply.items()}, True)
    except (UnicodeDecodeError, AttributeError):
        # An object of strings can't hold bytes that are no text, nor a reply of another shape.
        raise unexpected("HGETALL") from None


OPERATIONS = (
    Operation(
        name="HSET",
        summary="Set fields of the hash under the key and renew its TTL; returns how many are new.",
        permissions=WRITES,
        parameters=_Fields,
        words=_hset,
        uses=(
            "HSET key field value odd",
            "HLEN key",
            "HMGET key field",
            "HGETALL key",
            "MEMORY USAGE key SAMPLES 0",
            "EXPIRE key x",
        ),
        values=Values.FIELDS_WRITTEN,
        bound=Bound.GROWING_HASH,
        ttl=Ttl.GIVEN,
        repeated=Repeated.RECORDED,
        read=Number("HSET"),
        answers=int,
        sample=Sample(
            "profile:42", 2, fields={"value": {"name": "Ada", "tier": "gold"}, "ttl": 600}
        ),
    ),
    Operation(
        name="HGETALL",
        summary="Return all fields of the hash under the key as strings; null on a miss.",
        permissions=READS,
        words=on_key(b"HGETALL"),
        uses=("HGETALL key", "HLEN key", "MEMORY USAGE key SAMPLES 0"),
        values=Values.FIELDS_READ,
        bound=Bound.HASH,
        repeated=Repeated.NATURALLY,
        read=_read_hgetall,
        answers=dict[str, str] | None,
        sample=Sample("profile:42", {b"name": b"Ada", b"tier": b"gold"}, {"miss": {}}),
    ),
    Operation(
        name="HGET",
        summary="Return one field of the hash under the key as a string; null on a miss.",
        permissions=READS,
        parameters=_OneField,
        words=_hget,
        uses=("HGET key field", "HSTRLEN key field"),
        values=Values.FIELD_READ,
        bound=Bound.FIELD,
        repeated=Repeated.NATURALLY,
        read=_read_hget,
        answers=str | None,
        sample=Sample("profile:42", b"Ada", {"miss": None}, {"field": "name"}),
    ),
    Operation(
        name="HDEL",
        summary="Remove fields of the hash under the key; returns how many were removed. The TTL "
        "stays as it is, and a hash without fields is gone.",
        permissions=WRITES,
        parameters=_Names,
        words=_hdel,
        uses=("HDEL key field",),
        values=Values.NONE,
        repeated=Repeated.RECORDED,
        read=Number("HDEL"),
        answers=int,
        sample=Sample("profile:42", 1, {"none": 0}, {"fields": ["tier"]}),
    ),
)
