"""Servers that tests share. Those that many tests use run once; a test that breaks one mends it."""

from collections.abc import Iterator

import pytest

from tests.servers import (
    Cluster,
    RedisProcess,
    SentinelGroup,
    TlsServer,
    cluster,
    sentinel_group,
    standalone,
    tls_acl,
)
from tests.service import Service
from tests.service import service as running_service


@pytest.fixture(scope="session")
def standalone_server() -> Iterator[RedisProcess]:
    """Share one Valkey server; keys of other tests may be in it."""
    with standalone() as server:
        yield server


@pytest.fixture
def fresh_standalone() -> Iterator[RedisProcess]:
    """Give a test an empty Valkey server of its own, to kill or pause as it likes."""
    with standalone() as server:
        yield server


@pytest.fixture(scope="session")
def cluster_servers() -> Iterator[Cluster]:
    """Share a Valkey cluster, three primaries with a replica each. Don't break it."""
    with cluster() as servers:
        yield servers


@pytest.fixture
def breakable_cluster(cluster_servers: Cluster) -> Iterator[Cluster]:
    """Lend the shared cluster, empty, to a test that breaks it; mend and empty it afterwards."""
    cluster_servers.flush()
    yield cluster_servers
    cluster_servers.heal()
    cluster_servers.flush()


@pytest.fixture(scope="session")
def sentinel_servers() -> Iterator[SentinelGroup]:
    """Share a primary, two replicas and three Sentinels. Don't break them."""
    with sentinel_group() as servers:
        yield servers


@pytest.fixture
def breakable_sentinels(sentinel_servers: SentinelGroup) -> Iterator[SentinelGroup]:
    """Lend the shared Sentinels, empty, to a test that breaks them; mend and empty them after."""
    sentinel_servers.flush()
    yield sentinel_servers
    sentinel_servers.heal()
    sentinel_servers.flush()


@pytest.fixture(scope="session")
def tls_server() -> Iterator[TlsServer]:
    """Share Debian's Redis, with TLS and an ACL."""
    with tls_acl() as server:
        yield server


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """Share a running flowcache with an embedded Valkey; keys of other tests may be in it."""
    with running_service({}, "--embedded") as running:
        yield running
