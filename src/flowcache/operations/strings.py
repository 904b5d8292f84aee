"""Strings: SET and GET. A value is stored as its compact JSON text."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec

from flowcache.authz.permissions import Permission
from flowcache.contract.bounds import DEFAULT_BOUNDS, Bounds, finite, too_many
from flowcache.contract.request import Request
from flowcache.errors import InvalidRequest
from flowcache.operations.operation import Operation, Result, Sample, over, unexpected
from flowcache.ports import Command, Reply, SizeLimits

__all__ = ["GET", "SET"]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(float_hook=finite).decode


def _set(request: Request, sizes: SizeLimits) -> Command:
    if request.value is msgspec.UNSET:
        raise InvalidRequest("value: SET needs one; any JSON value will do, null included.")
    value = _encode(request.value)
    return Command((b"SET", request.key, value), ttl=request.ttl, writes=True, sizes=sizes)


def _read_set(reply: Reply, _: Bounds = DEFAULT_BOUNDS) -> Result:
    if reply != b"OK":
        raise unexpected("SET")
    return Result("OK", None)


def _get(request: Request, sizes: SizeLimits) -> Command:
    return Command((b"GET", request.key), sizes=sizes)


def _read_get(reply: Reply, bounds: Bounds = DEFAULT_BOUNDS) -> Result:
    if reply is None:
        return Result(None, False)
    if not isinstance(reply, bytes):
        raise unexpected("GET")
    return Result(from_stored(reply, bounds), True)


def from_stored(stored: bytes, bounds: Bounds = DEFAULT_BOUNDS) -> Any:
    """Return what stored bytes mean: JSON, else text, else ``{"base64": ...}``.

    Another program may have written them, so nothing is expected of them. A JSON text that no
    strict parser takes (a lone surrogate, a number beyond a double, bottomless nesting) is text.

    Raises:
        TooLarge: they have the syntax of JSON, and too many elements.
    """
    try:
        if too_many(stored, bounds.max_elements):
            stored.decode()  # only its syntax was looked at: it may be no text
            raise over(bounds)
        return _decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(stored).decode()}


SET = Operation(
    name="SET",
    summary="Store a JSON value under the key, for `ttl` seconds.",
    permission=Permission.DATA_WRITE,
    command=_set,
    read=_read_set,
    answers=str,
    sample=Sample("customer:42", b"OK"),
    value="any JSON value",
    example={"customer": "C-1", "tier": "gold"},
)

GET = Operation(
    name="GET",
    summary="Return the value under the key, null on a miss: JSON as it was stored, other text "
    'as a string, bytes that are no text as `{"base64": ...}`.',
    permission=Permission.DATA_READ,
    command=_get,
    read=_read_get,
    answers=Any,
    sample=Sample("customer:42", b'{"customer":"C-1","tier":"gold"}', {"miss": None}),
)
