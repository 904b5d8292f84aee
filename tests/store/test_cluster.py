"""What the store promises on a real cluster, whole and broken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from time import monotonic
from typing import Any

import pytest

from flowcache.errors import InvalidRequest, RedisUnavailable
from flowcache.ports import Command, Once
from flowcache.store.commands import SMALL
from flowcache.store.redis_store import RedisStore
from flowcache.store.settings import ReadFrom
from flowcache.store.slots import SLOTS, key_slot
from tests.commands import command as made_command
from tests.servers import Cluster, ClusterNode, RedisProcess, cluster
from tests.servers.ports import LOOPBACK
from tests.store.calling import calling
from tests.store.harness import SLACK, get, guarded, in_time, incr, put, replied, soon, store_at

FAILOVER_SECONDS = 30.0


@pytest.fixture
def servers(breakable_cluster: Cluster) -> Cluster:
    return breakable_cluster


def name_of(node: ClusterNode) -> str:
    return f"{LOOPBACK}:{node.port}"


def key_on(servers: Cluster, node: ClusterNode, prefix: str = "k") -> bytes:
    """Return a key that the node holds."""
    names = (f"{prefix}{number}".encode() for number in range(10_000))
    return next(name for name in names if servers.node_of_slot(key_slot(name)) is node)


def once(token: int | str) -> Once:
    return Once(str(token).encode(), b"fingerprint", 60_000)


def redirections(node: ClusterNode, code: str) -> int:
    """Return how often a node has sent somebody elsewhere."""
    stats: dict[str, Any] = node.cli("INFO", "errorstats")
    return int(stats.get(f"errorstat_{code}", {"count": 0})["count"])


def calls(node: RedisProcess, command: str) -> int:
    stats: dict[str, Any] = node.cli("INFO", "commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def works(store: RedisStore, key: bytes) -> None:
    """Wait until a key can be written again."""
    end = monotonic() + FAILOVER_SECONDS
    async with calling(store, lambda: put(key, b"again")) as caller:
        while not caller.answered:
            assert monotonic() < end, f"{key!r} doesn't work again: {caller.failures[-1:]}"
            await asyncio.sleep(0.01)


class TestWhole:
    async def test_every_key_finds_its_shard(self, servers: Cluster) -> None:
        """Keys are sent straight to where they live, with no redirection, scripts included."""
        owners = servers.primaries()
        async with store_at(owners[0].address) as store:
            before = [redirections(node, "MOVED") for node in servers.nodes]
            for number in range(60):
                key = b"key%d" % number
                assert await replied(store, put(key, key), in_time()) == b"OK"
                assert await replied(store, get(key), in_time()) == key
                assert store.shard(get(key)).name == name_of(servers.node_of_slot(key_slot(key)))
                assert await replied(store, incr(b"n" + key, once(number)), in_time()) == 1
            assert [redirections(node, "MOVED") for node in servers.nodes] == before

    async def test_commands_of_several_keys(self, servers: Cluster) -> None:
        """They run where all of their keys are; without a hash tag in common they are refused."""
        async with store_at(servers.primaries()[0].address) as store:
            for tag in (b"a", b"b", b"c"):
                mset = (b"MSET", b"{%b}1" % tag, b"x", b"{%b}2" % tag, b"y")
                assert await replied(store, several(*mset, keys=(1, 3)), in_time()) == b"OK"
                mget = several(b"MGET", b"{%b}2" % tag, b"{%b}1" % tag, keys=(1, 2), writes=False)
                done = await store.execute(mget, in_time())
                assert done.reply == [b"y", b"x"]
                assert done.shard == name_of(servers.node_of_slot(key_slot(tag)))
            with pytest.raises(InvalidRequest, match="hash tag"):
                await store.execute(
                    several(b"MSET", b"a", b"1", b"b", b"1", keys=(1, 3)), in_time()
                )
            assert await replied(store, get(b"a"), in_time()) is None

    async def test_it_knows_the_shape(self, servers: Cluster) -> None:
        """The status names each shard by its primary, with its slots; together they are all."""
        async with store_at(*servers.addresses) as store:
            status = store.status()
            assert (status.status, status.topology, status.fault) == ("ready", "cluster", None)
            owners = {name_of(node) for node in servers.primaries()}
            assert {shard.name for shard in status.shards} == set(store.shards()) == owners
            slots = sum(last - first + 1 for shard in status.shards for first, last in shard.slots)
            assert slots == SLOTS
            await store.ping(in_time())

    async def test_any_node_will_do(self, servers: Cluster) -> None:
        """One node's address is enough to find all, a replica's too."""
        replica = servers.replicas_of(servers.primaries()[0])[0]
        async with store_at(replica.address) as store:
            for node in servers.primaries():
                key = key_on(servers, node)
                assert await replied(store, put(key, b"1"), in_time()) == b"OK"

    async def test_other_database(self, servers: Cluster) -> None:
        """A cluster has one database; asking for another is a fault that says so."""
        async with store_at(servers.addresses[0], database=1) as store:
            status = store.status()
            assert status.status == "reconnecting"
            for shard in status.shards:
                assert str(shard.primary.fault).startswith("Redis does not have this database: ")


class TestMoving:
    async def test_moved(self, servers: Cluster) -> None:
        """When a slot has moved the first command is redirected, and no one notices but the map."""
        source, target = servers.primaries()[:2]
        key = key_on(servers, source)
        async with store_at(*servers.addresses) as store:
            assert await replied(store, incr(key), in_time()) == 1
            await asyncio.to_thread(servers.migrate_slot, key_slot(key), source, target)
            before = redirections(source, "MOVED")
            for number in range(2, 10):
                assert await replied(store, incr(key), in_time()) == number
            assert redirections(source, "MOVED") == before + 1
            assert store.shard(get(key)).name == name_of(target)
            await soon(
                lambda: any(
                    first <= key_slot(key) <= last
                    for shard in store.status().shards
                    if shard.name == name_of(target)
                    for first, last in shard.slots
                ),
                what="the map to be refreshed",
            )
            # The script may never have been at the new home.
            assert await replied(store, incr(key, once("moved")), in_time()) == 10

    async def test_ask(self, servers: Cluster) -> None:
        """While a slot moves, keys are found on either side, and writes are done once."""
        source, target = servers.primaries()[:2]
        key = key_on(servers, source)
        slot = key_slot(key)
        left = b"{%b}left" % key
        async with store_at(*servers.addresses) as store:
            for name in (key, left):
                assert await replied(store, incr(name), in_time()) == 1
            await asyncio.to_thread(servers.migrate_slot, slot, source, target, leave_open=True)
            await asyncio.to_thread(servers.move_keys, source, target, key.decode())
            assert await replied(store, get(key), in_time()) == b"1"
            for number in (2, 3, 4):
                assert await replied(store, incr(key), in_time()) == number
                assert await replied(store, incr(left), in_time()) == number
            assert await replied(store, incr(b"{%b}new" % key), in_time()) == 1
            assert store.shard(get(key)).name == name_of(source), "an ASK is no new home"
            await asyncio.to_thread(servers.migrate_slot, slot, source, target)
            for name in (key, left):
                assert await replied(store, incr(name), in_time()) == 5

    async def test_ask_takes_more_than_one_command(self, servers: Cluster) -> None:
        """While a slot moves, a miss, a large string and a large hash are read where they are."""
        source, target = servers.primaries()[:2]
        key = key_on(servers, source)
        table, left, absent = (b"{%b}%b" % (key, name) for name in (b"table", b"left", b"absent"))
        value = b"x" * (3 * SMALL)
        pairs = [b"%d" % number for number in range(20_000)]
        fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
        async with store_at(*servers.addresses) as store:
            for name in (key, left):
                await replied(store, put(name, value), in_time())
            await replied(
                store, made_command(b"HSET", table, *pairs, ttl=60, writes=True), in_time()
            )
            slot = key_slot(key)
            await asyncio.to_thread(servers.migrate_slot, slot, source, target, leave_open=True)
            for name in (key, table):
                await asyncio.to_thread(servers.move_keys, source, target, name.decode())
            for _ in range(2):
                for name in (key, left):
                    assert await replied(store, get(name), in_time()) == value
                assert await replied(store, made_command(b"HGETALL", table), in_time()) == fields
                assert await replied(store, get(absent), in_time()) is None
                assert await replied(store, made_command(b"HGETALL", absent), in_time()) == {}
            await asyncio.to_thread(servers.migrate_slot, slot, source, target)
            assert await replied(store, get(key), in_time()) == value

    @pytest.mark.parametrize("has_moved", [False, True])
    async def test_tryagain(self, servers: Cluster, has_moved: bool) -> None:
        """A write whose key and record are apart waits for the slot to arrive, and is done once."""
        source, target = servers.primaries()[:2]
        key = key_on(servers, source)
        slot = key_slot(key)
        async with store_at(*servers.addresses) as store:
            assert await replied(store, incr(key), in_time()) == 1
            await asyncio.to_thread(servers.migrate_slot, slot, source, target, leave_open=True)
            if has_moved:
                await asyncio.to_thread(servers.move_keys, source, target, key.decode())
            asked = target if has_moved else source
            before = redirections(asked, "TRYAGAIN")
            writing = asyncio.ensure_future(replied(store, incr(key, once("apart")), in_time()))
            await soon(lambda: writing.done() or redirections(asked, "TRYAGAIN") > before + 5)
            await asyncio.to_thread(servers.migrate_slot, slot, source, target)
            assert await writing == 2
            assert await replied(store, incr(key, once("apart")), in_time()) == 2
            assert await replied(store, get(key), in_time()) == b"2"

    async def test_new_node(self) -> None:
        """A node that joins later is found when it gets slots, and used from then on."""
        with cluster(3, 0) as servers:
            source = servers.primaries()[0]
            key = key_on(servers, source)
            async with store_at(*servers.addresses) as store:
                assert await replied(store, incr(key), in_time()) == 1
                new = await asyncio.to_thread(servers.add_node)
                await asyncio.to_thread(servers.migrate_slot, key_slot(key), source, new)
                assert await replied(store, incr(key), in_time()) == 2
                assert await replied(store, incr(key, once("new")), in_time()) == 3
                await soon(lambda: name_of(new) in store.shards())
                assert calls(new, "incr") >= 1


class TestFailover:
    @pytest.fixture
    def servers(self, servers: Cluster) -> Iterator[Cluster]:
        """A cluster whose shards go on when another can't; with Redis's default they do not."""
        for node in servers.nodes:
            node.cli("CONFIG", "SET", "cluster-require-full-coverage", "no")
        yield servers
        servers.heal()
        for node in servers.nodes:
            node.cli("CONFIG", "SET", "cluster-require-full-coverage", "yes")

    async def test_in_order(self, servers: Cluster) -> None:
        """In an orderly failover no acknowledged write is lost and none is done twice."""
        old = servers.primaries()[0]
        (new,) = servers.replicas_of(old)
        key = key_on(servers, old)
        async with store_at(*servers.addresses) as store:
            async with calling(store, lambda: incr(key), budget=2.0) as caller:
                await soon(lambda: caller.answered > 5)
                await asyncio.to_thread(servers.failover, new)
                await soon(lambda: store.shard(get(key)).name == name_of(new))
                answered = caller.answered
                await soon(lambda: caller.answered > answered + 5)
            count = int(await replied(store, get(key), in_time()))
            assert caller.answered <= count <= caller.answered + caller.unknown
            assert caller.late < SLACK
            # It has the script from its primary, or gets it.
            assert await replied(store, incr(key, once("failover")), in_time()) == count + 1

    async def test_killed_primary(self, servers: Cluster) -> None:
        """When a primary dies its shard fails fast until its replica takes over; others go on."""
        dead, *others = servers.primaries()
        lost, kept = key_on(servers, dead), [key_on(servers, node) for node in others]
        async with store_at(*servers.addresses) as store:
            await replied(store, put(lost, b"1"), in_time())
            async with (
                calling(store, lambda: get(lost)) as unlucky,
                calling(store, lambda: incr(kept[0])) as lucky,
                calling(store, lambda: put(kept[1], b"1")) as lucky_too,
            ):
                await soon(lambda: unlucky.answered > 5)
                dead.kill()
                await soon(lambda: unlucky.failed > 5)
                answered = unlucky.answered
                await soon(lambda: unlucky.answered > answered + 5, within=FAILOVER_SECONDS)
            assert lucky.failed == lucky_too.failed == 0
            assert max(caller.late for caller in (unlucky, lucky, lucky_too)) < SLACK
            assert store.shard(get(lost)).name != name_of(dead)
            assert await replied(store, put(lost, b"2"), in_time()) == b"OK"
            await asyncio.to_thread(servers.heal)
            assert await replied(store, get(lost), in_time()) == b"2"

    async def test_stalled_primary(self, servers: Cluster) -> None:
        """When a primary stalls every call ends within its deadline; no other shard feels it."""
        stalled, *others = servers.primaries()
        stuck, kept = key_on(servers, stalled), key_on(servers, others[0])
        async with store_at(*servers.addresses, reply_timeout=0.5) as store:
            async with (
                calling(store, lambda: get(stuck), budget=0.1) as reader,
                calling(store, lambda: incr(stuck), budget=0.1) as writer,
                calling(store, lambda: incr(kept), budget=5.0) as lucky,
            ):
                await soon(lambda: reader.answered > 5 and writer.answered > 5)
                stalled.pause()
                await soon(lambda: reader.failed > 5 and writer.failed > 5)
                answered = writer.answered
                # Its replica takes over.
                await soon(lambda: writer.answered > answered + 5, within=FAILOVER_SECONDS)
            assert lucky.failed == 0
            assert max(reader.late, writer.late, lucky.late) < SLACK
            # What the stalled one still does is of no account: it is a replica now.
            await asyncio.to_thread(servers.heal)
            assert await replied(store, put(stuck, b"1"), in_time()) == b"OK"

    async def test_dead_shard(self, servers: Cluster) -> None:
        """A shard without a server fails fast; others go on, unless the cluster forbids it."""
        dead, *others = servers.primaries()
        gone = {dead, *servers.replicas_of(dead)}
        live = [node for node in servers.nodes if node not in gone]
        lost, *kept = (key_on(servers, node) for node in (dead, *others))
        for node in live:
            node.cli("CONFIG", "SET", "cluster-require-full-coverage", "yes")
        async with store_at(*servers.addresses) as store:
            for node in gone:
                node.kill()
            await soon(lambda: all(state_of(node) == "fail" for node in live))
            for key in kept:
                with pytest.raises(RedisUnavailable, match="cluster is down") as caught:
                    await replied(store, incr(key), in_time(1))
                assert caught.value.retryable
            for node in live:
                node.cli("CONFIG", "SET", "cluster-require-full-coverage", "no")
            await soon(lambda: all(state_of(node) == "ok" for node in live))
            async with (
                calling(store, lambda: get(lost)) as unlucky,
                calling(store, lambda: incr(kept[0])) as lucky,
                calling(store, lambda: incr(kept[1])) as lucky_too,
            ):
                await soon(lambda: unlucky.failed > 20)
            assert unlucky.answered == lucky.failed == lucky_too.failed == 0
            assert max(caller.late for caller in (unlucky, lucky, lucky_too)) < SLACK
            await asyncio.to_thread(servers.heal)
            for key in (lost, *kept):
                await works(store, key)
            await store.ping(in_time())


def state_of(node: ClusterNode) -> str:
    return node.cluster_info()["cluster_state"]


class TestReplicas:
    @pytest.fixture
    def pairs(self, servers: Cluster) -> dict[bytes, tuple[ClusterNode, ClusterNode]]:
        """A key of each shard, with its primary and its replica."""
        pairs = {
            key_on(servers, node): (node, servers.replicas_of(node)[0])
            for node in servers.primaries()
        }
        for node in servers.nodes:
            node.cli("CONFIG", "RESETSTAT")
        return pairs

    async def test_reads_go_to_replicas(
        self, servers: Cluster, pairs: dict[bytes, tuple[ClusterNode, ClusterNode]]
    ) -> None:
        """On request, all reads are answered by replicas, and all writes by primaries."""
        async with store_at(*servers.addresses, read_from=ReadFrom.REPLICA) as store:
            await soon(lambda: replicas_are_ready(store))
            for key, (primary, replica) in pairs.items():
                assert await replied(store, put(key, b"1"), in_time()) == b"OK"
                await soon(partial(has, replica, key))
                before = calls(replica, "getrange")
                for _ in range(5):
                    assert await replied(store, get(key), in_time()) == b"1"
                assert calls(replica, "getrange") == before + 5
                assert calls(primary, "getrange") == 0

    async def test_dead_replica(
        self, servers: Cluster, pairs: dict[bytes, tuple[ClusterNode, ClusterNode]]
    ) -> None:
        """A read whose replica dies, under it or before, is answered by the primary."""
        key, (primary, replica) = next(iter(pairs.items()))
        async with store_at(*servers.addresses, read_from=ReadFrom.REPLICA) as store:
            await soon(lambda: replicas_are_ready(store))
            guard = guarded(store)
            await replied(store, put(key, b"1"), in_time())
            replica.pause()
            reading = asyncio.ensure_future(replied(guard, get(key), in_time()))
            await soon(lambda: link_to_replica(store, key).pending == 1)
            replica.kill()
            assert await reading == b"1"
            for _ in range(5):
                assert await replied(guard, get(key), in_time()) == b"1"
            assert calls(primary, "getrange") == 6


def replicas_are_ready(store: RedisStore) -> bool:
    links = [link for shard in store.status().shards for link in shard.replicas]
    return len(links) == 3 and all(link.state == "ready" for link in links)


def link_to_replica(store: RedisStore, key: bytes) -> Any:
    return next(s for s in store.status().shards if s.name == store.shard(get(key)).name).replicas[
        0
    ]


def has(replica: ClusterNode, key: bytes) -> bool:
    with replica.client() as client:
        client.execute_command("READONLY")
        return bool(client.exists(key))


def several(*words: bytes, keys: tuple[int, ...], writes: bool = True) -> Command:
    return Command(words, keys=keys, writes=writes)
