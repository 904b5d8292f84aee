"""Credentials to Redis that are replaced while the service runs, as mounted secrets are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pytest

from tests.servers import TlsServer, eventually, tls_acl
from tests.servers.certificates import Pair, make_certificates
from tests.service import Service, service

NEXT = "the-next-password"


@pytest.fixture
def redis() -> Iterator[TlsServer]:
    """Run a Redis that wants TLS, a certificate, a user and a password."""
    with tls_acl(verify_clients=True) as server:
        yield server


def replace(file: Path, content: bytes) -> None:
    """Replace a file in one step, as whoever mounts secrets does."""
    beside = file.with_suffix(".new")
    beside.write_bytes(content)
    os.replace(beside, file)


class Mounted:
    """The files that the service reads."""

    def __init__(self, directory: Path, server: TlsServer) -> None:
        self.password = directory / "password"
        self.ca, self.cert, self.key = (directory / name for name in ("ca", "crt", "key"))
        self.password.write_text(f"{server.password}\n")
        self.ca.write_bytes(server.certificates.authority.certificate.read_bytes())
        self.show(server.certificates.client)

    def show(self, pair: Pair) -> None:
        replace(self.cert, pair.certificate.read_bytes())
        replace(self.key, pair.key.read_bytes())


@contextmanager
def serving(redis: TlsServer, files: Mounted) -> Iterator[Service]:
    environment = {
        "REDIS_NODES": f"rediss://127.0.0.1:{redis.port}",
        "FLOWCACHE_REDIS_USERNAME": redis.username,
        "FLOWCACHE_REDIS_PASSWORD_FILE": str(files.password),
        "FLOWCACHE_REDIS_TLS_CA_FILE": str(files.ca),
        "FLOWCACHE_REDIS_TLS_CERT_FILE": str(files.cert),
        "FLOWCACHE_REDIS_TLS_KEY_FILE": str(files.key),
        "FLOWCACHE_BREAKER_MODE": "disabled",  # what is looked at are connections
    }
    with service(environment) as running:
        yield running


def connects(running: Service) -> int:
    """Return how often the service's link has been connected."""
    (worker,) = running.inspect()["redis"]
    (shard,) = worker["shards"]
    count: int = shard["primary"]["connects"]
    return count


def cut(redis: TlsServer, running: Service, **configured: str) -> None:
    """Cut the service's connections; wait for new ones, to a server so ``configured``."""
    before = connects(running)
    with redis.process.client() as operator:  # one connection: the next may not trust the server
        if configured:
            words = {name.replace("_", "-"): value for name, value in configured.items()}
            operator.execute_command("CONFIG", "SET", *chain.from_iterable(words.items()))
        operator.execute_command("CLIENT", "KILL", "USER", redis.username)
    eventually(lambda: connects(running) > before, what="a new connection")
    running.wait_ready()


def test_a_password_is_replaced_without_a_failed_call(redis: TlsServer, tmp_path: Path) -> None:
    """The next connection uses what the file holds by then; the links there are stay."""
    files = Mounted(tmp_path, redis)
    with serving(redis, files) as running:
        assert running.call(operation="SET", key="k", value=1).data == "OK"
        redis.process.cli("ACL", "SETUSER", redis.username, f">{NEXT}")
        replace(files.password, NEXT.encode())
        assert running.call(operation="GET", key="k").data == 1
        assert connects(running) == 1
        redis.process.cli("ACL", "SETUSER", redis.username, f"<{redis.password}")
        assert running.call(operation="GET", key="k").data == 1
        assert connects(running) == 1
        cut(redis, running)
        assert running.call(operation="GET", key="k").data == 1


def test_a_password_that_is_not_taken_any_more_is_told(redis: TlsServer, tmp_path: Path) -> None:
    """/readyz and the log say what is wrong, no secret with it; a right file mends it."""
    files = Mounted(tmp_path, redis)
    with serving(redis, files) as running:
        redis.process.cli("ACL", "SETUSER", redis.username, f">{NEXT}", f"<{redis.password}")
        redis.process.cli("CLIENT", "KILL", "USER", redis.username)
        eventually(
            lambda: b"refuses" in running.request("GET", "/readyz").body,
            what="/readyz to say that Redis refuses the password",
        )
        eventually(
            lambda: running.log.count('"Redis refused the user or the password", "event"') == 1,
            what="the log to say so of the link, once",
        )
        assert running.call(operation="GET", key="k").code == "redis_unavailable"
        files.password.unlink()
        eventually(
            lambda: "the file of the password can't be read" in str(running.inspect()["redis"]),
            what="the inspector to say that the file is gone",
        )
        why = b"The file of flowcache's password for Redis can't be read."
        eventually(
            lambda: why in running.request("GET", "/readyz").body,
            what="/readyz to say that the file is gone",
        )
        replace(files.password, NEXT.encode())
        running.wait_ready()
        assert redis.password not in running.log
        assert NEXT not in running.log


def test_certificate_and_authority_are_replaced(redis: TlsServer, tmp_path: Path) -> None:
    """The next connection shows the new certificate, and trusts the new authority."""
    files = Mounted(tmp_path, redis)
    (tmp_path / "next").mkdir()
    following = make_certificates(tmp_path / "next")
    with serving(redis, files) as running:
        authorities = [redis.certificates.authority, following.authority]
        both = b"".join(each.certificate.read_bytes() for each in authorities)
        replace(files.ca, both)
        bundle = tmp_path / "bundle"
        bundle.write_bytes(both)
        files.show(following.client)
        cut(redis, running, tls_ca_cert_file=str(bundle))
        server = following.server
        cut(redis, running, tls_cert_file=str(server.certificate), tls_key_file=str(server.key))
        assert running.call(operation="SET", key="k", value=1).data == "OK"
