"""The bounds of a JSON text where a cheap count and an exact one could differ."""

from __future__ import annotations

import pytest

from flowcache.contract.bounds import too_deep, too_many

LIMIT = 10_000


def array(item: bytes, count: int) -> bytes:
    return b"[" + b",".join([item] * count) + b"]"


def test_a_backslash_before_a_quote_may_be_text() -> None:
    """``"\\\\"`` is a string that is over: what follows is counted, and what it holds is not."""
    ends_so, goes_on = rb'"\\"', rb'"\","'
    assert not too_many(array(ends_so, LIMIT), LIMIT)
    assert too_many(array(ends_so, LIMIT + 1), LIMIT)
    assert not too_many(array(goes_on, LIMIT), LIMIT)
    assert too_deep(rb'["\\",' + b"[" * 9 + b"]" * 9 + b"]", 8)
    assert not too_deep(rb'["\"' + b"[" * 9 + rb'\\"]', 8)


@pytest.mark.parametrize("count", [1, 10, LIMIT])
def test_strings_as_names_and_as_values(count: int) -> None:
    """An object of as many members as may be, four quotes each, is not too large."""
    members = [b'"n%d":"v"' % number for number in range(count)]
    assert not too_many(b"{" + b",".join(members) + b"}", count)
    assert too_many(b"{" + b",".join([*members, b'"more":"v"']) + b"}", count)


@pytest.mark.parametrize("space", [b" ", b"\t", b"\r", b"\n"])
def test_all_white_space_counts_for_nothing(space: bytes) -> None:
    """An empty array is empty, whatever stands in it."""
    for empty in (b"[" + space + b"]", b"{" + space + b"}"):
        assert not too_many(array(empty, LIMIT), LIMIT)


@pytest.mark.parametrize("length", [25, 100, 240])
def test_numbers_of_some_length_count_by_it(length: int) -> None:
    """From 25 characters on each eight of them count as an element more."""
    each = 1 + length // 8
    fit = LIMIT // each
    assert not too_many(array(b"7" * length, fit), LIMIT)
    assert too_many(array(b"7" * length, fit + 1), LIMIT)


def test_many_brackets_are_not_deep_ones() -> None:
    """A body of exactly so many levels is taken, with any number of brackets beside them."""
    for level in (1, 8, 64):
        deep = b"[" * level + b"1" + b"]" * level
        beside = b"[" * level + b"[],{}," * 100 + b"1" + b"]" * level
        assert not too_deep(deep, level)
        assert too_deep(beside, level)
        assert not too_deep(beside, level + 1)
