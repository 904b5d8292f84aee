"""Bodies: what is taken, what is refused, and in which words."""

from __future__ import annotations

import gzip
import json
from typing import Any

import msgspec
import pytest

from flowcache.contract.request import Request, TtlLimits, coerce, decode, operation_name
from flowcache.errors import Failure, InvalidRequest, TooLarge

GET = {"operation": "GET", "key": "k"}


def read(limits: TtlLimits, fields: dict[str, Any]) -> Request:
    return coerce(decode(json.dumps(GET | fields).encode()), limits)


def requested(**fields: Any) -> Request:
    return read(TtlLimits(), fields)


def meant(**fields: Any) -> Request:
    """Return the request without the fields as they came: what they were coerced to."""
    return msgspec.structs.replace(requested(**fields), fields={})


def refused(kind: type[Failure], **fields: Any) -> str:
    with pytest.raises(kind) as caught:
        requested(**fields)
    return caught.value.message


def refusal(**fields: Any) -> str:
    return refused(InvalidRequest, **fields)


def refused_body(raw: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        decode(raw)
    return caught.value.message


def test_a_bare_request_has_the_defaults() -> None:
    """Operation and key are enough: the rest is an hour, a string, no context."""
    fields = {"operation": "GET", "key": "k"}
    assert requested() == Request("GET", b"k", fields, 3600, "string", None, None, None, None)


def test_a_full_request_has_all_it_came_with() -> None:
    """Every field of the contract arrives, in its type."""
    assert meant(
        operation="hset",
        key="clé",
        value={"a": 1},
        ttl="60",
        type="HASH",
        flowId="f",
        interactionId=17,
        deadlineMs="250",
        idempotencyKey="once",
    ) == Request("HSET", "clé".encode(), {}, 60, "hash", "f", "17", 250, "once")


@pytest.mark.parametrize("raw", [b"", b" ", b"\n\t", b"\xef\xbb\xbf"])
def test_an_empty_body_is_told(raw: bytes) -> None:
    """Nothing at all is refused as nothing."""
    assert refused_body(raw) == "body: expected a JSON object, got nothing."


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"GET"', b"null", b"true"])
def test_a_body_that_is_no_object_is_told(raw: bytes) -> None:
    """JSON of another shape is named for what it is."""
    assert refused_body(raw).startswith("body: expected an object, got ")


@pytest.mark.parametrize(
    "raw", [b"{", b"{]", b"{'a':1}", b'{"a":1}x', b"GET k", b'{"a":}', b"\xef"]
)
def test_a_body_that_is_no_json_is_told(raw: bytes) -> None:
    """What no parser takes is refused as such."""
    assert refused_body(raw).startswith("body: ")


@pytest.mark.parametrize("code", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_another_encoding_is_named(code: str) -> None:
    """Whoever sends UTF-16 or UTF-32 is told so."""
    assert "UTF-16 or UTF-32" in refused_body(json.dumps(GET).encode(code))


def test_compression_is_named() -> None:
    """Whoever compresses a body is told not to."""
    assert "gzip" in refused_body(gzip.compress(json.dumps(GET).encode()))


def test_a_byte_order_mark_is_skipped() -> None:
    """A mark that an editor left changes nothing."""
    assert decode(b"\xef\xbb\xbf" + json.dumps(GET).encode())["operation"] == "GET"


def test_broken_utf8_is_named() -> None:
    """Latin-1 sent as UTF-8 is told by its name."""
    assert refused_body(b'{"key":"caf\xe9"}') == "body: it is not UTF-8; send JSON as UTF-8."


@pytest.mark.parametrize(
    "value",
    [
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e400",
        b'"\\ud800"',
        b'"\xff"',
        b"01",
        b"'a'",
        b'"\x01"',
    ],
)
def test_what_json_does_not_know_is_refused(value: bytes) -> None:
    """Not a number, beyond a double, half a character: none of it is JSON."""
    assert refused_body(b'{"value":%s}' % value).startswith("body: ")


@pytest.mark.parametrize("value", [b"NaN", b'"\\ud800"', b"01", b"'a'", b'"\xff"'])
def test_a_field_that_is_ignored_is_json_too(value: bytes) -> None:
    """What is no JSON is refused in a field that nobody reads as well: one body, one verdict."""
    assert refused_body(b'{"somethingElse":%s}' % value).startswith("body: ")


@pytest.mark.parametrize("number", [2**53 + 1, 2**64, -(2**64), 10**4299], ids=int.bit_length)
def test_a_large_integer_is_kept_exactly(number: int) -> None:
    """Integers beyond what a double holds stay what they are, up to 4,300 digits."""
    assert requested(operation="SET", value=number).fields["value"] == number


def test_an_absurd_integer_is_refused() -> None:
    """A number of more than 4,300 digits is a fault of the body."""
    assert refused_body(b'{"value":%s}' % (b"9" * 4301)).startswith("body: ")


def test_of_a_field_that_comes_twice_the_last_counts() -> None:
    """As in a browser."""
    assert decode(b'{"key":"a","key":"b"}')["key"] == "b"


def test_unknown_fields_are_ignored() -> None:
    """A newer flow can talk to an older flowcache."""
    assert meant(somethingElse={"a": [1]}) == meant()


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"value":' * 100_000])
def test_a_bottomless_body_is_refused(raw: bytes) -> None:
    """Nesting that would exhaust the stack is refused, closed or not."""
    assert refused_body(raw).startswith("body: ")


def test_brackets_in_strings_are_no_levels() -> None:
    """Only arrays and objects count, however many brackets a text holds."""
    assert requested(value='[{"' * 1000 + "\\").fields["value"] == '[{"' * 1000 + "\\"


@pytest.mark.parametrize(
    ("operation", "got"),
    [(None, "null"), ("", "an empty one"), (5, "a number"), (["GET"], "an array")],
)
def test_an_operation_is_a_name(operation: object, got: str) -> None:
    """Without a name there is nothing to do."""
    assert refusal(operation=operation) == (
        f"operation: expected the name of an operation, got {got}."
    )


@pytest.mark.parametrize("field", ["operation", "key"])
def test_a_missing_field_is_not_null(field: str) -> None:
    """A field that was not sent is said to be missing."""
    body = {name: value for name, value in GET.items() if name != field}
    with pytest.raises(InvalidRequest, match=rf"^{field}: .*, got nothing: it is missing\.$"):
        coerce(body, TtlLimits())


def test_an_operation_is_named_as_far_as_it_can_be_read() -> None:
    """An answer's metadata name what was called, in upper case and not at any length."""
    assert operation_name(decode(b'{"operation":"get"}')) == "GET"
    assert operation_name(decode(b'{"operation":"%s"}' % (b"x" * 99))) == "X" * 32
    assert operation_name(decode(b'{"operation":5}')) is None
    assert operation_name(decode(b"{}")) is None


def test_only_ascii_spells_an_operation() -> None:
    """Letters that merely become ASCII in upper case name nothing."""
    assert requested(operation="\u017fet").operation != "SET"


@pytest.mark.parametrize("unset", [None, "", "${input.x}", "${}"])
@pytest.mark.parametrize(
    "field", ["ttl", "type", "flowId", "interactionId", "deadlineMs", "idempotencyKey"]
)
def test_a_variable_that_was_never_set_is_absent(field: str, unset: object) -> None:
    """Null, nothing and an unfilled placeholder all mean the default, in every optional field."""
    assert meant(**{field: unset}) == meant()


@pytest.mark.parametrize("field", ["key", "flowId", "interactionId", "idempotencyKey"])
def test_a_text_has_a_greatest_length(field: str) -> None:
    """Lengths are counted in bytes of UTF-8, and one more than allowed is too large."""
    most = 512 if field == "key" else 256
    requested(**{field: "é" * (most // 2)})
    assert refused(TooLarge, **{field: "é" * (most // 2) + "x"}).startswith(f"{field}: {most + 1}")


@pytest.mark.parametrize("key", [None, "", 5, ["k"], {"k": 1}, True])
def test_a_key_is_a_text(key: object) -> None:
    """A key is never guessed from something else."""
    assert refusal(key=key).startswith("key: expected a string of 1 to 512 bytes, got ")


@pytest.mark.parametrize("key", ["${input.key}", "${}"])
def test_a_key_that_was_never_filled_in_is_refused(key: str) -> None:
    """Callers whose variables were not set must not meet under one key."""
    assert refusal(key=key).startswith("key: expected a key, got a placeholder")


@pytest.mark.parametrize("ttl", ["60", " 60 ", "60.0", 60, 60.0, "+60", "0060"])
def test_a_ttl_is_a_whole_number_however_it_is_written(ttl: object) -> None:
    """Flows send numbers as text, and floats as integers."""
    assert requested(ttl=ttl).ttl == 60


@pytest.mark.parametrize(
    "ttl",
    [
        *(0, -1, 2_592_001, 60.5, 1e300, True, False, [60], {"s": 60}),
        *("60.5", "6e1", "soon", "1_0", "٦٠", "0x3c", "- 60", "9" * 30, "0" * 5000 + "60.5"),
    ],
)
def test_any_other_ttl_is_refused(ttl: object) -> None:
    """Nothing is guessed: out of range, with a fraction, of another type."""
    wanted = "ttl: expected a whole number of seconds from 1 to 2592000, got "
    assert refusal(ttl=ttl).startswith(wanted)


@pytest.mark.parametrize("field", ["ttl", "deadlineMs"])
@pytest.mark.parametrize("zeros", [4300, 5000])
def test_leading_zeros_change_no_number(field: str, zeros: int) -> None:
    """However many zeros lead it, a number is what it is."""
    assert meant(**{field: "0" * zeros + "60"}) == meant(**{field: 60})


def test_the_limits_of_a_ttl_are_settings() -> None:
    """The default and the longest time are the operator's."""
    limits = TtlLimits(default_ttl=10, max_ttl=20)
    assert read(limits, {}).ttl == 10
    assert read(limits, {"ttl": 20}).ttl == 20
    with pytest.raises(InvalidRequest, match="from 1 to 20, got one above"):
        read(limits, {"ttl": 21})


@pytest.mark.parametrize("deadline", [0, -5, 0.5, "soon", True])
def test_a_deadline_is_at_least_a_millisecond(deadline: object) -> None:
    """There is no call without time."""
    assert refusal(deadlineMs=deadline).startswith("deadlineMs: expected a whole number of milli")


@pytest.mark.parametrize("kind", ["list", 5, True, ["hash"]])
def test_a_type_is_one_of_two(kind: object) -> None:
    """A type is ``string`` or ``hash``, in any case."""
    assert refusal(type=kind).startswith('type: expected "string" or "hash", got ')
    assert requested(type="Hash").type == "hash"


@pytest.mark.parametrize("field", ["flowId", "interactionId", "idempotencyKey"])
@pytest.mark.parametrize(("value", "text"), [(17, "17"), (1.5, "1.5"), ("x", "x"), (2**70, None)])
def test_a_context_is_a_text_or_a_number(field: str, value: object, text: str | None) -> None:
    """An id that came as a number is its JSON text."""
    assert meant(**{field: value}) == meant(**{field: text or str(value)})


@pytest.mark.parametrize("field", ["flowId", "interactionId", "idempotencyKey"])
@pytest.mark.parametrize("value", [True, ["x"], {"x": 1}])
def test_a_context_is_nothing_else(field: str, value: object) -> None:
    """An id that is no id is refused by name."""
    assert refusal(**{field: value}).startswith(f"{field}: expected a string or a number, got ")
