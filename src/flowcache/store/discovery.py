"""Ask the servers who holds what. The only module that knows how each topology is told.

A seed is asked by HELLO what it is:

- ``cluster``: CLUSTER SLOTS tells everything;
- ``sentinel``: SENTINEL tells the primary and the replicas of a service;
- ``standalone``: ROLE tells whether it is the primary; a replica names its primary.

Discovery connects anew each time: it must work when every link is down, and it asks rarely.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection

from flowcache.store.connection import ConnectFault, ask, close, connect
from flowcache.store.settings import Address, StoreSettings
from flowcache.store.topology import Kind, ShardMap, Topology, from_cluster_slots

__all__ = ["discover"]


async def discover(
    settings: StoreSettings, known: Iterable[Address] = (), *, seconds: float = 4.0
) -> Topology:
    """Ask the ``known`` servers, then the configured ones, until one tells the topology.

    Each has its share of the ``seconds``, so that silent ones can't keep the last from being asked.

    Raises:
        ConnectFault: none did; the message has the reason of each.
    """
    seeds = dict.fromkeys((*known, *settings.nodes))
    share = seconds / len(seeds)
    reasons = []
    for seed in seeds:
        try:
            async with asyncio.timeout(share):
                return await _ask_seed(seed, settings)
        except ConnectFault as fault:
            reasons.append(f"{seed}: {fault}")
        except TimeoutError:
            reasons.append(f"{seed}: no answer in time")
    raise ConnectFault("; ".join(reasons))


async def _ask_seed(seed: Address, settings: StoreSettings) -> Topology:
    if settings.service is not None:
        return await _ask_sentinel(seed, settings, settings.service)
    connection = await connect(seed, settings)
    try:
        mode = _text((await ask(connection, "HELLO")).get(b"mode", b"standalone"))
        if mode == "cluster":
            return _cluster(await ask(connection, "CLUSTER", "SLOTS"), seed)
        if mode == "sentinel":
            return await _ask_sentinel(seed, settings, await _only_service(connection))
        return await _ask_standalone(connection, seed, settings)
    finally:
        await close(connection)


def _cluster(reply: Sequence[Any], seed: Address) -> Topology:
    try:
        topology = from_cluster_slots(reply, seed)
    except ValueError as fault:
        raise ConnectFault(str(fault)) from None
    if not topology.shards:
        raise ConnectFault("this cluster node knows of no slots; is the cluster created?")
    return topology


async def _ask_standalone(
    connection: AbstractConnection, seed: Address, settings: StoreSettings
) -> Topology:
    try:
        role = await ask(connection, "ROLE")
    except ConnectFault:
        # A user that may not ask for the role can still use the server it was given.
        return Topology(Kind.STANDALONE, (ShardMap(seed),))
    if _text(role[0]) != "slave":
        return Topology(Kind.STANDALONE, (ShardMap(seed, _replicas_of_role(role)),))
    primary = Address(_text(role[1]), int(role[2]))
    other = await connect(primary, settings)
    try:
        role = await ask(other, "ROLE")
    finally:
        await close(other)
    if _text(role[0]) != "master":
        raise ConnectFault(f"its primary {primary} is itself a replica")
    return Topology(Kind.STANDALONE, (ShardMap(primary, _replicas_of_role(role)),))


def _replicas_of_role(role: Sequence[Any]) -> tuple[Address, ...]:
    return tuple(Address(_text(host), int(port)) for host, port, _ in role[2])


async def _only_service(connection: AbstractConnection) -> str:
    services = [_fields(item)["name"] for item in await ask(connection, "SENTINEL", "MASTERS")]
    if len(services) != 1:
        names = ", ".join(services) or "none"
        raise ConnectFault(f"this Sentinel watches {names}; name one in redis.service")
    return services[0]


async def _ask_sentinel(seed: Address, settings: StoreSettings, service: str) -> Topology:
    connection = await connect(seed, settings, sentinel=True)
    try:
        found = await ask(connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        if found is None:
            raise ConnectFault(f"this Sentinel does not know the service {service!r}")
        primary = Address(_text(found[0]), int(found[1]))
        others = [_fields(item) for item in await ask(connection, "SENTINEL", "REPLICAS", service)]
    finally:
        await close(connection)
    await _must_be_primary(primary, settings)
    down = ("s_down", "o_down", "disconnected")
    replicas = tuple(
        Address(fields["ip"], int(fields["port"]))
        for fields in others
        if not any(flag in fields.get("flags", "") for flag in down)
    )
    return Topology(Kind.SENTINEL, (ShardMap(primary, replicas),))


async def _must_be_primary(address: Address, settings: StoreSettings) -> None:
    """Ask the server itself: a Sentinel may still name the primary that was.

    (Guidelines for Redis clients with support for Sentinel, step 3.)
    """
    connection = await connect(address, settings)
    try:
        role = await ask(connection, "ROLE")
    except ConnectFault:
        return
    finally:
        await close(connection)
    if _text(role[0]) != "master":
        raise ConnectFault(f"{address} is no primary yet; the failover goes on")


def _fields(item: Any) -> dict[str, str]:
    """Read the fields of a Sentinel's answer: a map in RESP3, a flat list in RESP2."""
    pairs = item.items() if isinstance(item, dict) else zip(item[::2], item[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
