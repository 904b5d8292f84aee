"""Try a Redis as an operator would want it tried: say what works, what doesn't, what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

from flowcache.contract.request import Request
from flowcache.errors import Failure
from flowcache.operations.catalogue import CATALOGUE
from flowcache.ports import DEFAULT_SIZES, Clock, Command
from flowcache.store.causes import Cause
from flowcache.store.connection import ConnectFault, ask, close, connect
from flowcache.store.discovery import discover
from flowcache.store.redis_store import RedisStore
from flowcache.store.rights import Right, missing_rights
from flowcache.store.settings import StoreSettings
from flowcache.store.slots import tag_of_slot
from flowcache.store.topology import Kind, ShardMap, Topology

__all__ = ["REMEDIES", "CheckupFault", "checkup"]

_PATIENCE = 5.0
_TTL = 10
"""Seconds after which a key of the check is gone, whatever happens to the check."""
_REMEMBERED_MS = 1000


class CheckupFault(Exception):
    """Redis is not fit to be used. The message says what is wrong and what to do."""


REMEDIES: Final = {
    Cause.UNREACHABLE: "is Redis running there? Check redis.nodes",
    Cause.SILENT: "is there a firewall between? Is the port right? Does it want TLS (redis.tls)?",
    Cause.SILENT_TO_TLS: "does Redis speak TLS on this port? If not, unset redis.tls, or use "
    "redis:// instead of rediss://. Is there a firewall between?",
    Cause.HUNG_UP: "does Redis want TLS on this port? Set redis.tls, or use rediss://",
    Cause.HUNG_UP_UNDER_TLS: "does Redis want a certificate of flowcache? Set "
    "redis.tls_cert_file and redis.tls_key_file",
    Cause.NOT_REDIS: "is it a Redis? Does it want TLS (redis.tls)?",
    Cause.NO_TLS: "that server does not speak TLS on this port: use its TLS port, or unset "
    "redis.tls and use redis:// instead of rediss://",
    Cause.TLS_FILE: "check redis.tls_ca_file, redis.tls_cert_file and redis.tls_key_file",
    Cause.UNTRUSTED: "set redis.tls_ca_file to the certificate of the authority that signed the "
    "server's",
    Cause.OTHER_NAME: "write in redis.nodes a name that the certificate has, or set "
    "redis.tls_server_name to one; nodes of a cluster announce theirs by cluster-announce-hostname",
    Cause.EXPIRED: "renew the server's certificate; check the clocks of both machines",
    Cause.OWN_CERTIFICATE: "set redis.tls_cert_file and redis.tls_key_file to a certificate that "
    "Redis accepts: an authority in its tls-ca-cert-file has to sign it",
    Cause.TLS: "check the TLS settings of Redis and those of flowcache, redis.tls_*",
    Cause.PASSWORD_WANTED: "set redis.password, or put it into the URL. If it is a Sentinel, set "
    "redis.service and redis.sentinel_password",
    Cause.PASSWORD_REFUSED: "check redis.username and redis.password, or those in the URL",
    Cause.PASSWORD_UNREAD: "check the file of the password and its rights",
    Cause.SENTINEL_PASSWORD: "check redis.sentinel_username and redis.sentinel_password; "
    "redis.password is for the servers behind the Sentinels",
    Cause.FORBIDDEN: "give flowcache's Redis user the rights that docs/operations.md lists",
    Cause.SLOTS_FORBIDDEN: "give flowcache's Redis user +cluster|slots",
    Cause.DATABASE: "set redis.database to one that exists; a cluster has only 0",
    Cause.TOO_MANY_CLIENTS: "raise maxclients in Redis, or run fewer workers",
    Cause.LOADING: "wait until it has loaded them",
    Cause.NO_SENTINEL: "unset redis.service (and use redis:// instead of redis+sentinel://), or "
    "write the Sentinels into redis.nodes; their usual port is 26379",
    Cause.SERVICE: "check redis.service",
    Cause.PRIMARY_UNREACHABLE: "is that server running, and can it be reached from here at this "
    "address? Otherwise set replica-announce-ip there to one that can",
    Cause.NO_SLOTS: "create the cluster: redis-cli --cluster create",
}
"""What an operator can do about a cause."""


def _with_remedy(fault: ConnectFault, prefix: str = "") -> CheckupFault:
    text, remedy = f"{prefix}{fault}", REMEDIES.get(fault.cause)
    return CheckupFault(f"{text}\n  What to do: {remedy}." if remedy else text)


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
        raise _with_remedy(fault) from None
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
            await _may(settings, topology, shard, rights)
            milliseconds = await _use(store, shard, clock)
            yield f"  {shard.primary}: writes, reads and scripts work ({milliseconds:.1f} ms)."
    finally:
        await store.close()


async def _wants_full_coverage(settings: StoreSettings, topology: Topology) -> bool:
    """Tell whether one dead shard stops the others; no where flowcache's user may not ask."""
    for shard in topology.shards:
        try:
            name = topology.names.get(shard.primary)
            connection = await connect(shard.primary, settings, server_name=name)
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
    settings: StoreSettings, topology: Topology, shard: ShardMap, rights: Sequence[Right]
) -> None:
    """See that flowcache's user may all that the service will do."""
    server, key = shard.primary, _key(shard)
    name = topology.names.get(server)
    try:
        found = await missing_rights(server, settings, key, topology.kind, rights, name)
    except ConnectFault as fault:
        raise _with_remedy(fault, f"{server}: ") from None
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
        raise CheckupFault(f"{shard.primary}: {failure.message} {why}".strip()) from None
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
