"""/readyz says why calls can't be served from the start, and no address, file or secret with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import TlsServer, eventually, tls_acl
from tests.service import service


@pytest.fixture(scope="module")
def redis() -> Iterator[TlsServer]:
    with tls_acl() as server:
        yield server


def says(redis: TlsServer, why: bytes, **environment: str) -> None:
    """See that a service that was never ready says ``why``, and nothing that is not anybody's."""
    given = {
        "REDIS_NODES": redis.url,
        "FLOWCACHE_REDIS_TLS_CA_FILE": str(redis.certificates.authority.certificate),
    } | environment
    with service(given, ready=False) as running:
        eventually(lambda: why in running.request("GET", "/readyz").body, what="/readyz to say why")
        answer = running.request("GET", "/readyz")
        assert answer.status == 503
        for secret in (str(redis.port), "127.0.0.1", redis.password, ".crt"):
            assert secret.encode() not in answer.body


def test_a_wrong_authority(redis: TlsServer) -> None:
    """The certificate of Redis is not trusted."""
    other = str(redis.certificates.other_authority.certificate)
    says(redis, b"TLS with Redis fails", FLOWCACHE_REDIS_TLS_CA_FILE=other)


def test_a_wrong_password(redis: TlsServer) -> None:
    """Redis refuses flowcache."""
    wrong = redis.url.replace(redis.password, "wrong")
    says(redis, b"Redis refuses flowcache's user or password.", REDIS_NODES=wrong)


def test_no_password(redis: TlsServer) -> None:
    """Redis wants one, and none is configured."""
    without = f"rediss://127.0.0.1:{redis.port}"
    says(redis, b"Redis refuses flowcache's user or password.", REDIS_NODES=without)
