"""The bounds of reads and writes at their edges, where memory is another measure than bytes."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from flowcache.errors import Conflict, InvalidRequest, TooLarge, Unfinished
from flowcache.ports import Command, Once, SizeLimits
from tests.commands import command as made_command
from tests.servers import SERVERS, RedisProcess, standalone
from tests.store.harness import in_time, replied, store_at

ONCE = Once(b"token", b"fingerprint", 60_000)
LIMIT = SizeLimits().reply
EXACT = 2**53 - 1
"""The largest number that can be counted."""
FOREVER = 2**63
"""A life, in seconds, that Redis refuses: it is asked for when the write is done."""


@pytest.fixture(params=SERVERS.values(), ids=list(SERVERS), scope="module")
def binary_server(request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    with standalone(request.param()) as server:
        yield server


@pytest.fixture
def server(binary_server: RedisProcess) -> RedisProcess:
    binary_server.cli("FLUSHALL")
    return binary_server


def plant(server: RedisProcess, *words: bytes | str | int) -> None:
    """Run a command as another program would."""
    with server.client() as client:
        client.execute_command(*words)


def hset(*pairs: bytes, sizes: SizeLimits, once: Once | None = None) -> Command:
    return made_command(b"HSET", b"h", *pairs, ttl=60, writes=True, once=once, sizes=sizes)


def incr(step: int, *, ttl: int | None = 60, once: Once | None = None) -> Command:
    return made_command(b"INCRBY", b"n", b"%d" % step, ttl=ttl, writes=True, once=once)


class TestHashes:
    async def test_one_large_field_among_many_is_measured(self, server: RedisProcess) -> None:
        """Wherever Redis keeps it, and whichever other fields one looks at: it is too large."""
        small = [word for number in range(200) for word in (b"%d" % number, b"v")]
        reads = []
        for number in range(30):
            plant(server, "HSET", f"h{number}", *small, f"large {number}", b"x" * LIMIT)
            reads.append(made_command(b"HGETALL", b"h%d" % number))
        async with store_at(server.address) as store:
            for read in reads:
                with pytest.raises(TooLarge):
                    await replied(store, read, in_time())

    async def test_what_memory_costs_is_not_what_counts(self, server: RedisProcess) -> None:
        """A hash that takes far more memory than it has bytes grows up to its bytes."""
        held = 2**18 - 100  # Redis makes room for 320 KiB
        sizes = SizeLimits(value=held + 1 + 3)
        async with store_at(server.address) as store:
            await replied(store, hset(b"f", b"x" * held, sizes=sizes), in_time())
            assert await replied(store, hset(b"g", b"12", sizes=sizes), in_time()) == 1
            with pytest.raises(TooLarge):
                await replied(store, hset(b"i", b"", sizes=sizes), in_time())

    async def test_a_full_hash_takes_the_same_again(self, server: RedisProcess) -> None:
        """A field that is there gives up its name and its value; the new ones count, once."""
        pairs = b"a long name", b"its value", b"another", b""
        sizes = SizeLimits(value=sum(map(len, pairs)), fields=2)
        async with store_at(server.address) as store:
            for expected in (2, 0, 0):
                assert await replied(store, hset(*pairs, sizes=sizes), in_time()) == expected
            twice = hset(*pairs[:2], *pairs[:2], *pairs, sizes=sizes)
            assert await replied(store, twice, in_time()) == 0
            plant(server, "DEL", "h")
            assert await replied(store, twice, in_time()) == 2
            with pytest.raises(TooLarge):
                await replied(store, hset(b"another", b"1", sizes=sizes), in_time())


class TestCounters:
    @pytest.mark.parametrize("ttl", [None, 60])
    @pytest.mark.parametrize("sign", [1, -1])
    async def test_the_last_number_that_is_exact_is_the_last(
        self, server: RedisProcess, sign: int, ttl: int | None
    ) -> None:
        """One before it is counted on from; one beyond it is refused, with a TTL and without."""
        plant(server, "SET", "n", (EXACT - 1) * sign)
        async with store_at(server.address) as store:
            assert await replied(store, incr(sign, ttl=ttl), in_time()) == EXACT * sign
            with pytest.raises(InvalidRequest):
                await replied(store, incr(sign, ttl=ttl), in_time())
            assert await replied(store, incr(-sign, ttl=ttl), in_time()) == (EXACT - 1) * sign


class TestRecords:
    async def test_a_write_that_was_done_in_part_says_so(self, server: RedisProcess) -> None:
        """Redis refuses its TTL when it is done: the call fails, and must not be repeated.

        It has no record, which would make a success of the next."""
        async with store_at(server.address) as store:
            for _ in range(2):
                with pytest.raises(Unfinished) as caught:
                    await replied(store, incr(1, ttl=FOREVER, once=ONCE), in_time())
                assert not caught.value.retryable
        assert server.cli("KEYS", "*") == ["n"]

    async def test_a_part_of_a_fingerprint_is_another_body(self, server: RedisProcess) -> None:
        """Fingerprints are compared whole, also those that a body may have had before."""
        whole, former = b"fingerprint", b"an-older-one"
        known = Once(b"token", whole, 60_000, (former,))
        parts = whole[:-1], whole[1:], former[:-1], former[1:], former[:1]
        async with store_at(server.address) as store:
            for number, part in enumerate(parts):
                token = b"%d" % number
                first = msgspec.structs.replace(ONCE, token=token, fingerprint=part)
                again = msgspec.structs.replace(known, token=token)
                await replied(store, incr(1, once=first), in_time())
                with pytest.raises(Conflict):
                    await replied(store, incr(1, once=again), in_time())

    async def test_a_record_has_the_newest_fingerprint(self, server: RedisProcess) -> None:
        """What a body has had before is accepted and not kept: each knows the one after it."""
        prints = b"third", b"second", b"first"
        async with store_at(server.address) as store:
            first = Once(b"token", prints[0], 60_000, prints[1:])
            assert await replied(store, incr(1, once=first), in_time()) == 1
            for fingerprint in prints[1:]:
                once = Once(b"token", fingerprint, 60_000)
                with pytest.raises(Conflict):
                    await replied(store, incr(1, once=once), in_time())
            once = Once(b"token", prints[0], 60_000)
            assert await replied(store, incr(1, once=once), in_time()) == 1
