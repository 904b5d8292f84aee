"""Reads that survive their primary, on real servers: killed, stalled, slow, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import pytest

from flowcache.errors import CircuitOpen, DeadlineExceeded, RedisUnavailable
from flowcache.ports import Access
from flowcache.store.redis_store import RedisStore
from flowcache.store.settings import ReadFrom
from tests.servers.cluster import Cluster, ClusterNode
from tests.servers.process import RedisProcess
from tests.servers.proxy import Proxy
from tests.servers.standalone import replicated
from tests.store.harness import SLACK, get, guarded, in_time, incr, put, replied, soon, store_at
from tests.store.resp import NULL, bulk, serving
from tests.store.scripted import Peer, Request, Script, Scripted
from tests.store.test_cluster import key_on, name_of

FAILOVER_SECONDS = 30.0


@pytest.fixture
def servers(breakable_cluster: Cluster) -> Iterator[Cluster]:
    """A cluster whose shards go on when another can't."""
    for node in breakable_cluster.nodes:
        node.cli("CONFIG", "SET", "cluster-require-full-coverage", "no")
    yield breakable_cluster
    breakable_cluster.heal()
    for node in breakable_cluster.nodes:
        node.cli("CONFIG", "SET", "cluster-require-full-coverage", "yes")


def all_links_are_up(store: RedisStore) -> bool:
    shards = store.status().shards
    links = [link for shard in shards for link in (shard.primary, *shard.replicas)]
    return len(links) == 2 * len(shards) and all(link.state == "ready" for link in links)


def has_it(node: RedisProcess, key: bytes) -> bool:
    with node.client() as client:
        if isinstance(node, ClusterNode):
            client.execute_command("READONLY")
        return bool(client.exists(key))


async def test_a_killed_primary(servers: Cluster) -> None:
    """No read fails, from the moment of the death until the failover and after it."""
    dead = servers.primaries()[0]
    (replica,) = servers.replicas_of(dead)
    key = key_on(servers, dead)
    async with store_at(*servers.addresses) as store:
        guard = guarded(store)
        await soon(lambda: all_links_are_up(store))
        await replied(store, put(key, b"1"), in_time())
        await soon(lambda: has_it(replica, key))
        assert await replied(guard, get(key), in_time()) == b"1"
        stale = fresh = 0
        is_over = False

        async def reader() -> None:
            nonlocal stale, fresh
            while not is_over:
                done = await guard.execute(get(key), in_time(0.8))
                assert done.reply == b"1"
                stale += done.stale
                fresh += not done.stale
                await asyncio.sleep(0.002)

        readers = [asyncio.create_task(reader()) for _ in range(8)]
        await soon(lambda: fresh > 50)
        dead.kill()
        await soon(lambda: stale > 50)
        with pytest.raises((RedisUnavailable, CircuitOpen)):
            await replied(guard, put(key, b"2"), in_time(0.8))
        await soon(lambda: store.shard(get(key)).name == name_of(replica), within=FAILOVER_SECONDS)
        before = fresh
        await soon(lambda: fresh > before + 50)
        assert await replied(guard, put(key, b"1"), in_time()) == b"OK"
        (shard,) = (s for s in store.status().shards if s.name == name_of(replica))
        assert shard.primary.connects == 1, "the link that it had as a replica goes on"
        is_over = True
        await asyncio.gather(*readers)
        await guard.close()


async def test_a_stalled_primary(servers: Cluster) -> None:
    """Reads are answered within their deadline, and at once when the circuit has opened."""
    stalled = servers.primaries()[0]
    (replica,) = servers.replicas_of(stalled)
    key = key_on(servers, stalled)
    async with store_at(*servers.addresses) as store:
        guard = guarded(store)
        await soon(lambda: all_links_are_up(store))
        await replied(store, put(key, b"1"), in_time())
        await soon(lambda: has_it(replica, key))
        stalled.pause()
        replies = await asyncio.gather(
            *(replied(guard, get(key), in_time(1.0)) for _ in range(200))
        )
        assert set(replies) == {b"1"}
        reads = guard.reads()
        assert reads.hedges >= 100, "as many as the budget has saved"
        assert reads.late_hedges == 200 - reads.hedges
        await soon(
            lambda: (
                any(
                    c.access == "read" and c.state == "open" and c.shard == name_of(stalled)
                    for c in guard.circuits()
                )
                or store.shard(get(key)).name != name_of(stalled)
            )
        )
        before = guard.reads()
        assert await replied(guard, get(key), in_time(1.0)) == b"1"
        assert guard.reads().late_hedges == before.late_hedges
        await guard.close()


