"""The request of a data action: decode the bytes, then coerce each field.

Wire compatibility: fields are never renamed, removed or given another meaning; unknown ones are
ignored, so that a newer flow can talk to an older flowcache.

Decided answers to strange bodies (each is `invalid_request`, none is a 500):

- duplicate keys: the last one wins, as in every browser's ``JSON.parse``;
- NaN, Infinity, numbers beyond a double, lone surrogates, broken UTF-8: not JSON;
- a UTF-8 byte order mark is skipped; UTF-16, UTF-32 and gzip are named in the answer;
- integers beyond 2^53 are kept exactly, up to 4,300 digits;
- nesting deeper than ``max_depth`` is refused; more than ``max_elements`` are too large (`bounds`).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from flowcache.contract import coercion
from flowcache.contract.bounds import (
    COUNTED_MORE,
    DEFAULT_BOUNDS,
    Bounds,
    finite,
    too_deep,
    too_many,
)
from flowcache.errors import InvalidRequest, TooLarge

__all__ = [
    "COMMON_FIELDS",
    "MAX_DEADLINE_MS",
    "Body",
    "Request",
    "TtlLimits",
    "coerce",
    "decode",
    "legible",
    "operation_name",
]

_MAX_OPERATION_NAME = 32
_OWN_FIELDS = 16
"""So many members a body may have besides the elements of its value."""


Body = dict[str, Any]
"""The fields as they came, untyped; `coerce` gives those that all operations have their types."""

COMMON_FIELDS = (
    "operation",
    "key",
    "ttl",
    "type",
    "flowId",
    "interactionId",
    "deadlineMs",
    "idempotencyKey",
)
"""The fields that all operations have. What else an operation takes it says itself."""


class TtlLimits(msgspec.Struct, frozen=True):
    """Which TTL a request may ask for, and gets where it asks for none; in seconds."""

    default_ttl: int = 3600
    max_ttl: int = 2_592_000
    min_ttl: int = 1


class Request(msgspec.Struct, frozen=True, gc=False):
    """A data action as it was meant: typed, within limits, not yet authorised."""

    operation: str
    """Upper case, as the caller named it; the catalogue knows whether it exists."""
    key: bytes
    fields: Body
    """All fields of the body, for what the operation takes of its own (`operations.parameters`)."""
    ttl: int
    type: str
    flow_id: str | None
    interaction_id: str | None
    deadline_ms: int | None
    idempotency_key: str | None


_DECODER = msgspec.json.Decoder(Body, float_hook=finite)
_NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_BOM = b"\xef\xbb\xbf"
_JSON_NAMES = {
    "object": "an object",
    "array": "an array",
    "str": "a string",
    "int": "a number",
    "float": "a number",
    "bool": "a boolean",
    "null": "null",
}
_PYTHON_NAMES = re.compile(rf"`({'|'.join(_JSON_NAMES)})`")

MAX_DEADLINE_MS = 2**31


def decode(raw: bytes, bounds: Bounds = DEFAULT_BOUNDS) -> Body:
    """Read the body's JSON.

    Raises:
        InvalidRequest: it is empty, no JSON, no object, or nested too deeply.
        TooLarge: it has too many elements.
    """
    if raw.startswith(_BOM):
        raw = raw[len(_BOM) :]
    try:
        # Its own fields make it a few more than its value has, which is what can be read again.
        is_close = too_many(raw, bounds.max_elements)
        if is_close and too_many(raw, bounds.max_elements + _OWN_FIELDS):
            raise _too_many(bounds)
        if not raw.isascii():
            raw.decode()  # the decoder does not look into all of it
        body = _DECODER.decode(raw)
        if is_close and "value" in body:
            stored = msgspec.json.encode(body["value"])
            if too_many(stored, bounds.max_elements):
                raise _too_many(bounds)
    except _NOT_JSON as fault:
        raise InvalidRequest(_why_unreadable(raw, fault, bounds)) from None
    if too_deep(raw, bounds.max_depth):
        raise InvalidRequest(_too_deep(bounds))
    return body


def _too_many(bounds: Bounds) -> TooLarge:
    return TooLarge(
        f"body: more than {bounds.max_elements} elements (array items and object members; "
        f"{COUNTED_MORE}). Split the value over several keys, or send it as one string."
    )


def _too_deep(bounds: Bounds) -> str:
    return (
        f"body: nested deeper than {bounds.max_depth} levels. "
        "Flatten the value, or send it as one string."
    )


def _why_unreadable(raw: bytes, fault: Exception, bounds: Bounds) -> str:
    if not raw.strip():
        return "body: expected a JSON object, got nothing."
    if raw.startswith(b"\x1f\x8b"):
        return "body: it is gzip-compressed; send plain JSON without Content-Encoding."
    if raw.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00")) or raw[1:2] == b"\x00":
        return "body: it is UTF-16 or UTF-32; send JSON as UTF-8."
    if isinstance(fault, RecursionError):
        return _too_deep(bounds)
    if isinstance(fault, UnicodeDecodeError):
        return "body: it is not UTF-8; send JSON as UTF-8."
    if isinstance(fault, msgspec.ValidationError):
        return "body: " + _sentence(_PYTHON_NAMES.sub(_in_json_terms, str(fault)))
    if "truncated" in str(fault) and raw.rstrip().endswith(b"}"):
        # What msgspec says of half a surrogate pair at the end of a string.
        return "body: not JSON: it is cut short, or a string holds half a surrogate pair."
    return f"body: not JSON: {_sentence(str(fault))}"


def _in_json_terms(found: re.Match[str]) -> str:
    return _JSON_NAMES[found[1]]


def _sentence(text: str) -> str:
    text = text.replace("`", "").replace("JSON is malformed: ", "")
    return text[:1].lower() + text[1:] + "."


def operation_name(body: Body) -> str | None:
    """Return the operation as far as it can be read, for the answer's metadata."""
    name = body.get("operation")
    return _upper(name) if isinstance(name, str) else None


