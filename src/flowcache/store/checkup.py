"""Try a Redis as an operator would want it tried: say what works, what doesn't, what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

from flowcache.contract.request import Request
from flowcache.errors import Failure
from flowcache.operations.catalogue import CATALOGUE
from flowcache.ports import DEFAULT_SIZES, Clock, Command
from flowcache.store.connection import ConnectFault, ask, close, connect
from flowcache.store.discovery import discover
from flowcache.store.redis_store import RedisStore
from flowcache.store.rights import Right, missing_rights
from flowcache.store.settings import StoreSettings
from flowcache.store.slots import tag_of_slot
from flowcache.store.topology import Kind, ShardMap, Topology

__all__ = ["CheckupFault", "checkup"]

_PATIENCE = 5.0
_TTL = 10
"""Seconds after which a key of the check is gone, whatever happens to the check."""
_REMEMBERED_MS = 1000


class CheckupFault(Exception):
    """Redis is not fit to be used. The message says what is wrong and what to do."""


_ADVICE = (
    ("max number of clients", "raise maxclients in Redis, or run fewer workers"),
    ("refused the user", "check redis.username and redis.password, or those in the URL"),
    ("refused the handshake", "check redis.username, redis.password and redis.database"),
    ("wants a password", "set redis.password, or put it into the URL"),
    ("forbids flowcache's user CLUSTER", "give flowcache's Redis user +cluster|slots"),
    ("forbids flowcache", "give flowcache's Redis user the rights that docs/operations.md lists"),
    ("TLS failed", "check redis.tls_ca_file and that Redis speaks TLS on this port"),
    ("Invalid Database", "set redis.database to one that exists; a cluster has only 0"),
    ("no slots", "create the cluster: redis-cli --cluster create"),
    ("Sentinel", "check redis.service and redis.nodes"),
    ("no answer in time", "is there a firewall between? is the port right? does it want TLS?"),
    ("no connection", "is Redis running there? check redis.nodes"),
)
"""A part of a fault -> what to do. The first row that fits counts."""


def _with_advice(fault: object) -> CheckupFault:
    text = str(fault)
    advice = next((advice for part, advice in _ADVICE if part in text), None)
    return CheckupFault(f"{text}\n  What to do: {advice}." if advice else text)


async def checkup(
    settings: StoreSettings, clock: Clock, rights: Sequence[Right] = ()
) -> AsyncIterator[str]:
    """Find the topology, then write, read and remove a key on every shard; yield what works.

    ``rights`` are those that the configuration asks for besides what any service needs.

    Raises:
        CheckupFault: something does not.
    """
    try:
        topology = await discover(settings, seconds=_PATIENCE)
    except ConnectFault as fault:
        raise _with_advice(fault) from None
    count = len(topology.shards)
    yield f"Topology: {topology.kind.value}, {count} shard{'s' if count > 1 else ''}."
    if topology.kind is Kind.CLUSTER and settings.database != 0:
        raise CheckupFault("redis.database: a cluster has only database 0.")
    fewest = min(len(shard.replicas) for shard in topology.shards)
    if settings.confirm_replicas > fewest:
        raise CheckupFault(
            f"redis.confirm_replicas = {settings.confirm_replicas}: a shard has {fewest} replicas; "
            "no write to it would succeed."
        )
    if not fewest:
        yield "  Advice: a shard has no replica; while its server is away, so are its keys."
    if topology.kind is Kind.CLUSTER and await _wants_full_coverage(settings, topology):
        yield (
            "  Advice: with cluster-require-full-coverage yes, the whole cluster refuses calls "
            "while one shard is without a server; set it to no on every node."
        )
    store = RedisStore(settings, clock)
    try:
        await store.start()
        for shard in topology.shards:
            await _may(settings, topology.kind, shard, rights)
            milliseconds = await _use(store, shard, clock)
            yield f"  {shard.primary}: writes, reads and scripts work ({milliseconds:.1f} ms)."
    finally:
        await store.close()


async def _wants_full_coverage(settings: StoreSettings, topology: Topology) -> bool:
    """Tell whether one dead shard stops the others; no where flowcache's user may not ask."""
    for shard in topology.shards:
        try:
            connection = await connect(shard.primary, settings)
        except ConnectFault:
            continue  # whoever uses the shard next says why
        try:
            told = await ask(connection, "CONFIG", "GET", "cluster-require-full-coverage")
        except ConnectFault:
            continue
        finally:
            await close(connection)
        values = told.values() if isinstance(told, dict) else told[1::2]
        if b"yes" in values:
            return True
    return False


def _key(shard: ShardMap) -> bytes:
    """Return a key that lives there and is nobody's."""
    slot = shard.slots[0][0] if shard.slots else 0
    return b"flowcache:checkup:{%b}" % tag_of_slot(slot)


async def _may(
    settings: StoreSettings, kind: Kind, shard: ShardMap, rights: Sequence[Right]
) -> None:
    """See that flowcache's user may all that the service will do."""
    try:
        found = await missing_rights(shard.primary, settings, _key(shard), kind, rights)
    except ConnectFault:
        return  # whoever uses the shard next says why
    if found is not None:
        commands, rule = found
        raise CheckupFault(
            f"{shard.primary}: Redis forbids flowcache's user {', '.join(commands)}.\n"
            f"  What to do: {rule}"
        )


async def _use(store: RedisStore, shard: ShardMap, clock: Clock) -> float:
    """Use a shard as a flow would; return the milliseconds that it took."""
    began = clock()
    try:
        for command in _commands(_key(shard)):
            await store.execute(command, clock() + _PATIENCE)
    except Failure as failure:
        faults = [s.primary.fault for s in store.status().shards if s.name == str(shard.primary)]
        why = next((fault for fault in faults if fault), "")
        raise _with_advice(f"{shard.primary}: {failure.message} {why}".strip()) from None
    return (clock() - began) * 1000


def _commands(key: bytes) -> Iterator[Command]:
    """Return each operation of the catalogue as it is shown, below ``key``; they leave no key.

    The last command has an idempotency key.
    """
    keys = {}
    for operation in CATALOGUE.values():
        sample = operation.sample
        place = keys[sample.key] = b"%b:%b" % (key, sample.key.encode())
        fields = dict(sample.fields)
        request = Request(operation.name, place, fields, _TTL, "string", None, None, None, None)
        yield operation.command(request, DEFAULT_SIZES)
    delete = CATALOGUE["DEL"]
    for place, once in (*((place, None) for place in keys.values()), (key, "checkup")):
        request = Request(delete.name, place, {}, _TTL, "string", None, None, None, once)
        yield delete.command(request, DEFAULT_SIZES, _REMEMBERED_MS)
