"""Records of writes: a repetition is answered as the write was, whatever its reply was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flowcache.errors import Conflict, TooLarge, WrongType
from flowcache.ports import Bound, Command, Once, SizeLimits, Values
from tests.servers import SERVERS, RedisProcess, standalone
from tests.store.harness import in_time, replied, store_at

BINARY = bytes(range(256))
SIZES = SizeLimits(reply=10)


@pytest.fixture(params=SERVERS.values(), ids=list(SERVERS), scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    with standalone(request.param()) as server:
        yield server


def write(*words: bytes, fingerprint: bytes = b"f", **more: Any) -> Command:
    once = Once(b"token", fingerprint, 60_000)
    return Command(words, writes=True, once=once, **more)


@pytest.mark.parametrize(
    ("before", "words", "reply"),
    [
        (("RPUSH", b"007", b"8"), (b"LPOP", b"k"), b"007"),
        (("RPUSH", b"1", b"\xff\x00", b"3"), (b"LPOP", b"k", b"2"), [b"1", b"\xff\x00"]),
        (("RPUSH", b"1"), (b"LPOP", b"other"), None),
        (("SET", b"1"), (b"INCRBYFLOAT", b"k", b"0.5"), b"1.5"),
        (("SET", b"1"), (b"INCRBY", b"k", b"-9007199254740990"), -9007199254740989),
        (("SET", BINARY), (b"GETSET", b"k", b""), BINARY),
        (("SET", b""), (b"GETSET", b"k", b"x"), b""),
        (("SET", b"1"), (b"SET", b"k", b"2"), b"OK"),
        (("HSET", b"f", b"007"), (b"HDEL", b"k", b"f"), 1),
        (("ZADD", b"1.5", b"a"), (b"ZPOPMIN", b"k"), [b"a", b"1.5"]),
    ],
    ids=lambda value: repr(value)[:24],
)
async def test_any_reply_is_repeated_as_it_was(
    server: RedisProcess, before: tuple[str, ...], words: tuple[bytes, ...], reply: Any
) -> None:
    """Texts that look like numbers, bytes, lists and nothing: each in its type, and done once."""
    server.cli("FLUSHALL")
    name, *rest = before
    server.cli(name, "k", *rest)
    async with store_at(server.address) as store:
        assert await replied(store, write(*words), in_time()) == reply
        left = server.cli("DUMP", "k")
        for _ in range(2):
            assert await replied(store, write(*words), in_time()) == reply
        assert server.cli("DUMP", "k") == left
        with pytest.raises(Conflict):
            await store.execute(write(*words, fingerprint=b"g"), in_time())
        assert server.cli("DUMP", "k") == left


@pytest.mark.parametrize("once", [True, False])
async def test_what_is_too_large_to_be_returned_is_not_taken(
    server: RedisProcess, once: bool
) -> None:
    """It is measured before it is removed: to the byte, a string and a field."""
    server.cli("FLUSHALL")
    server.cli("SET", "k", b"x" * 11)
    taking: dict[str, Any] = {
        "values": Values.STRING_READ,
        "bound": Bound.STRING,
        "sizes": SIZES,
    }
    take = write(b"GETSET", b"k", b"new", **taking)
    if not once:
        take = Command(take.words, writes=True, **taking)
    async with store_at(server.address) as store:
        with pytest.raises(TooLarge, match="nothing was done"):
            await store.execute(take, in_time())
        assert server.cli("GET", "k") == "x" * 11
        server.cli("SET", "k", b"x" * 10)
        assert await replied(store, take, in_time()) == b"x" * 10
        assert server.cli("GET", "k") == "new"


async def test_another_type_is_told_and_left(server: RedisProcess) -> None:
    """What can't be measured is not taken."""
    server.cli("FLUSHALL")
    server.cli("RPUSH", "k", "a")
    async with store_at(server.address) as store:
        with pytest.raises(WrongType):
            await store.execute(write(b"GETSET", b"k", b"x", bound=Bound.STRING), in_time())
    assert server.cli("LLEN", "k") == 1


async def test_every_key_of_a_script_gets_the_life(server: RedisProcess) -> None:
    """A write of several keys leaves none of them without a TTL, and is done once."""
    server.cli("FLUSHALL")
    words = (b"MSET", b"{t}a", b"1", b"{t}b", b"2")
    async with store_at(server.address) as store:
        for _ in range(2):
            assert await replied(store, write(*words, keys=(1, 3), ttl=60), in_time()) == b"OK"
            assert {0 < server.cli("TTL", key) <= 60 for key in ("{t}a", "{t}b")} == {True}
            server.cli("SET", "{t}a", "changed", "EX", "50")
    assert server.cli("GET", "{t}a") == "changed"


async def test_a_field_is_bounded(server: RedisProcess) -> None:
    """One that is larger than the limit is refused, wherever it would have to be read."""
    server.cli("FLUSHALL")
    server.cli("HSET", "k", "small", "007", "large", b"x" * 100_000, "empty", "")
    async with store_at(server.address) as store:

        async def field(name: bytes, sizes: SizeLimits) -> Any:
            words = (b"HGET", b"k", name)
            return await replied(store, Command(words, bound=Bound.FIELD, sizes=sizes), in_time())

        assert await field(b"small", SIZES) == b"007"
        assert await field(b"empty", SIZES) == b""
        assert await field(b"none", SIZES) is None
        assert await field(b"large", SizeLimits(reply=100_000)) == b"x" * 100_000
        with pytest.raises(TooLarge):
            await field(b"large", SizeLimits(reply=99_999))
