"""Writes that wait for replicas: what an answer then promises, and what it costs others."""

from __future__ import annotations

import asyncio
from collections.abc import Set
from time import monotonic

import pytest

from flowcache.errors import DeadlineExceeded, RedisUnavailable
from flowcache.ports import Access, Command, Once
from flowcache.store.redis_store import RedisStore
from tests.commands import command as made_command
from tests.servers.cluster import Cluster
from tests.servers.proxy import Proxy
from tests.servers.standalone import replicated
from tests.store.harness import SLACK, get, guarded, in_time, incr, put, replied, soon, store_at
from tests.store.test_cluster import key_on, name_of
from tests.store.test_second_chances import all_links_are_up

ONCE = Once(b"token", b"fingerprint", 60_000)
FAILOVER_SECONDS = 30.0


async def is_not_confirmed(
    store: RedisStore, command: Command, seconds: float = 0.3
) -> DeadlineExceeded:
    began = monotonic()
    with pytest.raises(DeadlineExceeded, match="did not confirm") as caught:
        await replied(store, command, in_time(seconds))
    assert monotonic() - began < seconds + SLACK
    return caught.value


async def test_what_is_answered_is_on_the_replica() -> None:
    """At the moment of the answer the replica has the write, whichever it is."""
    with replicated() as pair:
        pair.wait_linked()
        async with store_at(pair.primary.address, confirm_replicas=1) as store:
            await soon(lambda: all_links_are_up(store))
            for number in range(1, 20):
                assert await replied(store, incr(b"n"), in_time()) == number
                assert pair.replica.cli("GET", "n") == str(number)
            assert await replied(store, incr(b"n", ONCE), in_time()) == 20
            assert pair.replica.cli("GET", "n") == "20"
            answers = await asyncio.gather(
                *(replied(store, put(b"k%d" % n, b"v"), in_time()) for n in range(200))
            )
            assert set(answers) == {b"OK"}
            assert pair.replica.cli("EXISTS", *(f"k{n}" for n in range(200))) == 200


async def test_without_replicas_nothing_is_promised() -> None:
    """A write that no replica confirms fails in time, says it is done, and holds up no read."""
    with replicated() as pair:
        pair.wait_linked()
        async with store_at(pair.primary.address, confirm_replicas=1) as store:
            await soon(lambda: all_links_are_up(store))
            # The script has to be there: sent again, it would wait behind the first WAIT.
            await replied(store, incr(b"script", ONCE), in_time())
            pair.replica.pause()
            try:
                writing = asyncio.ensure_future(is_not_confirmed(store, incr(b"n"), 2.0))
                await asyncio.sleep(0)
                assert await replied(store, get(b"other"), in_time(10)) is None
                assert not writing.done(), "it waited behind the write"
                assert (await writing).retryable is False
                assert pair.primary.cli("GET", "n") == "1"
                assert (await is_not_confirmed(store, incr(b"n", ONCE))).retryable is True
                assert pair.primary.cli("GET", "n") == "2"
            finally:
                pair.replica.resume()
            assert await replied(store, incr(b"n", ONCE), in_time()) == 2
            assert pair.replica.cli("GET", "n") == "2"


async def test_a_repeated_write_is_confirmed_anew() -> None:
    """On a new connection, too, a repeated write waits for the replica to have the first one."""
    with replicated() as pair:
        pair.wait_linked()
        async with store_at(pair.primary.address, confirm_replicas=1) as store:
            await soon(lambda: all_links_are_up(store))
            pair.replica.pause()
            try:
                await is_not_confirmed(store, incr(b"n", ONCE))
                losses = store.status().shards[0].primary.losses
                pair.primary.cli("CLIENT", "KILL", "TYPE", "normal")
                await soon(lambda: store.status().shards[0].primary.losses > losses)
                await soon(lambda: store.shard(get(b"n")).writer.state == "ready")
                await is_not_confirmed(store, incr(b"n", ONCE))
                assert pair.primary.cli("GET", "n") == "1"
            finally:
                pair.replica.resume()


async def test_one_that_fails_is_not_waited_for() -> None:
    """A write that Redis refuses fails with its own reason, at once."""
    with replicated() as pair:
        pair.wait_linked()
        async with store_at(pair.primary.address, confirm_replicas=1) as store:
            await soon(lambda: all_links_are_up(store))
            await replied(store, put(b"k", b"x"), in_time())
            pair.replica.pause()
            try:
                hset = made_command(b"HSET", b"k", b"a", b"b", ttl=60, writes=True)
                with pytest.raises(Exception, match="another type"):
                    await replied(store, hset, in_time(600))
            finally:
                pair.replica.resume()


async def test_nothing_confirmed_is_lost_in_a_failover(breakable_cluster: Cluster) -> None:
    """What was answered before a primary was killed is there on the one that takes over."""
    servers = breakable_cluster
    for node in servers.nodes:
        node.cli("CONFIG", "SET", "cluster-require-full-coverage", "no")
    dead = servers.primaries()[0]
    (new,) = servers.replicas_of(dead)
    key = key_on(servers, dead)
    async with store_at(*servers.addresses, confirm_replicas=1) as store:
        guard = guarded(store)
        await soon(lambda: all_links_are_up(store))
        acknowledged: list[int] = []

        async def writer() -> None:
            while True:
                acknowledged.append(await replied(guard, incr(key), in_time(2.0)))

        writing = asyncio.ensure_future(writer())
        await soon(lambda: len(acknowledged) > 200 or writing.done())
        dead.kill()
        with pytest.raises(Exception, match="Redis"):
            await writing
        await soon(lambda: store.shard(get(key)).name == name_of(new), within=FAILOVER_SECONDS)
        await soon(lambda: store.status().status == "ready")
        assert int(await replied(store, get(key), in_time())) >= max(acknowledged)
        await guard.close()


async def test_the_writers_link_is_seen() -> None:
    """Where writes have a link of their own, the service isn't ready without it, and says so."""
    with replicated() as pair, Proxy(pair.primary.address) as proxy:
        pair.wait_linked()
        back: list[Set[Access]] = []
        async with store_at(
            proxy.address, confirm_replicas=1, on_back=lambda _, accesses: back.append(accesses)
        ) as store:
            await soon(lambda: all_links_are_up(store) and store.status().status == "ready")
            (shard,) = store.status().shards
            assert shard.writer is not None
            assert shard.writer.address == shard.primary.address
            assert {Access.WRITE} in back
            assert {Access.READ} in back
            await store.ping(in_time())
            told = len(back)
            await asyncio.to_thread(proxy.drop)
            with pytest.raises(RedisUnavailable):
                await store.ping(in_time(0.2))
            await asyncio.to_thread(proxy.restore)
            await asyncio.to_thread(proxy.reset)
            await soon(lambda: store.status().status == "ready" and len(back) >= told + 2)
            assert await replied(store, incr(b"n"), in_time()) == 1
