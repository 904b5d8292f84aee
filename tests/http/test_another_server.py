"""The application on another ASGI server: what it answers there is what it answers on ours."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import RedisProcess
from tests.servers.ports import PortClaim
from tests.service import INSPECTOR_TOKEN, TOKEN, Service

APPLICATION = """
import os, tempfile
from pathlib import Path
from flowcache.bootstrap import application
from flowcache.settings import load

app = application(load(None, os.environ), Path(tempfile.mkdtemp(dir=os.environ["TMPDIR"])))
"""


@pytest.fixture(scope="module")
def elsewhere(standalone_server: RedisProcess) -> Iterator[Service]:
    """Serve the application with Granian."""
    host, port = standalone_server.address
    with tempfile.TemporaryDirectory() as directory, PortClaim() as claim:
        Path(directory, "served.py").write_text(APPLICATION)
        log = Path(directory, "log")
        command = [sys.executable, "-m", "granian", "--interface", "asgi", "--workers", "1"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--port", str(claim.port), "served:app"],
                cwd=directory,
                env=os.environ
                | {
                    "REDIS_NODES": f"{host}:{port}",
                    "SERVICE_BEARER_TOKEN": TOKEN,
                    "FLOWCACHE_INSPECTOR_TOKEN": INSPECTOR_TOKEN,
                    "FLOWCACHE_DATA_DEADLINE_MS": "10000",
                    "TMPDIR": directory,
                },
                stdout=output,
                stderr=output,
            )
        running = Service(process, claim.port, log)
        try:
            running.wait_ready()
            yield running
        finally:
            running.stop()


def test_a_flow_works_there(elsewhere: Service) -> None:
    """Each operation of the first contract, and the idempotent repetition of a write."""
    call = elsewhere.call
    assert call(operation="SET", key="g:1", value={"a": [1, 2]}, ttl=60).data == "OK"
    assert call(operation="GET", key="g:1").data == {"a": [1, 2]}
    assert call(operation="HSET", key="g:2", value={"a": 1, "b": "x"}).data == 2
    assert call(operation="HGETALL", key="g:2").data == {"a": "1", "b": "x"}
    again = {"operation": "SET", "key": "g:3", "value": 1, "idempotencyKey": "once"}
    assert [call(**again).data, call(**again).data] == ["OK", "OK"]
    assert call(operation="DEL", key="g:1").data == 1
    missed = call(operation="GET", key="g:1")
    assert (missed.data, missed.json["metadata"]["hit"]) == (None, False)


def test_large_bodies_and_values_pass_there(elsewhere: Service) -> None:
    """They come and go in many pieces."""
    value = "x" * 200_000
    assert elsewhere.call(operation="SET", key="g:large", value=value).data == "OK"
    assert elsewhere.call(operation="GET", key="g:large").data == value


def test_refusals_are_the_same_there(elsewhere: Service) -> None:
    """Status, code and headers do not depend on the server."""
    nobody = elsewhere.post(b"{}", {"authorization": "Bearer wrong"})
    assert (nobody.status, nobody.code) == (401, "unauthorized")
    assert nobody.headers["www-authenticate"] == "Bearer"
    assert elsewhere.post(b"no JSON").code == "invalid_request"
    assert elsewhere.post(b"x" * 300_000).status == 413
    assert elsewhere.post(iter([b'{"operation":"GET",', b'"key":"g:1"}'])).status == 200
    other = elsewhere.request("PUT", "/data-action/redis")
    assert (other.status, other.headers["allow"]) == (405, "POST")
    assert elsewhere.request("GET", "/nothing").status == 404


def test_the_pages_are_there(elsewhere: Service) -> None:
    """Health, metrics, the inspector, the contract and its page."""
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"):
        assert elsewhere.request("GET", path).status == 200, path
    assert elsewhere.inspect()["redisClusterStatus"] == "ready"
