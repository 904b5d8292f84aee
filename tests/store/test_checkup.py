"""What `flowcache check` finds out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

import pytest

from flowcache.secret import Secret
from flowcache.store.checkup import CheckupFault, checkup
from flowcache.store.rights import SHARED_RATES, Right, appending, needed_commands
from flowcache.store.settings import Address, StoreSettings, Tls
from tests.servers import (
    SERVERS,
    Cluster,
    RedisProcess,
    SentinelGroup,
    TlsServer,
    replicated,
    standalone,
)
from tests.servers.ports import LOOPBACK, PortClaim
from tests.store.harness import may
from tests.store.resp import error
from tests.store.scripted import Scripted


async def check(*nodes: tuple[str, int], rights: Sequence[Right] = (), **changes: Any) -> list[str]:
    settings = StoreSettings(nodes=tuple(Address(*node) for node in nodes), **changes)
    return [line async for line in checkup(settings, monotonic, rights)]


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


@pytest.fixture(params=SERVERS.values(), ids=list(SERVERS), scope="module")
def server_with_user(request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    with standalone(request.param()) as server:
        yield server


@pytest.mark.parametrize("command", needed_commands())
async def test_a_right_that_is_missing_is_named(
    server_with_user: RedisProcess, command: str
) -> None:
    """Be it one that only a script uses: with the rule that gives it, and no other."""
    told = await fault(server_with_user.address, **may(server_with_user, f"-{command}"))
    assert told.endswith(
        f": Redis forbids flowcache's user {command}.\n  What to do: ACL SETUSER flow +{command}"
    )
    for key in server_with_user.cli("KEYS", "flowcache:checkup*"):
        assert command == "unlink", "who can't remove it leaves it to its end"
        assert 0 < int(server_with_user.cli("TTL", key)) <= 10


async def test_what_a_configuration_asks_for_is_tried(server_with_user: RedisProcess) -> None:
    """All that is missing at once; where the user has it the check passes, and adds no entry."""
    server, stream = server_with_user, b"audit"
    server.cli("DEL", stream.decode())
    rights = [SHARED_RATES, appending(stream)]
    told = await fault(server.address, rights=rights, **may(server))
    assert told.endswith("user time, xadd.\n  What to do: ACL SETUSER flow +time +xadd")
    assert len(await check(server.address, **may(server))) == 3, "who does without need not have it"
    assert len(await check(server.address, rights=rights, **may(server, "+time", "+xadd"))) == 3
    assert server.cli("EXISTS", stream.decode()) == 0
    server.cli("XADD", stream.decode(), "*", "field", "there before")
    assert len(await check(server.address, rights=rights, **may(server, "+time", "+xadd"))) == 3
    assert server.cli("XLEN", stream.decode()) == 1


async def test_keys_that_are_missing_are_named(server_with_user: RedisProcess) -> None:
    """A user that may send a command, and not on these keys, is told to be given the keys."""
    server = server_with_user
    granted = may(server, "+xadd", "resetkeys", "~flowcache:*", "~mine:*")
    assert len(await check(server.address, **granted)) == 3
    told = await fault(server.address, rights=[appending(b"audit")], **granted)
    assert told.endswith("user xadd.\n  What to do: ACL SETUSER flow ~audit")
    told = await fault(server.address, **may(server, "resetkeys", "~mine:*"))
    assert told.endswith("What to do: ACL SETUSER flow ~flowcache:*")


async def test_what_a_cluster_takes_is_tried_there(breakable_cluster: Cluster) -> None:
    """Each primary is asked; a server alone does without, and so may its user."""
    for node in breakable_cluster.nodes:
        granted = may(node)
    address = breakable_cluster.addresses[0]
    assert len(await check(address, **granted)) == 4, "the documented rights are enough"
    for node in breakable_cluster.nodes:
        may(node, "-asking", "-readwrite")
    told = await fault(address, **granted)
    assert told.endswith(
        "user asking, readwrite.\n  What to do: ACL SETUSER flow +asking +readwrite"
    )
    for node in breakable_cluster.nodes:
        may(node, "-cluster|slots")
    assert "give flowcache's Redis user +cluster|slots" in await fault(address, **granted)
    for node in breakable_cluster.nodes:
        node.cli("ACL", "DELUSER", "flow")


async def test_waiting_for_replicas_takes_a_right() -> None:
    """Where writes are confirmed, the right to wait is asked for."""
    with replicated() as pair:
        told = await fault(pair.primary.address, confirm_replicas=1, **may(pair.primary))
        assert told.endswith("user wait.\n  What to do: ACL SETUSER flow +wait")
        granted = may(pair.primary, "+wait")
        lines = await check(pair.primary.address, confirm_replicas=1, **granted)
        assert len(lines) == 2


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
