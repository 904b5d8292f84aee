"""What discovery makes of servers that know too little, too much, or of each other only."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from flowcache.store import discovery
from flowcache.store.connection import ConnectFault
from flowcache.store.discovery import discover
from flowcache.store.settings import Address, StoreSettings
from flowcache.store.topology import Kind, ShardMap, Topology
from tests.store.harness import soon
from tests.store.resp import NULL, array, bulk, error, integer
from tests.store.scripted import Peer, Request, Scripted

FORBIDDEN = error("NOPERM this user has no permissions to run the 'role' command")


def replica_of(address: Address) -> bytes:
    """Return what a replica says to ROLE."""
    parts = bulk(b"slave"), bulk(address.host), integer(address.port), bulk("connected"), integer(0)
    return array(*parts)


def sentinel(*services: bytes, primary: Address) -> Scripted:
    """Return a Sentinel that watches these services, all of which have the same primary."""

    def script(peer: Peer, request: Request) -> None:
        asked = request[1].upper()
        if asked == b"MASTERS":
            peer.say(array(*(array(bulk(b"name"), bulk(name)) for name in services)))
        elif asked == b"REPLICAS":
            peer.say(array())
        elif request[2] in services:
            peer.say(array(bulk(primary.host), bulk(b"%d" % primary.port)))
        else:
            peer.say(NULL)

    return Scripted(script, mode="sentinel")


async def found(*nodes: Address, **changes: str) -> Topology:
    return await discover(StoreSettings(nodes=nodes, **changes))  # type: ignore[arg-type]


async def not_found(*nodes: Address) -> str:
    with pytest.raises(ConnectFault) as caught:
        await found(*nodes)
    return str(caught.value)


async def test_servers_that_are_silent_leave_time_for_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each has its share of the time, and all shares together are no more than there is."""
    shares: list[float] = []

    def timeout(seconds: float) -> asyncio.Timeout:
        shares.append(seconds)
        return asyncio.timeout(seconds)

    monkeypatch.setattr(discovery, "asyncio", SimpleNamespace(timeout=timeout, sleep=asyncio.sleep))
    async with Scripted() as silent, Scripted() as mute, Scripted() as well:
        silent.handshake[b"HELLO"] = mute.handshake[b"HELLO"] = b""
        nodes = silent.address, mute.address, well.address
        topology = await discover(StoreSettings(nodes=nodes[2:]), nodes[:2], seconds=3.0)
    assert topology == Topology(Kind.STANDALONE, (ShardMap(well.address),))
    assert shares == [1.0] * 3


async def test_a_replica_of_a_replica_leads_to_nobody() -> None:
    """It would be written to in vain; and each connection that was made on the way is closed."""
    async with Scripted() as first, Scripted() as second, Scripted() as third:
        first.handshake[b"ROLE"] = replica_of(second.address)
        second.handshake[b"ROLE"] = replica_of(third.address)
        assert "is itself a replica" in await not_found(first.address)
        second.handshake[b"ROLE"] = third.handshake[b"ROLE"]
        assert (await found(first.address)).shards == (ShardMap(second.address),)
        await soon(lambda: not any(peer.is_open for each in (first, second) for peer in each.peers))
        assert third.peers == []


async def test_a_cluster_that_was_not_created() -> None:
    """A node without slots is none to send a call to, and the fault asks the right question."""
    async with Scripted(mode="cluster") as server:
        server.handshake[b"CLUSTER"] = array()
        assert "is the cluster created?" in await not_found(server.address)


async def test_a_sentinel_that_watches_several() -> None:
    """Which one is meant has to be said. The fault names a few, as far as they can be shown."""
    async with Scripted() as primary:
        names = b"\x1b[2Jone", b"x" * 500, *(b"service-%d" % number for number in range(20))
        async with sentinel(*names, primary=primary.address) as server:
            why = await not_found(server.address)
            for shown in ("\\x1b[2Jone", "x" * 80, "service-0", "service-2", "redis.service"):
                assert shown in why
            for hidden in ("\x1b", "x" * 81, "service-3"):
                assert hidden not in why
            topology = await found(server.address, service="service-7")
            assert topology == Topology(Kind.SENTINEL, (ShardMap(primary.address),))
        async with sentinel(primary=primary.address) as server:
            assert "watches none" in await not_found(server.address)


async def test_a_sentinel_that_names_who_was_primary() -> None:
    """The server itself is asked. One that may not be asked is believed to be a primary."""
    async with (
        Scripted() as primary,
        sentinel(b"service", primary=primary.address) as server,
    ):
        well = primary.handshake[b"ROLE"]
        primary.handshake[b"ROLE"] = replica_of(server.address)
        assert "is no primary yet" in await not_found(server.address)
        for role in (FORBIDDEN, well):
            primary.handshake[b"ROLE"] = role
            assert (await found(server.address)).shards == (ShardMap(primary.address),)


async def test_a_map_is_read_in_many_turns() -> None:
    """A map with a range for each slot leaves the loop to calls after each few hundred ranges."""
    ranges = [[slot, slot, [b"host", 1 + slot % 9]] for slot in range(16384)]
    reading, turns = discovery._read_slots(ranges, Address("asked", 1)), 0
    topology = None
    while topology is None:
        topology = next_turn(reading)
        turns += 1
    assert len(topology.shards) == 9
    assert turns > 30


def next_turn(reading: Coroutine[Any, Any, Topology]) -> Topology | None:
    """Have one turn of the loop; return the map if that was the last."""
    try:
        reading.send(None)
    except StopIteration as end:
        topology: Topology = end.value
        return topology
    return None
