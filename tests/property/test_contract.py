"""What the contract promises about any body, not only about those somebody thought of."""

from __future__ import annotations

import re
from contextlib import suppress
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache.contract import coercion
from flowcache.contract.bounds import DEFAULT_BOUNDS, _depth, _elements, _without_strings
from flowcache.contract.request import Body, Request, TtlLimits, coerce, decode
from flowcache.errors import InvalidRequest, TooLarge
from flowcache.operations.catalogue import CATALOGUE, plan
from flowcache.operations.strings import from_stored
from tests.property.strategies import (
    dumped,
    json_values,
    modest,
    numerals,
    objects,
    raw_bodies,
    scalars,
    stored,
)

LIMITS = TtlLimits()
MENDED = {
    "operation": "GET",
    "key": "k",
    "ttl": 60,
    "type": "string",
    "flowId": "f",
    "interactionId": "i",
    "deadlineMs": 100,
    "idempotencyKey": "o",
}
"""A good value for each field that a refusal can name."""


def decoded(raw: bytes) -> Body | None:
    with suppress(InvalidRequest):
        return decode(raw)
    return None


def refused_as(raw: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        decode(raw)
    return caught.value.message


def refused_field(fields: dict[str, Any]) -> str | None:
    """Return the field that is named when ``fields`` are refused; None when they are taken."""
    try:
        assert isinstance(coerce(decode(dumped(fields)), LIMITS), Request)
    except (InvalidRequest, TooLarge) as refusal:
        return refusal.message.partition(":")[0]
    return None


def same(one: object, other: object) -> bool:
    """Compare JSON values: numbers of one kind only, floats by IEEE equality."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return one == other


def nesting(value: object) -> int:
    """Count levels the slow way."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(nesting, value), default=0) if isinstance(value, list) else 0


def elements(value: object) -> int:
    """Count items and members the slow way."""
    if isinstance(value, dict):
        value = list(value.values())
    return len(value) + sum(map(elements, value)) if isinstance(value, list) else 0


def bare(value: object, ascii_only: bool) -> bytes:
    """Return ``value`` as JSON, without its strings."""
    text = _without_strings(dumped(value, ascii_only), 1_000_000)
    assert text is not None
    return text


def meant(value: object) -> int | None:
    """Return the whole number that a JSON value means, None for none."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]+(\.0*)?\s*", value):
        sign = -1 if "-" in value else 1
        figures = value.strip().lstrip("+-").partition(".")[0].lstrip("0")
        return sign * int(figures[-40:] or "0")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    exact = Fraction(value)
    return exact.numerator if exact.denominator == 1 else None


@given(raw_bodies)
@modest
def test_any_bytes_are_a_body_or_an_invalid_request(raw: bytes) -> None:
    """Whatever is posted, decoding gives a body or says about the body what is wrong with it."""
    assert isinstance(decoded(raw), dict) or refused_as(raw).startswith("body: ")


@given(objects)
@modest
def test_any_object_is_a_request_or_a_refusal_that_names_a_field(fields: dict[str, Any]) -> None:
    """Whatever object is posted, a refusal begins with the name of one of the fields."""
    assert refused_field(fields) in {None, *MENDED}


@given(objects)
@modest
def test_the_field_that_is_named_is_the_one_to_mend(fields: dict[str, Any]) -> None:
    """An author who mends each field that is named, one after the other, gets the call through."""
    named: list[str] = []
    while (field := refused_field(fields)) is not None:
        assert field not in named
        named.append(field)
        fields = fields | {field: MENDED[field]}


@given(json_values, st.booleans())
@modest
def test_what_is_set_is_what_is_read(value: object, ascii_only: bool) -> None:
    """A value that SET stores comes back from GET as it was posted, number types included."""
    raw = dumped({"operation": "SET", "key": "k", "value": value}, ascii_only)
    (text,) = plan(coerce(decode(raw), LIMITS), 1000).command.words[2:]
    data, hit = CATALOGUE["GET"].read(text)
    assert hit is True
    assert same(data, value)


@given(scalars | numerals(), st.integers(-(10**15), 10**15), st.integers(0, 10**15))
@modest
def test_an_integer_is_what_anybody_would_read(value: object, low: int, width: int) -> None:
    """`integer` takes what means a whole number in range, as that number, and nothing else."""
    number = meant(value)
    try:
        assert coercion.integer("ttl", value, low, low + width, "seconds") == number
    except InvalidRequest:
        assert number is None or not low <= number <= low + width


@given(st.integers(-(10**15), 10**15), st.sampled_from(["{}", " {} ", "{}.0", "{}.", "\t{}.00\n"]))
@modest
def test_a_spelling_changes_no_integer(number: int, spelling: str) -> None:
    """A number as text, padded or with an empty fraction, is the number."""
    text = spelling.format(number)
    assert coercion.integer("ttl", text, -(10**15), 10**15, "seconds") == number


MAX_DEPTH = DEFAULT_BOUNDS.max_depth


@given(json_values, st.booleans())
@modest
def test_depth_is_counted_right(value: object, ascii_only: bool) -> None:
    """The fast count of levels agrees with a recursive one, whatever the strings contain."""
    assert _depth(bare(value, ascii_only)) == nesting(value)


@given(json_values, st.booleans())
@modest
def test_elements_are_counted_right(value: object, ascii_only: bool) -> None:
    """The fast count of elements agrees with a recursive one, whatever the strings contain."""
    assert _elements(bare(value, ascii_only), 1_000_000) == elements(value)


depths = st.integers(1, 2 * MAX_DEPTH) | st.sampled_from([MAX_DEPTH, MAX_DEPTH + 1])


@given(depths, st.sampled_from(["value", "key", "somethingElse"]), st.sampled_from([0, 1, 99]))
@modest
def test_the_deepest_body_has_the_levels_of_the_limit(depth: int, field: str, flat: int) -> None:
    """A body of up to 64 levels is taken, a deeper one is not, however many there are in all."""
    inner = b"[" * (depth - 1) + b"]" * (depth - 1) if depth > 1 else b"1"
    raw = b'{"%s":%s%s}' % (field.encode(), inner, b',"x":[]' * flat)
    if depth <= MAX_DEPTH:
        decode(raw)
    else:
        assert refused_as(raw).startswith("body: nested deeper than 64 levels.")


@given(stored)
@modest
def test_anything_stored_can_be_read(text: bytes) -> None:
    """Whatever another program left under a key, it is read, or refused by its size."""
    with suppress(TooLarge):
        from_stored(text)
