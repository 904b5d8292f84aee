"""Hashes: HSET and HGETALL. A field's value is a string; the whole hash has one TTL."""

from __future__ import annotations

import msgspec

from flowcache.authz.permissions import Permission
from flowcache.contract.bounds import DEFAULT_BOUNDS, Bounds
from flowcache.contract.coercion import kind
from flowcache.contract.request import Request
from flowcache.errors import InvalidRequest
from flowcache.operations.operation import Operation, Result, Sample, over, unexpected
from flowcache.ports import Command, Reply, SizeLimits

__all__ = ["HGETALL", "HSET"]

_encode = msgspec.json.Encoder().encode


def _hset(request: Request, sizes: SizeLimits) -> Command:
    fields = request.value
    if not isinstance(fields, dict):
        raise InvalidRequest(f"value: HSET needs an object of fields, got {kind(fields)}.")
    if not fields:
        raise InvalidRequest("value: HSET needs at least one field, got an empty object.")
    words = [b"HSET", request.key]
    for name, value in fields.items():
        words.append(name.encode())
        words.append(_field_value(name, value))
    return Command(tuple(words), ttl=request.ttl, writes=True, sizes=sizes)


def _field_value(name: str, value: object) -> bytes:
    """Return a string as it is, anything else as its JSON text; null is refused."""
    if isinstance(value, str):
        return value.encode()
    if value is None:
        raise InvalidRequest(
            f'value: the field "{name[:80]}" is null; a hash holds no nulls. Leave the field out.'
        )
    return _encode(value)


def _read_hset(reply: Reply, _: Bounds = DEFAULT_BOUNDS) -> Result:
    if type(reply) is not int or reply < 0:
        raise unexpected("HSET")
    return Result(reply, None)


def _hgetall(request: Request, sizes: SizeLimits) -> Command:
    return Command((b"HGETALL", request.key), sizes=sizes)


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


HSET = Operation(
    name="HSET",
    summary="Set fields of the hash under the key and renew its TTL; returns how many are new.",
    permission=Permission.DATA_WRITE,
    command=_hset,
    read=_read_hset,
    answers=int,
    sample=Sample("profile:42", 2),
    value="an object; numbers and booleans become their JSON text, nested values JSON",
    value_schema={
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"type": ["string", "number", "boolean", "object", "array"]},
    },
    example={"name": "Ada", "tier": "gold"},
)

HGETALL = Operation(
    name="HGETALL",
    summary="Return all fields of the hash under the key as strings; null on a miss.",
    permission=Permission.DATA_READ,
    command=_hgetall,
    read=_read_hgetall,
    answers=dict[str, str] | None,
    sample=Sample("profile:42", {b"name": b"Ada", b"tier": b"gold"}, {"miss": {}}),
)
