"""Large reads on their connection: how many at once, until when, and what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

import pytest
from msgspec import structs

from flowcache.errors import AnsweredLate, TooLarge
from flowcache.ports import Access, Done, Large
from flowcache.store.commands import SMALL
from flowcache.store.redis_store import RedisStore
from flowcache.store.slots import key_slot
from tests.servers import Cluster
from tests.store.harness import get, guarded, in_time, put, replied, soon, store_at
from tests.store.resp import bulk, error, serving
from tests.store.scripted import Peer, Request, Scripted
from tests.store.test_store_scripted import always

WHOLE = bulk(b"x" * (SMALL + 1))
AT_ONCE = 4
"""How many large replies may be under way."""


class Slow:
    """A server that has to be told to answer each read of a large value."""

    def __init__(self) -> None:
        self.asked: list[Peer] = []
        self.most = 0

    def __call__(self, peer: Peer, request: Request) -> None:
        if request[0] == b"GETRANGE":
            peer.say(WHOLE)
        elif request[0] == b"EVALSHA":
            self.asked.append(peer)
            self.most = max(self.most, len(self.asked))

    def answer(self) -> None:
        self.asked.pop(0).say(WHOLE)


def looks(store: RedisStore, seconds: Callable[[], float]) -> Callable[[], int]:
    """Have the store's clock go ahead; return how to tell how often its links were looked at."""
    count = 0

    def clock() -> float:
        nonlocal count
        count += 1
        return monotonic() + seconds()

    store._routes._clock = clock
    return lambda: count


async def looked_at(looks: Callable[[], int]) -> None:
    """Wait for a whole look at the links, which reads the clock up to four times."""
    before = looks()
    await soon(lambda: looks() > before + 8)


async def test_only_a_few_are_under_way() -> None:
    """The others wait, so that many large reads at once do not fill the worker's memory."""
    slow = Slow()
    async with Scripted(slow) as server, store_at(server.address) as store:
        reads = [asyncio.ensure_future(replied(store, get(b"k"), in_time())) for _ in range(10)]
        for left in range(10, 0, -1):
            await soon(lambda: len(slow.asked) == min(AT_ONCE, left))  # noqa: B023
            slow.answer()
        assert [len(value) for value in await asyncio.gather(*reads)] == [SMALL + 1] * 10
        assert slow.most == AT_ONCE


async def test_clients_are_served_in_turn() -> None:
    """However many large reads one client has waiting, another's comes after one of them."""
    slow = Slow()
    async with Scripted(slow) as server, store_at(server.address) as store:

        def read(client: str) -> asyncio.Future[object]:
            command = structs.replace(get(client.encode()), client=client)
            return asyncio.ensure_future(replied(store, command, in_time()))

        reads = [read("busy") for _ in range(20)]
        await soon(lambda: len(slow.asked) == AT_ONCE)
        (apart,) = store._routes._bulks.values()
        await soon(lambda: len(apart._places._queue) == 20 - AT_ONCE)
        modest = read("modest")
        await soon(lambda: len(apart._places._queue) == 21 - AT_ONCE)
        for left in range(21, 0, -1):
            await soon(lambda: len(slow.asked) == min(AT_ONCE, left))  # noqa: B023
            slow.answer()
        await asyncio.gather(*reads, modest)
        asked = [each[3] for each in server.requests if each[0] == b"EVALSHA"]
        assert asked.index(b"modest") <= AT_ONCE + 1


async def test_a_connection_that_is_used_is_not_idle() -> None:
    """However long a read takes, those that wait behind it keep their connection."""
    slow, ahead = Slow(), 0.0
    async with Scripted(slow) as server, store_at(server.address) as store:
        counted = looks(store, lambda: ahead)
        reads = [asyncio.ensure_future(replied(store, get(b"k"), in_time(100))) for _ in range(6)]
        await soon(lambda: len(slow.asked) == AT_ONCE)
        ahead = 60.0
        await looked_at(counted)
        assert len(store._routes._bulks) == 1
        for _ in range(6):
            await soon(lambda: slow.asked)
            slow.answer()
        await asyncio.gather(*reads)
        ahead = 120.0
        await soon(lambda: not store._routes._bulks)


