"""flowcache in front of each kind of Redis, and a way into that Redis behind flowcache's back."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.envelopes import ENCODED, KEYS, Sealer
from tests.servers import (
    SERVERS,
    Cluster,
    RedisProcess,
    SentinelGroup,
    TlsServer,
    redis_62_binary,
    standalone,
)
from tests.service import Answer, Service, service

__all__ = ["BACKENDS", "PATIENT", "Flow", "Inside", "nodes"]

PATIENT = {"FLOWCACHE_DATA_DEADLINE_MS": "10000", "FLOWCACHE_REDIS_HEDGE_BUDGET": "0"}
"""For tests of what is answered, not when: a busy machine must not make a deadline pass, nor a
primary seem slow: a replica would be asked, which may lack what was written a moment ago."""


class Inside:
    """Redis itself: plants what other programs might, reads what flowcache never tells."""

    def __init__(self, client: redis.Redis | redis.RedisCluster) -> None:
        self._client = client

    def __call__(self, *words: str | bytes | int) -> Any:
        """Run one command; strings of the reply are bytes."""
        return self.raw(*words)

    def raw(self, *words: str | bytes | int) -> Any:
        """Run one command and see what Redis itself holds, sealed or not."""
        return self._client.execute_command(*words)  # type: ignore[no-untyped-call]

    def keys(self, pattern: str) -> set[bytes]:
        """Return all keys of that pattern, whichever server has them."""
        return set(self._client.scan_iter(match=pattern, count=1000))


class SealedInside(Inside):
    """Redis behind a flowcache that encrypts: what is planted and read is sealed and opened."""

    _sealer = Sealer()

    def __call__(self, *words: str | bytes | int) -> Any:
        """Run one command as if nothing was encrypted."""
        command, (key, *rest) = words[0], map(_as_bytes, words[1:])
        if key.startswith(b"flowcache:"):
            return self.raw(*words)
        seal, unseal = self._sealer.seal, self._sealer.open
        if command == "SET":
            rest[0] = seal(rest[0], key)
        elif command == "HSET":
            rest[1::2] = [
                seal(value, key, field) for field, value in zip(rest[::2], rest[1::2], strict=True)
            ]
        reply = self.raw(command, key, *rest)
        if command == "GET" and reply is not None:
            return unseal(reply, key)
        if command == "HGETALL":
            return {field: unseal(stored, key, field) for field, stored in reply.items()}
        return reply


def _as_bytes(word: str | bytes | int) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()


@dataclass(frozen=True, slots=True)
class Flow:
    """A running flowcache and the Redis behind it."""

    backend: str
    service: Service
    redis: Inside
    secrets: tuple[str, ...] = ()
    """What only flowcache and Redis may know, besides the tokens."""
    is_sealed: bool = False
    """Whether flowcache encrypts what it stores."""

    def call(self, **fields: Any) -> Answer:
        """Post a data action."""
        return self.service.call(**fields)

    def post(self, body: bytes) -> Answer:
        """Post these bytes as a data action."""
        return self.service.post(body)


def nodes(*addresses: tuple[str, int]) -> str:
    """Write addresses as REDIS_NODES wants them."""
    return ",".join(f"{host}:{port}" for host, port in addresses)


@contextmanager
def _flow(
    backend: str,
    client: redis.Redis | redis.RedisCluster,
    environment: Mapping[str, str],
    secrets: tuple[str, ...] = (),
) -> Iterator[Flow]:
    with closing(client), service(PATIENT | dict(environment)) as running:
        yield Flow(backend, running, Inside(client), secrets)


@contextmanager
def _embedded(_: Callable[[str], Any]) -> Iterator[Flow]:
    # A directory of ours, so that the socket of the server in it can be found.
    with (
        tempfile.TemporaryDirectory(prefix="flowcache-") as directory,
        service(PATIENT | {"TMPDIR": directory}, "--embedded") as running,
    ):
        (path,) = Path(directory).glob("flowcache-*/*.sock")
        with closing(redis.Redis(unix_socket_path=str(path), protocol=2)) as client:
            yield Flow("embedded", running, Inside(client))


@contextmanager
def _standalone(fixture: Callable[[str], Any]) -> Iterator[Flow]:
    server: RedisProcess = fixture("standalone_server")
    environment = {"REDIS_NODES": nodes(server.address)}
    with _flow("standalone", server.client(), environment) as flow:
        yield flow


@contextmanager
def _redis_62(_: Callable[[str], Any]) -> Iterator[Flow]:
    with standalone(redis_62_binary()) as server:
        environment = {"REDIS_NODES": nodes(server.address)}
        with _flow("standalone", server.client(), environment) as flow:
            yield flow


@contextmanager
def _cluster(fixture: Callable[[str], Any]) -> Iterator[Flow]:
    servers: Cluster = fixture("cluster_servers")
    host, port = servers.addresses[0]
    client = redis.RedisCluster(host=host, port=port, protocol=2)
    with _flow("cluster", client, {"REDIS_NODES": nodes(*servers.addresses[:3])}) as flow:
        yield flow


@contextmanager
def _sealed(
    backend: str, client: redis.Redis | redis.RedisCluster, environment: Mapping[str, str]
) -> Iterator[Flow]:
    environment = {"FLOWCACHE_ENCRYPTION_KEYS": KEYS} | dict(environment)
    with closing(client), service(PATIENT | environment) as running:
        yield Flow(backend, running, SealedInside(client), ENCODED, is_sealed=True)


@contextmanager
def _sealed_standalone(fixture: Callable[[str], Any]) -> Iterator[Flow]:
    server: RedisProcess = fixture("standalone_server")
    environment = {"REDIS_NODES": nodes(server.address)}
    with _sealed("standalone", server.client(), environment) as flow:
        yield flow


@contextmanager
def _sealed_cluster(fixture: Callable[[str], Any]) -> Iterator[Flow]:
    servers: Cluster = fixture("cluster_servers")
    host, port = servers.addresses[0]
    client = redis.RedisCluster(host=host, port=port, protocol=2)
    environment = {"REDIS_NODES": nodes(*servers.addresses[:3])}
    with _sealed("cluster", client, environment) as flow:
        yield flow


@contextmanager
def _tls_acl(fixture: Callable[[str], Any]) -> Iterator[Flow]:
    server: TlsServer = fixture("tls_server")
    environment = {
        "REDIS_NODES": server.url,
        "FLOWCACHE_REDIS_TLS_CA_FILE": str(server.certificates.authority.certificate),
    }
    # The operator's client: flowcache's user may not do all that a test wants to.
    client = server.process.client()
    with _flow("tls-acl", client, environment, (server.password,)) as flow:
        yield flow


@contextmanager
def _sentinel(fixture: Callable[[str], Any]) -> Iterator[Flow]:
    group: SentinelGroup = fixture("sentinel_servers")
    environment = {
        "REDIS_NODES": nodes(*group.addresses),
        "FLOWCACHE_REDIS_SERVICE": group.service,
    }
    with _flow("sentinel", group.primary().client(), environment) as flow:
        yield flow


BACKENDS = {
    "embedded": _embedded,
    "standalone": _standalone,
    "cluster": _cluster,
    "tls-acl": _tls_acl,
    "sentinel": _sentinel,
    "sealed-standalone": _sealed_standalone,
    "sealed-cluster": _sealed_cluster,
}
if "redis-6.2" in SERVERS:
    BACKENDS["redis-6.2"] = _redis_62
"""Kind -> its context manager, which takes what returns a fixture by its name."""
