"""Ask the servers who holds what. The only module that knows how each topology is told.

A seed is asked by HELLO what it is:

- ``cluster``: CLUSTER SLOTS tells everything;
- ``sentinel``: SENTINEL tells the primary and the replicas of a service;
- ``standalone``: ROLE tells whether it is the primary; a replica names its primary.

Discovery connects anew each time: it must work when every link is down, and it asks rarely.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from redis.asyncio.connection import AbstractConnection

from flowcache.printable import printable
from flowcache.store.connection import ConnectFault, NotPermitted, ask, close, connect
from flowcache.store.settings import Address, StoreSettings
from flowcache.store.topology import (
    Kind,
    Role,
    ShardMap,
    SlotsReader,
    Topology,
    from_hello,
    from_master_address,
    from_masters,
    from_replicas,
    from_role,
)

__all__ = ["discover"]

_MOST_NAMES = 5
"""Services of a Sentinel that a message names."""

_T = TypeVar("_T")


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
        kind, is_replica = _told(from_hello, await ask(connection, "HELLO"))
        if kind is Kind.CLUSTER:
            topology = await _read_slots(await ask(connection, "CLUSTER", "SLOTS"), seed)
            if not topology.shards:
                raise ConnectFault("this cluster node knows of no slots; is the cluster created?")
            return topology
        if kind is Kind.SENTINEL:
            return await _ask_sentinel(seed, settings, await _only_service(connection))
        return await _ask_standalone(connection, seed, settings, is_replica=is_replica)
    finally:
        await close(connection)


def _told(read: Callable[[Any], _T], reply: Any) -> _T:
    """Return what ``read`` makes of a reply.

    Raises:
        ConnectFault: it can't be read.
    """
    try:
        return read(reply)
    except ValueError as fault:
        raise ConnectFault(str(fault)) from None


async def _read_slots(reply: Any, seed: Address) -> Topology:
    """Read a map in pieces, so that calls get their turn in between."""
    reader = SlotsReader(seed)
    for piece in _told(reader.pieces, reply):
        _told(reader.read, piece)
        await asyncio.sleep(0)
    return _told(lambda _: reader.topology(), None)


async def _role(connection: AbstractConnection) -> Role:
    return _told(from_role, await ask(connection, "ROLE"))


async def _ask_standalone(
    connection: AbstractConnection, seed: Address, settings: StoreSettings, *, is_replica: bool
) -> Topology:
    try:
        role = await _role(connection)
    except NotPermitted:
        # A user that may not ask for the role can still use the server it was given.
        if is_replica:
            raise ConnectFault(
                "it is a replica, and flowcache's user may not ask of whom; give it +role"
            ) from None
        return Topology(Kind.STANDALONE, (ShardMap(seed),))
    if role.primary is None:
        return Topology(Kind.STANDALONE, (ShardMap(seed, role.replicas),))
    other = await connect(role.primary, settings)
    try:
        of_primary = await _role(other)
    finally:
        await close(other)
    if of_primary.primary is not None:
        raise ConnectFault(f"its primary {role.primary} is itself a replica")
    return Topology(Kind.STANDALONE, (ShardMap(role.primary, of_primary.replicas),))


async def _only_service(connection: AbstractConnection) -> str:
    services = _told(from_masters, await ask(connection, "SENTINEL", "MASTERS"))
    if len(services) != 1:
        names = ", ".join(printable(name[:80]) for name in services[:_MOST_NAMES]) or "none"
        raise ConnectFault(f"this Sentinel watches {names}; name one in redis.service")
    return services[0]


async def _ask_sentinel(seed: Address, settings: StoreSettings, service: str) -> Topology:
    connection = await connect(seed, settings, sentinel=True)
    try:
        found = await ask(connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        primary = _told(from_master_address, found)
        if primary is None:
            raise ConnectFault(f"this Sentinel does not know the service {service!r}")
        replicas = _told(from_replicas, await ask(connection, "SENTINEL", "REPLICAS", service))
    finally:
        await close(connection)
    await _must_be_primary(primary, settings)
    return Topology(Kind.SENTINEL, (ShardMap(primary, replicas),))


async def _must_be_primary(address: Address, settings: StoreSettings) -> None:
    """Ask the server itself: a Sentinel may still name the primary that was.

    (Guidelines for Redis clients with support for Sentinel, step 3.)
    """
    connection = await connect(address, settings)
    try:
        role = await _role(connection)
    except NotPermitted:
        return
    finally:
        await close(connection)
    if role.primary is not None:
        raise ConnectFault(f"{address} is no primary yet; the failover goes on")
