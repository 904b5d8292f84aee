"""Certificates that are for names, and servers that are known by IP address."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from flowcache.secret import Secret
from flowcache.store.checkup import CheckupFault, checkup
from flowcache.store.settings import Address, StoreSettings, Tls
from tests.servers import Access, Cluster, cluster, eventually, redis_binary
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.ports import LOOPBACK
from tests.store.harness import in_time, put, replied, soon, store_at

PASSWORD = Secret("of-the-test")
NAME = "localhost"
"""The one name in the certificate."""


@dataclass(frozen=True, slots=True)
class Named:
    """A cluster whose nodes announce IP addresses; ``port`` is of one of them."""

    servers: Cluster
    certificates: Certificates

    @property
    def port(self) -> int:
        return self.servers.nodes[0].port

    def tls(self, **changes: Any) -> Tls:
        return Tls(ca_file=str(self.certificates.authority.certificate), **changes)


@pytest.fixture(scope="module")
def certificates() -> Iterator[Certificates]:
    with tempfile.TemporaryDirectory(prefix="flowcache-") as directory:
        yield make_certificates(Path(directory), f"DNS:{NAME}")


@pytest.fixture(scope="module")
def named(certificates: Certificates) -> Iterator[Named]:
    config = (
        f'tls-ca-cert-file "{certificates.authority.certificate}"',
        f'tls-cert-file "{certificates.server.certificate}"',
        f'tls-key-file "{certificates.server.key}"',
        f'tls-client-cert-file "{certificates.client.certificate}"',
        f'tls-client-key-file "{certificates.client.key}"',
        "tls-auth-clients no",
        f"requirepass {PASSWORD.reveal()}",
    )
    access = Access(password=PASSWORD.reveal(), tls=certificates.client_tls(), host=NAME)
    with cluster(replicas=0, binary=redis_binary(), config=config, access=access) as servers:
        yield Named(servers, certificates)


@pytest.fixture
def announced(named: Named) -> Iterator[Named]:
    """Each node announces a host name beside its address."""
    announce(named, NAME)
    yield named
    announce(named, "")


def announce(named: Named, name: str) -> None:
    nodes = named.servers.nodes
    for node in nodes:
        node.cli("CONFIG", "SET", "cluster-announce-hostname", name)

    def all_know() -> bool:
        addresses = [
            line.split()[1] for node in nodes for line in node.cli("CLUSTER", "NODES").splitlines()
        ]
        return {address.partition(",")[2] for address in addresses} == {name}

    eventually(all_know, what="all nodes to know of all names")


async def uses_every_shard(nodes: tuple[str, int], tls: Tls) -> None:
    async with store_at(nodes, tls=tls, password=PASSWORD) as store:
        await soon(lambda: store.status().status == "ready")
        await store.ping(in_time())
        for number in range(20):
            assert await replied(store, put(b"key:%d" % number, b"1"), in_time()) == b"OK"


async def told(nodes: tuple[str, int], tls: Tls) -> str:
    settings = StoreSettings(nodes=(Address(*nodes),), tls=tls, password=PASSWORD)
    with pytest.raises(CheckupFault) as caught:
        async for _ in checkup(settings, monotonic):
            pass
    return str(caught.value)


async def test_a_name_that_is_announced_is_verified(announced: Named) -> None:
    """The nodes are connected to by address, and their certificates are for the names."""
    nodes = NAME, announced.port
    await uses_every_shard(nodes, announced.tls())
    settings = StoreSettings(nodes=(Address(*nodes),), tls=announced.tls(), password=PASSWORD)
    lines = [line async for line in checkup(settings, monotonic)]
    assert sum("writes, reads and scripts work" in line for line in lines) == 3


async def test_another_name_that_is_announced_is_refused(named: Named) -> None:
    """A certificate for another name is not accepted, and the advice is about names."""
    announce(named, "other.test")
    try:
        fault = await told((NAME, named.port), named.tls())
    finally:
        announce(named, "")
    assert "certificate is not valid for 'other.test'" in fault
    assert "redis.tls_server_name" in fault
    assert "tls_ca_file" not in fault


async def test_a_name_that_is_configured_is_verified(named: Named) -> None:
    """It counts for every server, the configured ones included."""
    await uses_every_shard((LOOPBACK, named.port), named.tls(server_name=NAME))
    fault = await told((LOOPBACK, named.port), named.tls(server_name="other.test"))
    assert "certificate is not valid for 'other.test'" in fault


async def test_an_address_that_the_certificate_lacks(named: Named) -> None:
    """Where no name is known the address counts, and the advice is not about the authority."""
    fault = await told((LOOPBACK, named.port), named.tls())
    assert f"certificate is not valid for '{LOOPBACK}'" in fault
    assert "cluster-announce-hostname" in fault
    assert "tls_ca_file" not in fault


async def test_only_the_configured_authority_counts(named: Named) -> None:
    """A name does not make up for a certificate of another authority."""
    other = str(named.certificates.other_authority.certificate)
    fault = await told((NAME, named.port), Tls(ca_file=other, server_name=NAME))
    assert "set redis.tls_ca_file" in fault
    assert "tls_server_name" not in fault
