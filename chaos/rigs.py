"""The servers of a scenario: what is started, where flowcache finds it, where its keys are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from chaos.history import Found
from tests.servers import (
    Cluster,
    Proxy,
    RedisProcess,
    Replicated,
    SentinelGroup,
    cluster,
    replicated,
    sentinel_group,
    standalone,
)

__all__ = ["Rig", "alone", "behind_proxy", "clustered", "paired", "watched"]

S = TypeVar("S")

# Operators are told so: with Redis's default one shard without a primary stops all of them.
PARTIAL_COVERAGE = "cluster-require-full-coverage no"


@dataclass(frozen=True, slots=True)
class Rig(Generic[S]):
    """Running servers, and what the harness has to know of any kind of them."""

    servers: S
    location: str
    """What flowcache is given as `redis.nodes`."""
    primaries: Callable[[], Sequence[RedisProcess]]
    """Who holds the keys, at the moment."""
    heal: Callable[[], None]
    """Put everything right and wait until it is."""
    name: Callable[[str], str | None] = str
    """The load's name of a key in Redis; None for one that is not the load's."""

    def found(self) -> Mapping[str, Found]:
        """Read every key there is from the servers themselves."""
        found: dict[str, Found] = {}
        for server in self.primaries():
            found.update(_keys_of(server, self.name))
        return found


@contextmanager
def clustered(*, proxied: bool = False, persistent: bool = False) -> Iterator[Rig[Cluster]]:
    """Run three primaries with a replica each."""
    with cluster(proxied=proxied, persistent=persistent, config=(PARTIAL_COVERAGE,)) as servers:
        yield Rig(servers, _location(servers.addresses), servers.primaries, servers.heal)


@contextmanager
def watched() -> Iterator[Rig[SentinelGroup]]:
    """Run a primary, two replicas and three Sentinels."""
    with sentinel_group() as servers:
        location = _location(servers.addresses)
        yield Rig(servers, location, lambda: [servers.primary()], servers.heal)


@contextmanager
def alone(*config: str, persistent: bool = False) -> Iterator[Rig[RedisProcess]]:
    """Run one server."""
    with standalone(persistent=persistent, config=config) as server:
        yield Rig(server, _location([server.address]), lambda: [server], server.wait_ready)


@contextmanager
def behind_proxy() -> Iterator[Rig[Proxy]]:
    """Run one server that is reached through a proxy only."""
    with standalone() as server, Proxy(server.address) as proxy:
        yield Rig(proxy, _location([proxy.address]), lambda: [server], proxy.restore)


@contextmanager
def paired() -> Iterator[Rig[Replicated]]:
    """Run a primary and its replica, without anybody to fail them over."""
    with ExitStack() as stack:
        pair = stack.enter_context(replicated())
        both = (pair.primary, pair.replica)

        def primaries() -> Sequence[RedisProcess]:
            return [server for server in both if server.cli("ROLE")[0] == "master"]

        location = _location([server.address for server in both])
        yield Rig(pair, location, primaries, lambda: None)


def _location(addresses: Sequence[tuple[str, int]]) -> str:
    return ",".join(f"{host}:{port}" for host, port in addresses)


def _keys_of(server: RedisProcess, named: Callable[[str], str | None]) -> Mapping[str, Found]:
    found: dict[str, Found] = {}
    with closing(server.client(decode_responses=True, socket_timeout=30.0)) as client:
        names = {key: name for key in client.scan_iter(count=1000) if (name := named(key))}
        with client.pipeline(transaction=False) as pipe:
            for key, name in names.items():
                pipe.pttl(key)
                if name.startswith("hash:"):
                    pipe.hgetall(key)
                elif name.startswith("flowcache:once:"):
                    pipe.strlen(key)  # a record of a write is no text
                else:
                    pipe.get(key)
            replies: list[Any] = pipe.execute()
    for name, ttl_ms, value in zip(names.values(), replies[::2], replies[1::2], strict=True):
        found[name] = Found(value, ttl_ms)
    return found
