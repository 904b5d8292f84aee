"""What makes the store ask for the topology, with no interval that would: whom, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import Set
from time import monotonic

import pytest

from flowcache.errors import DeadlineExceeded, RedisUnavailable
from flowcache.ports import Access
from flowcache.store.redis_store import RedisStore
from flowcache.store.settings import StoreSettings
from flowcache.store.slots import SLOTS
from tests.store.harness import get, guarded, in_time, replied, soon, store_at
from tests.store.resp import OK, array, bulk, error, integer, serving, sharing
from tests.store.scripted import Peer, Request, Scripted
from tests.store.test_store_scripted import READ, SLOT, WRITE, always, first

NEVER = 600.0


async def test_a_slot_without_a_shard() -> None:
    """A call for a slot that nobody has fails, and has the map asked for."""
    async with Scripted(always(bulk("1")), mode="cluster") as server:
        server.handshake[b"CLUSTER"] = sharing(SLOT - 1, server.address, None)
        async with store_at(server.address, refresh_interval=NEVER) as store:
            with pytest.raises(RedisUnavailable):
                await replied(store, READ, in_time())
            server.handshake[b"CLUSTER"] = serving(server.address)

            await soon(lambda: store.status().shards[0].slots == ((0, SLOTS - 1),))
            assert await replied(store, READ, in_time()) == b"1"


@pytest.mark.parametrize("code", ["MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"])
@pytest.mark.parametrize("has_replica", [False, True])
async def test_an_answer_that_tells_of_a_change(code: str, has_replica: bool) -> None:
    """Whatever a server says that hints at a change, the map is asked for."""
    async with (
        Scripted(always(bulk("1")), mode="cluster") as replica,
        Scripted(always(bulk("1")), mode="cluster") as server,
    ):
        if has_replica:
            server.handshake[b"CLUSTER"] = serving(server.address, replica.address)
        async with store_at(server.address, refresh_interval=NEVER) as store:
            await soon(
                lambda: (
                    [link.state for link in store.status().shards[0].replicas]
                    == ["ready"] * has_replica
                )
            )
            before = server.handshaken.count(b"CLUSTER")
            server.script = first(error(f"{code} {SLOT} {server.address}"), then=bulk("1"))
            assert await replied(guarded(store), READ, in_time()) == b"1"
            await soon(lambda: server.handshaken.count(b"CLUSTER") > before)


async def test_a_primary_that_stalls() -> None:
    """While one of several primaries answers nothing another is asked who follows it."""
    async with (
        Scripted(mode="cluster") as stalled,
        Scripted(always(bulk("1")), mode="cluster") as other,
        Scripted(always(bulk("2")), mode="cluster") as new,
    ):
        for server in (stalled, other):
            server.handshake[b"CLUSTER"] = sharing(SLOT, stalled.address, other.address)
        async with store_at(
            stalled.address,
            refresh_interval=NEVER,
            reply_timeout=NEVER,
            connect_timeout=NEVER,
        ) as store:
            reading = asyncio.ensure_future(replied(store, READ, in_time(600)))
            await stalled.asked()
            stalled.handshake[b"HELLO"] = b""
            other.handshake[b"CLUSTER"] = sharing(SLOT, new.address, other.address)
            await soon(lambda: store.shard(get(b"k")).primary.address == new.address)
            await store.shard(get(b"k")).primary.settled()
            assert await replied(store, READ, in_time()) == b"2"
        with pytest.raises(RedisUnavailable):
            await reading


async def test_a_replica_that_is_lost() -> None:
    """A replica that is gone may have been taken off the map: it is asked for."""
    async with (
        Scripted(mode="cluster") as replica,
        Scripted(mode="cluster") as primary,
    ):
        primary.handshake[b"CLUSTER"] = serving(primary.address, replica.address)
        async with store_at(primary.address, refresh_interval=NEVER) as store:
            await soon(lambda: store.status().shards[0].replicas[0].state == "ready")
            primary.handshake[b"CLUSTER"] = serving(primary.address)
            replica.peers[0].hang_up()
            await soon(lambda: not store.status().shards[0].replicas)


async def test_when_all_is_well_nobody_is_asked() -> None:
    """Once a store knows its topology it lets the server alone until something happens."""
    async with (
        Scripted(mode="cluster") as here,
        Scripted(mode="cluster") as there,
        store_at(here.address, refresh_interval=NEVER),
        store_at(there.address, refresh_interval=0.01),  # for comparison
    ):
        await soon(lambda: there.handshaken.count(b"CLUSTER") > 8)
        assert here.handshaken.count(b"CLUSTER") <= 2


async def test_after_an_outage_it_asks_as_before() -> None:
    """A store slows down while nobody tells the topology, and no longer than that."""
    async with Scripted(mode="cluster") as here, Scripted(mode="cluster") as there:
        well, here.handshake[b"CLUSTER"] = here.handshake[b"CLUSTER"], error("ERR not now")
        async with store_at(here.address, refresh_interval=0.01, connect_timeout=1.0) as store:
            await soon(lambda: here.handshaken.count(b"CLUSTER") > 8)
            here.handshake[b"CLUSTER"] = well
            await soon(lambda: store.status().status == "ready")
            before = here.handshaken.count(b"CLUSTER")
            async with store_at(there.address, refresh_interval=0.01):  # for comparison
                await soon(lambda: there.handshaken.count(b"CLUSTER") > 12)
            assert here.handshaken.count(b"CLUSTER") - before > 8


async def test_a_replica_that_takes_over() -> None:
    """Its link goes on, and no longer asks for stale reads: a replica again, it has to redirect."""
    async with (
        Scripted(always(bulk("2")), mode="cluster") as replica,
        Scripted(mode="cluster") as primary,
    ):
        primary.handshake[b"CLUSTER"] = serving(primary.address, replica.address)
        async with store_at(primary.address, refresh_interval=0.01) as store:
            await soon(lambda: store.status().shards[0].replicas[0].state == "ready")
            primary.handshake[b"CLUSTER"] = serving(replica.address)
            await soon(lambda: store.shard(get(b"k")).name == str(replica.address))
            assert await replied(store, READ, in_time()) == b"2"
            assert replica.talking.requests == [[b"READWRITE"], [b"GETRANGE", b"k", b"0", b"65536"]]


async def test_who_comes_back_is_named() -> None:
    """Whoever guards the store hears of each server of a shard that is there, and of its use."""
    back: list[tuple[str, Set[Access]]] = []
    calls, fallback = {Access.READ, Access.WRITE}, {Access.FALLBACK}
    async with (
        Scripted(mode="cluster") as replica,
        Scripted(mode="cluster") as primary,
    ):
        name = str(primary.address)
        primary.handshake[b"CLUSTER"] = serving(primary.address, replica.address)
        async with store_at(
            primary.address, on_back=lambda shard, accesses: back.append((shard, accesses))
        ) as store:
            await soon(lambda: len(back) == 2)
            assert (name, calls) in back
            assert (name, fallback) in back
            replica.peers[-1].hang_up()
            await soon(lambda: len(back) == 3)
            assert back[-1] == (name, fallback)
            assert store.status().status == "ready"


async def test_who_stalled_once_is_named_the_next_time() -> None:
    """That a server came back from a stall proves nothing; that it comes back from a loss does."""
    back: list[Set[Access]] = []
    async with (
        Scripted() as server,
        store_at(
            server.address, reply_timeout=0.05, on_back=lambda _, accesses: back.append(accesses)
        ) as store,
    ):

        def connects() -> int:
            return store.status().shards[0].primary.connects

        assert len(back) == 1
        with pytest.raises((DeadlineExceeded, RedisUnavailable)):
            await replied(store, WRITE, in_time(0.1))
        await soon(lambda: connects() == 2)
        assert len(back) == 1
        server.peers[-1].hang_up()
        await soon(lambda: connects() == 3)
        await soon(lambda: len(back) == 2)


async def test_sentinels_are_asked_all_the_time() -> None:
    """In an orderly failover the primary that was goes on to answer: only a Sentinel tells."""
    async with Scripted(always(integer(1))) as old, Scripted(always(integer(2))) as new:
        primary = old

        def sentinel(peer: Peer, request: Request) -> None:
            if request[1] == b"GET-MASTER-ADDR-BY-NAME":
                address = primary.address
                peer.say(array(bulk(address.host), bulk(str(address.port))))
            else:
                peer.say(array())

        async with (
            Scripted(sentinel, mode="sentinel") as asked,
            store_at(asked.address, service="flows", refresh_interval=NEVER) as store,
        ):
            assert await replied(store, WRITE, in_time()) == 1
            primary = new
            await soon(lambda: store.shard(get(b"k")).name == str(new.address))
            await store.shard(get(b"k")).primary.settled()
            assert await replied(store, WRITE, in_time()) == 2


async def test_a_replica_that_takes_over_while_it_is_greeted() -> None:
    """A connection that is just being made for stale reads is none to lead a shard with."""
    async with (
        Scripted(always(bulk("2")), mode="cluster") as replica,
        Scripted(mode="cluster") as primary,
    ):
        replica.handshake[b"READONLY"] = b""
        primary.handshake[b"CLUSTER"] = serving(primary.address, replica.address)
        async with store_at(primary.address, refresh_interval=0.01, connect_timeout=NEVER) as store:
            await soon(lambda: b"READONLY" in replica.handshaken)
            primary.handshake[b"CLUSTER"] = serving(replica.address)
            await soon(lambda: store.shard(get(b"k")).name == str(replica.address))
            await soon(lambda: store.status().status == "ready")
            assert await replied(store, READ, in_time()) == b"2"


async def test_who_was_asked_is_kept_for_a_while() -> None:
    """A server that takes slots over is on no map yet: its connection lives for half a minute.

    Each ASK that leads there renews that; then it goes.
    """
    seconds = 0.0
    async with Scripted(always(integer(2))) as there, Scripted(mode="cluster") as here:
        there.handshake[b"ASKING"] = OK
        here.script = always(error(f"ASK {SLOT} {there.address}"))
        settings = StoreSettings(nodes=(here.address,), refresh_interval=0.01)
        store = RedisStore(settings, lambda: monotonic() + seconds)
        try:
            await store.start()

            async def refreshed() -> None:
                asked = here.handshaken.count(b"CLUSTER")
                await soon(lambda: here.handshaken.count(b"CLUSTER") > asked + 2)

            for seconds in (0.0, 20.0, 40.0):
                assert await replied(store, WRITE, in_time(seconds + 10)) == 2
                await refreshed()
            assert len(there.peers) == 1
            assert there.peers[0].is_open
            seconds = 80.0
            await soon(lambda: not there.peers[0].is_open)
        finally:
            await store.close()