async def test_idle_is_counted_from_the_last_read() -> None:
    """Not from the first: a connection that is used now and then stays."""

    def script(peer: Peer, request: Request) -> None:
        peer.say(WHOLE)

    ahead = 0.0
    async with Scripted(script) as server, store_at(server.address) as store:
        counted = looks(store, lambda: ahead)
        for _ in range(4):
            ahead += 8.0
            await replied(store, get(b"k"), in_time(100))
            await looked_at(counted)
        assert len(server.peers) == 2 + _asked_for_the_map(server)


def _asked_for_the_map(server: Scripted) -> int:
    """Return how many connections only asked who the server is."""
    return sum(not peer.requests for peer in server.peers)


async def test_a_reply_beyond_all_bounds_is_too_large() -> None:
    """A server that sends more than it was asked for is not asked again for that."""

    def script(peer: Peer, request: Request) -> None:
        peer.say(WHOLE if request[0] == b"GETRANGE" else b"$999999999\r\n")

    async with Scripted(script) as server, store_at(server.address) as store:
        with pytest.raises(TooLarge):
            await replied(store, get(b"k"), in_time())
        assert [each[0] for each in server.requests].count(b"EVALSHA") == 1


async def test_a_large_value_of_a_replica_is_stale(breakable_cluster: Cluster) -> None:
    """As a small one is: its caller is told that it may be old."""
    value = b"x" * (SMALL + 1)
    async with store_at(*breakable_cluster.addresses) as store:
        await replied(store, put(b"k", value), in_time())
        shard = store.shard(get(b"k"))
        await soon(shard.has_fallback)

        async def read() -> Done:
            done = await store.read_elsewhere(shard, get(b"k"), in_time())
            return await done.fetch() if isinstance(done, Large) else done

        end = in_time()
        while (found := await read()).reply != value:
            assert found.stale
            assert monotonic() < end  # the replica has it soon
            await asyncio.sleep(0.01)
        assert found.stale


async def test_what_comes_too_late_for_a_second_question_is_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first part came after the deadline: the call fails, the circuit sees a Redis that
    answers, and nothing more is asked."""
    ahead = 0.0

    def script(peer: Peer, request: Request) -> None:
        nonlocal ahead
        ahead = 1000.0
        peer.say(bulk(b""))

    def clock() -> float:
        return monotonic() + ahead

    async with Scripted(script) as server, store_at(server.address) as store:
        monkeypatch.setattr(store, "_clock", clock)
        guard = guarded(store)
        for _ in range(6):
            ahead = 0.0
            with pytest.raises(AnsweredLate):
                await replied(guard, get(b"k"), in_time())
        circuits = {each.access: each for each in guard.circuits()}
        assert circuits[Access.READ].failures == 0
        assert {each[0] for each in server.requests} == {b"GETRANGE"}


async def test_whoever_answers_in_the_end_is_who_counts() -> None:
    """A replica that sends a read on to its primary: that has the rest, and it is not stale."""

    def script(peer: Peer, request: Request) -> None:
        peer.say(WHOLE)

    async with Scripted(script, mode="cluster") as primary, Scripted(mode="cluster") as replica:
        replica.script = always(error(f"MOVED {key_slot(b'k')} {primary.address}"))
        primary.handshake[b"CLUSTER"] = serving(primary.address, replica.address)
        async with store_at(primary.address) as store:
            shard = store.shard(get(b"k"))
            await soon(shard.has_fallback)
            large = await store.read_elsewhere(shard, get(b"k"), in_time())
            assert isinstance(large, Large)
            assert await large.fetch() == Done(b"x" * (SMALL + 1), shard.name)
            assert [request[0] for request in replica.requests] == [b"GETRANGE"]
