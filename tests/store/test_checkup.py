"""What `flowcache check` finds out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

import pytest

from flowcache.secret import Secret
from flowcache.store.causes import Cause
from flowcache.store.checkup import REMEDIES, CheckupFault, checkup
from flowcache.store.rights import SHARED_RATES, Right, appending, needed_commands
from flowcache.store.settings import Address, StoreSettings, Tls
from tests.servers import (
    SERVERS,
    Cluster,
    RedisProcess,
    SentinelGroup,
    TlsServer,
    redis_binary,
    replicated,
    sentinel_binary,
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


@pytest.fixture(scope="module")
def locked() -> Iterator[tuple[RedisProcess, RedisProcess]]:
    """A Redis and a Sentinel, each with a password of its own."""
    with standalone(redis_binary(), config=["requirepass of-redis"]) as redis:
        watch = f"sentinel monitor flows {LOOPBACK} {redis.port} 1"
        config = (watch, "sentinel auth-pass flows of-redis", "requirepass of-sentinel")
        with standalone(sentinel_binary(), common=(), config=config) as sentinel:
            yield redis, sentinel


class TestSentinel:
    """A fault is blamed on the server that it is about, and the advice is about its settings."""

    async def test_a_wrong_password_of_redis(
        self, locked: tuple[RedisProcess, RedisProcess]
    ) -> None:
        """It is the primary that refuses it, and not the Sentinel that names the primary."""
        redis, sentinel = locked
        told = await fault(
            sentinel.address,
            service="flows",
            password=Secret("wrong"),
            sentinel_password=Secret("of-sentinel"),
        )
        assert told.startswith(f"{LOOPBACK}:{redis.port}: Redis refused the user or the password")
        assert str(sentinel.port) not in told
        assert "check redis.username and redis.password" in told

    @pytest.mark.parametrize("password", [None, Secret("wrong")])
    async def test_a_password_of_the_sentinel(
        self, locked: tuple[RedisProcess, RedisProcess], password: Secret | None
    ) -> None:
        """A Sentinel that wants a password, or another one, is not a matter of redis.password."""
        _, sentinel = locked
        told = await fault(
            sentinel.address,
            service="flows",
            password=Secret("of-redis"),
            sentinel_password=password,
        )
        assert told.startswith(f"{LOOPBACK}:{sentinel.port}: the Sentinel ")
        assert "check redis.sentinel_username and redis.sentinel_password" in told

    async def test_a_sentinel_that_is_not_known_as_one(
        self, locked: tuple[RedisProcess, RedisProcess]
    ) -> None:
        """Without redis.service it could be a Redis: both are said."""
        _, sentinel = locked
        told = await fault(sentinel.address)
        assert told.startswith(f"{LOOPBACK}:{sentinel.port}: Redis wants a password")
        assert "redis.sentinel_password" in told

    async def test_a_redis_in_place_of_a_sentinel(self, standalone_server: RedisProcess) -> None:
        """It is named as what it is."""
        told = await fault(standalone_server.address, service="flows")
        assert told.startswith(f"{LOOPBACK}:{standalone_server.port}: this is a Redis")
        assert "unset redis.service" in told

    async def test_a_primary_that_is_unreachable(self) -> None:
        """The address that the Sentinel names is to blame."""
        with PortClaim() as nobody:
            config = [f"sentinel monitor flows {LOOPBACK} {nobody.port} 1"]
            with standalone(sentinel_binary(), common=(), config=config) as sentinel:
                told = await fault(sentinel.address, service="flows")
            assert told.startswith(f"{LOOPBACK}:{nobody.port}: no connection")
            assert "Sentinel names it as primary" in told
            assert "replica-announce-ip" in told
            assert str(sentinel.port) not in told

    async def test_no_database_is_asked_of_a_sentinel(
        self, sentinel_servers: SentinelGroup
    ) -> None:
        """A database is chosen on the primary; a Sentinel has none."""
        lines = await check(*sentinel_servers.addresses, database=3)
        assert "writes, reads and scripts work" in lines[-1]


class TestAdvice:
    """What an operator is told fits what is wrong."""

    async def test_every_cause_has_a_remedy(self) -> None:
        """Whatever stands in the way, the check says what to do."""
        assert REMEDIES.keys() == set(Cause) - {Cause.OTHER}

    async def test_no_password(self) -> None:
        """No password was sent, so none was refused."""
        with standalone(config=["requirepass secret"]) as server:
            told = await fault(server.address)
        assert "Redis wants a password\n  What to do: set redis.password" in told

    async def test_no_such_database(self, standalone_server: RedisProcess) -> None:
        """The password is not to blame."""
        told = await fault(standalone_server.address, database=99)
        assert "What to do: set redis.database to one that exists" in told

    async def test_tls_to_a_redis_without(self, standalone_server: RedisProcess) -> None:
        """A server that does not answer to TLS may not speak it."""
        told = await fault(standalone_server.address, tls=Tls(), connect_timeout=0.2)
        assert "unset redis.tls" in told

    async def test_a_redis_that_wants_tls(self, tls_server: TlsServer) -> None:
        """A server that hangs up may want TLS."""
        told = await fault(tls_server.process.address)
        assert "What to do: does Redis want TLS on this port?" in told

    async def test_an_authority_that_did_not_sign(self, tls_server: TlsServer) -> None:
        """The file of the authority is to blame."""
        other = str(tls_server.certificates.other_authority.certificate)
        told = await fault(tls_server.process.address, tls=Tls(ca_file=other))
        assert "What to do: set redis.tls_ca_file" in told

    async def test_a_file_that_is_gone(self, tls_server: TlsServer) -> None:
        """A file of ours is, and not the connection; its path is not shown."""
        told = await fault(tls_server.process.address, tls=Tls(ca_file="/nonexistent/ca.pem"))
        assert "What to do: check redis.tls_ca_file" in told
        assert "/nonexistent" not in told
