"""Redis as the neighbours need it: full of large keys, behind a proxy, with fewer rights, lying."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from chaos.neighbours.liar import Liar
from chaos.neighbours.requests import NESTED, WITHIN
from chaos.rigs import Rig
from flowcache.store.settings import Address
from tests.servers import Proxy, RedisProcess, cluster, standalone
from tests.store.resp import serving

__all__ = [
    "ATTACKERS",
    "everything_large",
    "large_hashes",
    "large_strings",
    "lying",
    "lying_cluster",
    "nested_value",
    "proxied",
    "server",
    "value_of_500_kb",
    "values_within",
]

NAMESPACES = "flowcache:ns:"
ATTACKERS = f"{NAMESPACES}attacker:"
"""How the attacker's keys begin in Redis."""
LIFE = 3600
MIB = 1 << 20
MANY_FIELDS = """
for n = 1, 1000000 do redis.call('HSET', KEYS[1], 'field:' .. n, n) end
return redis.call('EXPIRE', KEYS[1], 3600)
"""

Fill = Callable[[RedisProcess], None]


def name_of(key: str) -> str | None:
    """Return the name by which a neighbour called a key; None for the attacker's."""
    if key.startswith(ATTACKERS):
        return None
    if key.startswith(NAMESPACES):
        return key.removeprefix(NAMESPACES).partition(":")[2]
    return key


@contextmanager
def server(*config: str, fill: Fill = lambda server: None) -> Iterator[Rig[RedisProcess]]:
    """Run one server, with something in it."""
    with standalone(config=config) as running:
        fill(running)
        location = f"127.0.0.1:{running.port}"
        yield Rig(running, location, lambda: [running], running.wait_ready, name_of)


@contextmanager
def proxied() -> Iterator[Rig[Proxy]]:
    """Run one server that is reached through a proxy only."""
    with standalone() as running, Proxy(running.address) as proxy:
        location = f"127.0.0.1:{proxy.port}"
        yield Rig(proxy, location, lambda: [running], proxy.restore, name_of)


@contextmanager
def lying() -> Iterator[Rig[Liar]]:
    """Run one server that is reached through a liar only."""
    with standalone() as running, Liar(running.address) as liar:
        yield _behind(liar, running)


@contextmanager
def lying_cluster() -> Iterator[Rig[Liar]]:
    """Run a cluster of one node, which is reached through a liar only."""
    with cluster(primaries=1, replicas=0) as servers, Liar(servers.nodes[0].address) as liar:
        truth = serving(Address(*liar.address))

        def lie(command: Sequence[bytes]) -> bytes | None:
            """Name the liar where the node would name itself."""
            return truth if command[0].upper() == b"CLUSTER" else None

        liar.lie = lie
        yield _behind(liar, servers.nodes[0])


def _behind(liar: Liar, running: RedisProcess) -> Rig[Liar]:
    return Rig(liar, f"127.0.0.1:{liar.address[1]}", lambda: [running], lambda: None, name_of)


# -- what another program put there ----------------------------------------------------------------


def large_strings(running: RedisProcess) -> None:
    for mib in (20, 100):
        running.cli("SETRANGE", f"{ATTACKERS}{mib}", mib * MIB - 1, "x")
        running.cli("EXPIRE", f"{ATTACKERS}{mib}", LIFE)


def large_hashes(running: RedisProcess) -> None:
    text = b"x" * (256 * 1024)
    for mib in (20, 100):
        for first in range(0, mib * 4, 40):
            fields: Sequence[str | bytes] = [
                each for n in range(first, first + 40) for each in (f"field:{n}", text)
            ]
            running.cli("HSET", f"{ATTACKERS}hash:{mib}", *fields)
        running.cli("EXPIRE", f"{ATTACKERS}hash:{mib}", LIFE)
    with closing(running.client(socket_timeout=60.0)) as client:
        client.eval(MANY_FIELDS, 1, f"{ATTACKERS}hash:million")


def nested_value(running: RedisProcess) -> None:
    running.cli("SET", f"{ATTACKERS}nested", NESTED, "EX", LIFE)


def values_within(running: RedisProcess) -> None:
    for number, value in enumerate(WITHIN):
        running.cli("SET", f"{ATTACKERS}within:{number}", value, "EX", LIFE)


def value_of_500_kb(running: RedisProcess) -> None:
    running.cli("SET", f"{ATTACKERS}500 KB", "x" * 500_000, "EX", LIFE)


def everything_large(running: RedisProcess) -> None:
    large_strings(running)
    large_hashes(running)
    value_of_500_kb(running)
