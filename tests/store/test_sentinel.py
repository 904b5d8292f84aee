"""What the store promises where Sentinels say who the primary is."""

from __future__ import annotations

import asyncio

from flowcache.ports import Once
from flowcache.store.settings import ReadFrom
from tests.servers import RedisProcess, SentinelGroup
from tests.servers.ports import LOOPBACK
from tests.store.calling import calling
from tests.store.harness import SLACK, get, in_time, incr, put, replied, soon, store_at

ONCE = Once(b"token", b"fingerprint", 60_000)
FAILOVER_SECONDS = 40.0


def name_of(server: RedisProcess) -> str:
    return f"{LOOPBACK}:{server.port}"


async def test_it_finds_the_primary(sentinel_servers: SentinelGroup) -> None:
    """Given Sentinels and the name of the service, the store talks to its primary."""
    async with store_at(*sentinel_servers.addresses, service=sentinel_servers.service) as store:
        assert await replied(store, incr(b"k", ONCE), in_time()) == 1
        status = store.status()
        assert (status.status, status.topology, status.fault) == ("ready", "sentinel", None)
        assert store.shard(get(b"k")).name == name_of(sentinel_servers.primary())
        await store.ping(in_time())


async def test_the_name_can_be_left_out(sentinel_servers: SentinelGroup) -> None:
    """Sentinels that watch one service need not be told which is meant."""
    async with store_at(sentinel_servers.addresses[0]) as store:
        assert store.status().topology == "sentinel"
        assert store.shard(get(b"k")).name == name_of(sentinel_servers.primary())


async def test_unknown_service(sentinel_servers: SentinelGroup) -> None:
    """A name that no Sentinel knows is the fault that is shown."""
    async with store_at(*sentinel_servers.addresses, service="nothing") as store:
        assert "does not know the service 'nothing'" in str(store.status().fault)


async def test_reads_from_replicas(sentinel_servers: SentinelGroup) -> None:
    """On request, reads are spread over the replicas."""
    primary, replicas = sentinel_servers.primary(), sentinel_servers.replicas()
    async with store_at(*sentinel_servers.addresses, read_from=ReadFrom.REPLICA) as store:
        links = store.status().shards[0].replicas
        assert {link.address for link in links} == {name_of(server) for server in replicas}
        await soon(lambda: all(link.state == "ready" for link in store.status().shards[0].replicas))
        for server in sentinel_servers.servers:
            server.cli("CONFIG", "RESETSTAT")
        assert await replied(store, put(b"read", b"1"), in_time()) == b"OK"
        await soon(lambda: all(server.cli("EXISTS", "read") for server in replicas))
        for _ in range(6):
            assert await replied(store, get(b"read"), in_time()) == b"1"
        assert "cmdstat_getrange" not in primary.cli("INFO", "commandstats")
        for server in replicas:
            assert server.cli("INFO", "commandstats")["cmdstat_getrange"]["calls"] == 3


async def test_failover_is_followed(breakable_sentinels: SentinelGroup) -> None:
    """When the Sentinels promote another server, writes go there, with no restart of the store."""
    servers = breakable_sentinels
    old = servers.primary()
    async with store_at(*servers.addresses, service=servers.service) as store:
        async with calling(store, lambda: incr(b"failover"), budget=1.0) as caller:
            await soon(lambda: caller.answered > 5)
            new = await asyncio.to_thread(servers.failover)
            assert new is not old
            await soon(lambda: store.shard(get(b"k")).name == name_of(new), within=FAILOVER_SECONDS)
            answered = caller.answered
            await soon(lambda: caller.answered > answered + 5)
        assert caller.late < SLACK
        assert await replied(store, incr(b"once", ONCE), in_time()) == 1
        assert new.cli("GET", "once") == "1"


async def test_killed_primary(breakable_sentinels: SentinelGroup) -> None:
    """When the primary dies calls fail fast until another is promoted, and then they work.

    A Sentinel that died with it is passed over.
    """
    servers = breakable_sentinels
    old = servers.primary()
    async with store_at(*servers.addresses, service=servers.service) as store:
        async with calling(store, lambda: put(b"k", b"1")) as caller:
            await soon(lambda: caller.answered > 5)
            servers.sentinels[0].kill()
            old.kill()
            await soon(lambda: caller.failed > 5)
            answered = caller.answered
            await soon(lambda: caller.answered > answered + 5, within=FAILOVER_SECONDS)
        assert caller.late < SLACK
        assert store.shard(get(b"k")).name != name_of(old)
