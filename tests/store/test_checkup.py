"""What `flowcache check` finds out."""

from __future__ import annotations

from time import monotonic
from typing import Any

import pytest

from flowcache.secret import Secret
from flowcache.store.checkup import CheckupFault, checkup
from flowcache.store.settings import Address, StoreSettings, Tls
from tests.servers import Cluster, RedisProcess, SentinelGroup, TlsServer
from tests.servers.ports import LOOPBACK, PortClaim
from tests.store.resp import error
from tests.store.scripted import Scripted


async def check(*nodes: tuple[str, int], **changes: Any) -> list[str]:
    settings = StoreSettings(nodes=tuple(Address(*node) for node in nodes), **changes)
    return [line async for line in checkup(settings, monotonic)]


async def fault(*nodes: tuple[str, int], **changes: Any) -> str:
    with pytest.raises(CheckupFault) as caught:
        await check(*nodes, **changes)
    return str(caught.value)


def tls_of(server: TlsServer) -> Tls:
    return Tls(ca_file=str(server.certificates.authority.certificate))


async def test_standalone(standalone_server: RedisProcess) -> None:
    """A server that is fit is told to be, and no key of the check is left."""
    standalone_server.cli("FLUSHALL")
    for _ in range(2):  # the second finds the first one's record
        topology, advice, shard = await check(standalone_server.address)
        assert "a shard has no replica" in advice
        assert topology == "Topology: standalone, 1 shard."
        assert f"{LOOPBACK}:{standalone_server.port}: writes, reads and scripts work" in shard
    assert not [key for key in standalone_server.cli("KEYS", "*") if "once" not in key]


async def test_cluster(cluster_servers: Cluster) -> None:
    """Each shard of a cluster is tried."""
    topology, advice, *shards = await check(cluster_servers.addresses[0])
    assert "cluster-require-full-coverage" in advice
    assert topology == "Topology: cluster, 3 shards."
    for node in cluster_servers.primaries():
        assert any(f"{LOOPBACK}:{node.port}: " in line for line in shards)


async def test_sentinel(sentinel_servers: SentinelGroup) -> None:
    """Through Sentinels the primary is tried."""
    topology, shard = await check(*sentinel_servers.addresses)
    assert topology == "Topology: sentinel, 1 shard."
    assert f"{LOOPBACK}:{sentinel_servers.primary().port}: " in shard


async def test_documented_rights_suffice(tls_server: TlsServer) -> None:
    """A user with the rights that operators are told to give passes, over TLS."""
    lines = await check(
        tls_server.process.address,
        tls=tls_of(tls_server),
        username=tls_server.username,
        password=Secret(tls_server.password),
    )
    assert len(lines) == 3


async def test_a_cluster_that_goes_on_without_a_shard(breakable_cluster: Cluster) -> None:
    """Nobody is told to change what is as it should be."""
    for node in breakable_cluster.nodes:
        node.cli("CONFIG", "SET", "cluster-require-full-coverage", "no")
    try:
        lines = await check(breakable_cluster.addresses[0])
    finally:
        for node in breakable_cluster.nodes:
            node.cli("CONFIG", "SET", "cluster-require-full-coverage", "yes")
    assert len(lines) == 4
    assert not any("Advice" in line for line in lines)


async def test_more_confirmations_than_replicas(cluster_servers: Cluster) -> None:
    """Writes that could never be confirmed are found before anybody waits for one."""
    told = await fault(cluster_servers.addresses[0], confirm_replicas=2)
    assert told.startswith("redis.confirm_replicas = 2: a shard has 1 replicas")
    assert len(await check(cluster_servers.addresses[0], confirm_replicas=1)) == 5


async def test_wrong_password(tls_server: TlsServer) -> None:
    """A wrong password is told as that, with the settings to look at, and isn't shown."""
    told = await fault(
        tls_server.process.address,
        tls=tls_of(tls_server),
        username=tls_server.username,
        password=Secret("a wrong one"),
    )
    assert "Redis refused the user or the password" in told
    assert "What to do: check redis.username and redis.password" in told
    assert "a wrong one" not in told


async def test_nobody_there() -> None:
    """Where nobody listens the operator is asked whether Redis runs there."""
    with PortClaim() as nobody:
        told = await fault((LOOPBACK, nobody.port))
    assert f"{LOOPBACK}:{nobody.port}: no connection" in told
    assert "What to do: is Redis running there?" in told


async def test_database_of_a_cluster(cluster_servers: Cluster) -> None:
    """A cluster has one database, and whoever asked for another is told."""
    assert "database" in (await fault(cluster_servers.addresses[0], database=1)).lower()


async def test_shard_that_refuses() -> None:
    """A server that can be found and can't be used is named with what it said, in our words."""
    async with Scripted(lambda peer, request: peer.say(error("OOM command not allowed"))) as server:
        told = await fault(server.address)
    assert told == f"{server.address}: Redis is out of memory."


async def test_leaving_early(standalone_server: RedisProcess) -> None:
    """Who stops listening to the check leaves nothing open."""
    settings = StoreSettings(nodes=(Address(*standalone_server.address),))
    lines = checkup(settings, monotonic)
    async for _ in lines:
        break
    await lines.aclose()  # type: ignore[attr-defined]
