"""Strings. A value is stored as its compact JSON text."""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated, Any, NamedTuple

import msgspec

from flowcache.contract.bounds import DEFAULT_BOUNDS, Bounds, finite, too_many
from flowcache.contract.request import Request
from flowcache.operations.operation import (
    READS,
    READS_AND_WRITES,
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
from flowcache.operations.parameters import Json
from flowcache.ports import Bound, Reply, Values

__all__ = ["OPERATIONS"]

_decode = msgspec.json.Decoder(float_hook=finite).decode


class _Value(msgspec.Struct, frozen=True, gc=False):
    value: Annotated[bytes, Json("any JSON value")]


def _set(request: Request, given: _Value) -> tuple[bytes, ...]:
    return b"SET", request.key, given.value


def _read_set(reply: Reply, _: Bounds = DEFAULT_BOUNDS) -> Result:
    if reply != b"OK":
        raise unexpected("SET")
    return Result("OK", None)


class _Stored(NamedTuple):
    """Reads the reply of ``operation`` as a stored value."""

    operation: str

    def __call__(self, reply: Reply, bounds: Bounds = DEFAULT_BOUNDS, /) -> Result:
        if reply is None:
            return Result(None, False)
        if not isinstance(reply, bytes):
            raise unexpected(self.operation)
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


OPERATIONS = (
    Operation(
        name="SET",
        summary="Store a JSON value under the key, for `ttl` seconds.",
        permissions=WRITES,
        parameters=_Value,
        words=_set,
        uses=("SET key value EX x",),
        values=Values.STRING_WRITTEN,
        ttl=Ttl.GIVEN,
        repeated=Repeated.RECORDED,
        read=_read_set,
        answers=str,
        sample=Sample(
            "customer:42",
            b"OK",
            fields={"value": {"customer": "C-1", "tier": "gold"}, "ttl": 600},
        ),
    ),
    Operation(
        name="GET",
        summary="Return the value under the key, null on a miss: JSON as it was stored, other text "
        'as a string, bytes that are no text as `{"base64": ...}`.',
        permissions=READS,
        words=on_key(b"GET"),
        uses=("GETRANGE key 0 0", "STRLEN key", "GET key"),
        values=Values.STRING_READ,
        bound=Bound.STRING,
        repeated=Repeated.NATURALLY,
        read=_Stored("GET"),
        answers=Any,
        sample=Sample("customer:42", b'{"customer":"C-1","tier":"gold"}', {"miss": None}),
    ),
    Operation(
        name="GETDEL",
        summary="Return the value under the key, as GET does, and remove it; null on a miss. A "
        "value of more than 64 KiB is refused and not removed.",
        permissions=READS_AND_WRITES,
        words=on_key(b"GETDEL"),
        uses=("GETDEL key", "STRLEN key"),
        values=Values.STRING_READ,
        bound=Bound.STRING,
        repeated=Repeated.RECORDED,
        read=_Stored("GETDEL"),
        answers=Any,
        sample=Sample("customer:42", b'{"customer":"C-1","tier":"gold"}', {"miss": None}),
    ),
)