def _upper(name: str) -> str:
    """Return a name in upper case; ASCII only, or a long s would read as an S."""
    name = name[:_MAX_OPERATION_NAME]
    return name.upper() if name.isascii() else name


def coerce(body: Body, limits: TtlLimits) -> Request:
    """Give each field its type.

    Raises:
        InvalidRequest: a field is missing or is not what it should be; the sentence names it.
        TooLarge: a key or a context field is over its limit.
    """
    given = body.get
    name = given("operation", msgspec.UNSET)
    if not isinstance(name, str) or not name:
        got = "an empty one" if name == "" else coercion.kind(name)
        raise InvalidRequest(f"operation: expected the name of an operation, got {got}.")
    optional = coercion.optional
    ttl, kind = given("ttl"), given("type")
    flow, interaction = given("flowId"), given("interactionId")
    deadline, once = given("deadlineMs"), given("idempotencyKey")
    # The tests for None only skip calls: almost every request leaves most of these out.
    return Request(
        _upper(name),
        coercion.key("key", given("key", msgspec.UNSET)),
        body,
        limits.default_ttl
        if ttl is None
        else optional(
            "ttl",
            ttl,
            coercion.integer,
            limits.min_ttl,
            limits.max_ttl,
            "seconds",
            default=limits.default_ttl,
        ),
        "string"
        if kind is None
        else optional("type", kind, coercion.choice, ("string", "hash"), default="string"),
        None if flow is None else optional("flowId", flow, coercion.context),
        None if interaction is None else optional("interactionId", interaction, coercion.context),
        None
        if deadline is None
        else optional("deadlineMs", deadline, coercion.integer, 1, MAX_DEADLINE_MS, "milliseconds"),
        None if once is None else optional("idempotencyKey", once, coercion.context),
    )


def legible(body: Body) -> tuple[str | None, str | None, bytes | None]:
    """Return flow, interaction and key of a body that is refused, as far as they can be read."""
    key = body.get("key")
    legible_key = key.encode()[: coercion.MAX_KEY_BYTES] if isinstance(key, str) else None
    flow_id, interaction_id = body.get("flowId"), body.get("interactionId")
    return _legible_context(flow_id), _legible_context(interaction_id), legible_key


def _legible_context(value: object) -> str | None:
    """Return a context field, cut to its limit; it may be what the body is refused for."""
    if (
        coercion.is_absent(value)
        or isinstance(value, bool)
        or not isinstance(value, (str, int, float))
    ):
        return None
    text = value if isinstance(value, str) else repr(value)
    return text.encode()[: coercion.MAX_CONTEXT_BYTES].decode(errors="ignore")