async def test_off_by_a_setting(servers: Cluster) -> None:
    """Without stale reads no replica is connected to, and a read fails with its primary."""
    dead = servers.primaries()[0]
    key = key_on(servers, dead)
    async with store_at(*servers.addresses, stale_reads=False) as store:
        guard = guarded(store)
        assert not any(shard.replicas for shard in store.status().shards)
        assert await replied(guard, get(key), in_time()) is None
        dead.kill()
        await soon(lambda: store.status().status != "ready")
        with pytest.raises(RedisUnavailable):
            await replied(guard, get(key), in_time(0.5))


@contextmanager
def slow_pair() -> Iterator[tuple[Proxy, RedisProcess, RedisProcess]]:
    """A primary behind a proxy that can hold its answers back, and its replica."""
    with replicated() as pair, Proxy(pair.primary.address) as proxy:
        pair.wait_linked()
        yield proxy, pair.primary, pair.replica


class TestSlow:
    async def test_the_replica_answers_when_the_primary_is_slow(self) -> None:
        """A read whose primary takes longer than usual is answered by the replica meanwhile."""
        with slow_pair() as (proxy, _, replica):
            async with store_at(proxy.address) as store:
                guard = guarded(store)
                await soon(lambda: all_links_are_up(store))
                await replied(store, put(b"k", b"1"), in_time())
                await soon(lambda: has_it(replica, b"k"))
                assert await replied(guard, get(b"k"), in_time()) == b"1"
                proxy.drop("answers")
                began = monotonic()
                done = await guard.execute(get(b"k"), in_time(20))
                assert (done.reply, done.stale) == (b"1", True)
                assert monotonic() - began < 10, "it did not wait for half of the deadline"
                assert guard.reads().hedges == 1
                await guard.close()

    async def test_a_write_waits_for_its_primary(self) -> None:
        """Nothing but the primary may take a write, however slow it is."""
        with slow_pair() as (proxy, primary, _):
            async with store_at(proxy.address) as store:
                guard = guarded(store)
                await soon(lambda: all_links_are_up(store))
                proxy.drop("answers")
                began = monotonic()
                with pytest.raises(DeadlineExceeded) as caught:
                    await replied(guard, incr(b"n"), in_time(0.3))
                assert not caught.value.retryable
                assert monotonic() - began < 0.3 + SLACK
                assert primary.cli("GET", "n") == "1"

    async def test_reads_from_replicas_fall_back_to_the_primary(self) -> None:
        """Where replicas answer reads, the primary is the second chance, and never stale."""
        with slow_pair() as (_, primary, replica):
            async with store_at(primary.address, read_from=ReadFrom.REPLICA) as store:
                guard = guarded(store)
                await soon(lambda: all_links_are_up(store))
                await replied(store, put(b"k", b"1"), in_time())
                await soon(lambda: has_it(replica, b"k"))
                shard = store.shard(get(b"k"))
                assert shard.accesses_by(shard.primary) == {Access.WRITE, Access.FALLBACK}
                assert shard.accesses_by(shard.replicas[0]) == {Access.READ}
                replica.pause()
                try:
                    assert await replied(guard, get(b"k"), in_time(5.0)) == b"1"
                finally:
                    replica.resume()
                await guard.close()


def stopping_at(name: bytes, then: bytes) -> Script:
    """Answer GETRANGE with nothing and everything else with ``then``; say nothing to ``name``."""

    def script(peer: Peer, request: Request) -> None:
        if request[0] != name:
            peer.say(bulk(b"") if request[0] == b"GETRANGE" else then)

    return script


@pytest.mark.parametrize(("reply", "value"), [(NULL, None), (bulk(b""), b""), (bulk(b"1"), b"1")])
async def test_a_primary_that_stalls_at_the_second_step(reply: bytes, value: bytes | None) -> None:
    """GETRANGE was answered and what tells a miss from an empty string is not: the replica is asked
    when the usual time is over, as at the first step."""
    async with Scripted(mode="cluster") as primary, Scripted(mode="cluster") as replica:
        primary.script, replica.script = stopping_at(b"EVALSHA", NULL), stopping_at(b"", reply)
        primary.handshake[b"CLUSTER"] = serving(primary.address, replica.address)
        async with store_at(primary.address) as store:
            guard = guarded(store)
            await soon(store.shard(get(b"k")).has_fallback)
            found = await guard.execute(get(b"k"), in_time(60))
            assert (found.reply, found.stale) == (value, True)
            assert [each[0] for each in primary.requests] == [b"GETRANGE", b"EVALSHA"]
            assert guard.reads().hedges == 1
            await guard.close()
