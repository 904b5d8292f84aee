"""The parser: whatever a server sends, and however it is torn, it is what hiredis would read; and
no announcement makes room for what never comes."""

from __future__ import annotations

import tracemalloc
from random import Random
from typing import Any

import hiredis
import pytest

from flowcache.store.parser import Parser
from tests.store.resp import array, bulk, error, integer

LIMIT = 1 << 20
END = object()

BOMBS = [
    b"*1000000000\r\n",
    b"%1000000000\r\n",
    b"~1000000000\r\n",
    b">1000000000\r\n",
    b"|1000000000\r\n",
    b"|1\r\n",
    b"$99999999999\r\n",
    b"=99999999999\r\n",
    b"*9223372036854775807\r\n",
    b"*99999999999999999999999\r\n",
    b"*2\r\n:1\r\n*1000000000\r\n",
    b"%1\r\n+key\r\n*1000000000\r\n",
    b"*300000\r\n" * 2,
    b"$1\r\nxXX*1000000000\r\n",  # hiredis does not look at how a string ends
    b"+$99999999\r\n*1000000000\r\n",  # no announcement, and then one
    b"*1\r\n" * 2000,
    b"%1\r\n*0\r\n:1\r\n",  # a list as the key of a map
    b"*?\r\n",
    b"*-2\r\n",
]
"""What no parser may make room for, or make a reply of."""

LURES = [
    b"*1000000000\r\n",
    b"\r\n*1000000000\r\n",
    b"$99999\r\n",
    b"%9999\r\n",
    b"|1\r\n",
    b"\r\n",
    b"\n",
    b"*",
    b"$1000",
    b":12345\r\n",
    b"text",
]
"""What a stored value may hold, to look like an announcement."""


class Anything:
    """Makes legal replies of every type, full of lures."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def text(self) -> bytes:
        return b"".join(self.random.choices(LURES, k=self.random.choice([0, 1, 3, 8, 200])))

    def plain(self) -> bytes:
        number = self.random.randrange(10 ** self.random.randrange(1, 9))
        verbatim = b"txt:" + self.text()
        return self.random.choice(
            [
                bulk(self.text()),
                integer(number),
                b"+OK\r\n",
                error(b"ERR x"),
                b"_\r\n",
                b"$-1\r\n",
                b"*-1\r\n",
                b"#t\r\n",
                b",1.5\r\n",
                b"(123456789012345678901234\r\n",
                b"=%d\r\n%b\r\n" % (len(verbatim), verbatim),
            ]
        )

    def reply(self, depth: int = 0) -> bytes:
        if depth > 3 or self.random.random() < 0.6:
            return self.plain()
        count = self.random.choice([0, 1, 2, 5, 1200])
        items = [self.reply(depth + 1) if count < 9 else integer(number) for number in range(count)]
        if self.random.random() < 0.3:
            pairs = (bulk(b"%d" % place) + item for place, item in enumerate(items))
            return b"%%%d\r\n%b" % (count, b"".join(pairs))
        return self.random.choice([b"*", b"~"]) + array(*items)[1:]

    def torn(self, stream: bytes) -> list[bytes]:
        most, pieces, place = self.random.choice([1, 2, 3, 7, 50, 1000, LIMIT]), [], 0
        while place < len(stream):
            size = self.random.randint(1, most)
            pieces.append(stream[place : place + size])
            place += size
        return pieces


def whole(stream: bytes) -> list[Any]:
    """Return what hiredis reads, given it all at once."""
    reader = hiredis.Reader(replyError=repr, notEnoughData=END)  # type: ignore[arg-type]
    reader.feed(stream)
    replies = []
    while (reply := reader.gets()) is not END:
        replies.append(reply)
    return replies


def parsed(parser: Parser, pieces: list[bytes]) -> list[Any]:
    """Return what the parser reads, until there is a fault."""
    replies: list[Any] = []
    for piece in pieces:
        replies += parser.parse(piece)
        if parser.fault:
            break
    return replies


@pytest.mark.parametrize("seed", range(8))
def test_torn_anyhow_it_is_what_hiredis_reads(seed: int) -> None:
    """What a value holds does no harm, wherever the reads are cut."""
    make = Anything(seed)
    for _ in range(40):
        stream = b"".join(make.reply() for _ in range(make.random.randint(1, 8)))
        parser = Parser(16 * LIMIT, repr)
        assert parsed(parser, make.torn(stream)) == whole(stream)
        assert parser.fault is None


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_announcement_makes_room(bomb: bytes) -> None:
    """Behind any replies and torn anyhow: those before it are read, and it is a fault at once."""
    make = Anything(len(bomb))
    for _ in range(40):
        stream = b"".join(make.reply() for _ in range(make.random.randint(0, 4)))
        parser = Parser(LIMIT, repr)
        pieces = make.torn(stream + bomb)
        before = whole(stream)
        tracemalloc.start()
        replies = parsed(parser, pieces)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert parser.fault
        assert replies[: len(before)] == before
        assert peak < 8 * LIMIT


def test_what_is_announced_is_added_up() -> None:
    """Lists inside lists can't announce more together than one may."""
    parser = Parser(LIMIT, repr)
    assert parser.parse(b"*200000\r\n") == []
    assert parser.fault is None
    assert parser.parse(b"*200000\r\n") == []
    assert parser.is_oversized


def test_and_each_reply_has_a_sum_of_its_own() -> None:
    """Many large replies are as good as one."""
    large = array(*[integer(1)] * 200_000)
    parser = Parser(LIMIT, repr)
    pieces = [(large * 5)[place : place + 70_000] for place in range(0, 5 * len(large), 70_000)]
    assert len(parsed(parser, pieces)) == 5
    assert parser.fault is None


def test_a_value_as_large_as_a_reply_may_be() -> None:
    """The bound is what is said, not less."""
    parser = Parser(LIMIT, repr)
    value = b"*9999999999\r\n" * (LIMIT // 13)
    assert parser.parse(bulk(value)) == [value]
    assert parser.parse(bulk(b"x" * (LIMIT + 1))) == []
    assert parser.is_oversized
