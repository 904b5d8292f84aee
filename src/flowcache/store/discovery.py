"""Ask the servers who holds what. The only module that knows how each topology is told.

A seed is asked by HELLO what it is:

- ``cluster``: CLUSTER SLOTS tells everything;
- ``sentinel``: SENTINEL tells the primary and the replicas of a service;
- ``standalone``: ROLE tells whether it is the primary; a replica names its primary.

A fault names the server that it is about: a Sentinel is not to blame for the primary that it names.

Discovery connects anew each time: it must work when every link is down, and it asks rarely.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from msgspec import structs
from redis.asyncio.connection import AbstractConnection

from flowcache.printable import printable
from flowcache.store.causes import Cause
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
    settings: StoreSettings,
    known: Iterable[Address] = (),
    names: Mapping[Address, str] = MappingProxyType({}),
    *,
    seconds: float = 4.0,
) -> Topology:
    """Ask the ``known`` servers, then the configured ones, until one tells the topology.

    Each has its share of the ``seconds``, so that silent ones can't keep the last from being asked.
    ``names`` are those that certificates are for (`Topology.names`).

    Raises:
        ConnectFault: none did. The message has the reason of each; the cause is the most telling.
    """
    seeds = dict.fromkeys((*known, *settings.nodes))
    share = seconds / len(seeds)
    # Half of it at most for a connection, so that a second one still fails under its own name. The
    # database is left to who uses it: a Sentinel has none.
    timeout = min(settings.connect_timeout, share / 2)
    asking = structs.replace(settings, database=0, connect_timeout=timeout)
    reasons: dict[str, Cause] = {}
    for seed in seeds:
        try:
            async with asyncio.timeout(share):
                return await _ask_seed(seed, asking, names.get(seed))
        except ConnectFault as fault:
            reasons[f"{fault.at or seed}: {fault}"] = fault.cause
        except TimeoutError:
            reasons[f"{seed}: no answer in time"] = Cause.SILENT
    raise ConnectFault("; ".join(reasons), min(reasons.values(), key=_UNTELLING.__contains__))


_UNTELLING = frozenset({Cause.UNREACHABLE, Cause.SILENT, Cause.SILENT_TO_TLS})
"""Causes that tell less than any other: that server may just be down."""


async def _ask_seed(seed: Address, settings: StoreSettings, name: str | None) -> Topology:
    if settings.service is not None:
        return await _ask_sentinel(seed, settings, settings.service)
    connection = await connect(seed, settings, server_name=name)
    try:
        kind, is_replica = _told(from_hello, await ask(connection, "HELLO"))
        if kind is Kind.CLUSTER:
            try:
                slots = await ask(connection, "CLUSTER", "SLOTS")
            except NotPermitted as fault:
                raise ConnectFault(str(fault), Cause.SLOTS_FORBIDDEN) from None
            topology = await _read_slots(slots, seed)
            if not topology.shards:
                raise ConnectFault(
                    "this cluster node knows of no slots; is the cluster created?", Cause.NO_SLOTS
                )
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
                "it is a replica, and flowcache's user may not ask of whom; give it +role",
                Cause.FORBIDDEN,
            ) from None
        return Topology(Kind.STANDALONE, (ShardMap(seed),))
    if role.primary is None:
        return Topology(Kind.STANDALONE, (ShardMap(seed, role.replicas),))
    other = await _connect_to_primary(role.primary, settings, "its replica")
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
        raise ConnectFault(
            f"this Sentinel watches {names}; name one in redis.service", Cause.SERVICE
        )
    return services[0]


async def _ask_sentinel(seed: Address, settings: StoreSettings, service: str) -> Topology:
    connection = await connect(seed, settings, sentinel=True)
    try:
        kind, _ = _told(from_hello, await ask(connection, "HELLO"))
        if kind is not Kind.SENTINEL:
            raise ConnectFault("this is a Redis, and no Sentinel", Cause.NO_SENTINEL)
        found = await ask(connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        primary = _told(from_master_address, found)
        if primary is None:
            raise ConnectFault(
                f"this Sentinel does not know the service {service!r}", Cause.SERVICE
            )
        replicas = _told(from_replicas, await ask(connection, "SENTINEL", "REPLICAS", service))
    finally:
        await close(connection)
    await _must_be_primary(primary, settings)
    return Topology(Kind.SENTINEL, (ShardMap(primary, replicas),))


async def _must_be_primary(address: Address, settings: StoreSettings) -> None:
    """Ask the server itself: a Sentinel may still name the primary that was.

    (Guidelines for Redis clients with support for Sentinel, step 3.)
    """
    connection = await _connect_to_primary(address, settings, "Sentinel")
    try:
        role = await _role(connection)
    except NotPermitted:
        return
    finally:
        await close(connection)
    if role.primary is not None:
        raise ConnectFault("it is no primary yet; the failover goes on", at=address)


async def _connect_to_primary(
    address: Address, settings: StoreSettings, named_by: str
) -> AbstractConnection:
    """Connect to the primary that another server names.

    Raises:
        ConnectFault: it could not be made; the fault is about ``address``.
    """
    try:
        return await connect(address, settings)
    except ConnectFault as fault:
        cause = Cause.PRIMARY_UNREACHABLE if fault.cause in _UNTELLING else fault.cause
        raise ConnectFault(f"{fault} ({named_by} names it as primary)", cause, address) from fault
