"""How much structure a body or a stored value may have, and how it is told without decoding."""

from __future__ import annotations

import json
from base64 import b64encode

import msgspec
import pytest

from flowcache.contract.bounds import Bounds, finite, too_deep, too_many
from flowcache.contract.request import decode
from flowcache.errors import InvalidRequest, TooLarge
from flowcache.operations.catalogue import CATALOGUE
from flowcache.operations.strings import from_stored

LIMIT = 10_000
TEXT = b"x" * 20_000


def array(item: bytes, count: int) -> bytes:
    return b"[" + b",".join([item] * count) + b"]"


@pytest.mark.parametrize("item", [b"1", b"[]", b"{}", b'""', b'","', b'"[{"', rb'"\\\""', b"null"])
def test_elements_are_counted_to_the_last_one(item: bytes) -> None:
    """10,000 items are taken and one more is not, whatever they look like."""
    assert not too_many(array(item, 10_000), LIMIT)
    assert too_many(array(item, 10_001), LIMIT)


def test_items_of_all_levels_count_together() -> None:
    """An array of arrays counts its items and theirs; white space counts for nothing."""
    assert not too_many(array(b"[ 1 , { } ]", 3_333), LIMIT)
    assert too_many(array(b"[ 1 , { } ]", 3_334), LIMIT)


def test_members_of_objects_count_as_items_do() -> None:
    """A member counts once, and of a name that comes twice each counts."""
    names = b",".join(b'"n%d":0' % number for number in range(10_001))
    assert too_many(b"{" + names + b"}", LIMIT)
    assert too_many(b"{" + b",".join([b'"a":0'] * 10_001) + b"}", LIMIT)


def test_text_is_not_counted() -> None:
    """Commas, brackets and escaped quotes inside of a string are text, however many there are."""
    for text in ("a,b," * 50_000, "[{" * 50_000, '","' * 50_000, "\\" * 99_999, '\\"' * 50_000):
        assert not too_many(json.dumps([text, text]).encode(), LIMIT)


def test_long_numbers_count_by_their_length() -> None:
    """What a long integer costs grows faster than its length, so few of them are taken."""
    assert not too_many(array(b"7" * 24, 9_000), LIMIT)
    assert not too_many(array(b"7" * 4_300, 18), LIMIT)
    assert too_many(array(b"7" * 4_300, 19), LIMIT)
    assert not too_many(array(b'"' + b"7" * 4_300 + b'"', 60), LIMIT)


@pytest.mark.parametrize("limit", [1, 100, 1_000])
def test_a_lower_limit_holds_for_short_texts(limit: int) -> None:
    """The limit is the configured one, also where a text is too short to be dear."""
    assert not too_many(array(b"1", limit), limit)
    assert too_many(array(b"1", limit + 1), limit)


@pytest.mark.parametrize("around", [b"", TEXT])
def test_levels_are_counted_to_the_last_one(around: bytes) -> None:
    """64 levels are taken and 65 are not, in a short text and in a long one."""
    inner = b'["' + around + b'"]'
    assert not too_deep(b"[" * 63 + inner + b"]" * 63, 64)
    assert too_deep(b"[" * 64 + inner + b"]" * 64, 64)


@pytest.mark.parametrize("raw", [array(b"1", 20_000)[:-1], b"," * 20_000, b"a,b," * 10_000])
def test_what_is_not_json_is_not_too_large(raw: bytes) -> None:
    """A text that no parser takes is told to be that, not to be too large."""
    with pytest.raises(msgspec.DecodeError):
        too_many(raw, LIMIT)


def test_a_body_over_a_bound_says_what_to_do() -> None:
    """The refusal names the limit and a way around it."""
    with pytest.raises(TooLarge, match=r"^body: more than 9 elements .* Split the value"):
        decode(b'{"operation":"SET","key":"k","value":%s}' % array(b"1", 40), Bounds(9))
    with pytest.raises(InvalidRequest, match=r"^body: nested deeper than 3 levels\. Flatten"):
        decode(b'{"value":[[[]]]}', Bounds(max_depth=3))
    assert decode(b'{"value":[[]]}', Bounds(max_depth=3))["value"] == [[]]


def test_the_own_fields_of_a_body_do_not_count() -> None:
    """A value of as many elements as the limit says can be written, whatever stands beside it."""
    items = array(b"[]", 10_000)
    fields = b'"operation":"SET","key":"k","ttl":1,"type":"","flowId":"","interactionId":""'
    assert len(decode(b'{%s,"value":%s}' % (fields, items))["value"]) == 10_000
    with pytest.raises(TooLarge):
        decode(b'{"value":%s}' % array(b"[]", 10_001))
    with pytest.raises(TooLarge, match="a number longer than 24 characters counts as several"):
        decode(b'{"value":%s}' % array(b"1." + b"7" * 25, 3_000))


def test_a_stored_value_over_a_bound_is_too_large() -> None:
    """So is one that another program wrote; text that is not JSON has no bounds but its bytes."""
    with pytest.raises(TooLarge, match="more than 10000 elements"):
        from_stored(array(b"[]", 10_001))
    with pytest.raises(TooLarge, match="more than 10000 elements"):
        CATALOGUE["HGETALL"].read({b"f%d" % n: b"" for n in range(10_001)}, Bounds())
    broken = array(rb'"' + b"\xff" + b'"', 10_001)
    assert from_stored(broken) == {"base64": b64encode(broken).decode()}
    for text in (b"a,b," * 10_000, b"[" * 100_000, b"{" * 70):
        assert from_stored(text) == text.decode()
    assert len(from_stored(array(b"[]", 10_000))) == 10_000


@pytest.mark.parametrize(
    "number",
    ["1e300", "5e-324", "1e-310", "1.7976931348623157e308", "-0.0", "1e-400", "0.1", "1E+2"],
)
def test_a_number_means_what_msgspec_reads(number: str) -> None:
    """Python's reader, which takes the same time for all numbers, reads the same number."""
    assert repr(finite(number)) == repr(msgspec.json.decode(number.encode()))
    assert repr(from_stored(number.encode())) == repr(finite(number))


@pytest.mark.parametrize("number", ["1e309", "-1e400", "1.7976931348623159e308"])
def test_a_number_beyond_a_double_is_not_read(number: str) -> None:
    """It would come back as infinity, which JSON can't hold."""
    with pytest.raises(ValueError, match="out of range"):
        finite(number)
