"""Where the reads are cut makes no difference to what is announced, and to what only looks so."""

from __future__ import annotations

import pytest

from flowcache.store.parser import Parser
from tests.store.resp import bulk, integer

LIMIT = 1 << 20
COUNT = 200_000
ITEMS = b":1\r\n" * COUNT
HEAD = b"*%d\r\n" % COUNT


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD, ITEMS],  # each ends with a line
        [HEAD, ITEMS[:400], ITEMS[400:]],
        [HEAD + ITEMS],
        [HEAD[:-1], HEAD[-1:], ITEMS[:-1], ITEMS[-1:]],
    ],
    ids=["line by line", "in the middle", "whole", "torn"],
)
def test_however_a_reply_is_cut_it_is_counted_once(pieces: list[bytes]) -> None:
    """Nine replies, each of them as large as more than half of what one may announce."""
    parser = Parser(LIMIT, repr)
    for _ in range(9):
        replies = [reply for piece in pieces for reply in parser.parse(piece)]
        assert parser.fault is None
        assert replies == [[1] * COUNT]


def test_a_value_is_none_of_its_beginnings() -> None:
    """A long string that begins like an announcement is read as it is, wherever it is cut."""
    value = b"*1000000000\r\n|1\r\n$9999\r\n" + b"x" * 3000
    stream = bulk(value) + integer(7)
    for cut in (*range(1, 60), *range(len(stream) - 20, len(stream))):
        parser = Parser(LIMIT, repr)
        replies = [*parser.parse(stream[:cut]), *parser.parse(stream[cut:])]
        assert (parser.fault, replies) == (None, [value, 7])


def test_a_string_may_come_in_pieces_and_a_line_may_not() -> None:
    """What was announced is waited for; a line without an end is a fault, also behind a string."""
    value = b"x" * 300_000
    parser = Parser(LIMIT, repr)
    stream = bulk(value) * 2
    pieces = [stream[place : place + 70_000] for place in range(0, len(stream), 70_000)]
    assert [reply for piece in pieces for reply in parser.parse(piece)] == [value, value]
    assert parser.fault is None
    assert parser.parse(b"+" + b"x" * 70_000) == []
    assert "line" in str(parser.fault)


def test_a_list_of_the_shortest_items_is_as_long_as_a_reply_may_be() -> None:
    """Three bytes an element are what is reckoned with, not more."""
    parser = Parser(LIMIT, repr)
    count = LIMIT // 3
    assert parser.parse(b"*%d\r\n" % count + b"_\r\n" * count) == [[None] * count]
    assert parser.parse(b"*%d\r\n" % (count + 1)) == []
    assert parser.is_oversized
