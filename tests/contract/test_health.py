"""GET /healthz and GET /readyz: whether flowcache lives, and whether it is of use now."""

import pytest

from tests.contract.backends import PATIENT, Flow, nodes
from tests.contract.envelope import refused
from tests.servers import Cluster, RedisProcess, eventually
from tests.service import Service, service


def health(running: Service) -> tuple[int, str]:
    """Ask whether it lives."""
    answer = running.request("GET", "/healthz")
    return answer.status, answer.json["status"]


def readiness(running: Service) -> tuple[int, str]:
    """Ask whether it is of use."""
    answer = running.request("GET", "/readyz")
    return answer.status, answer.json["status"]


def becomes(running: Service, status: int) -> None:
    """Wait until /readyz answers that; /healthz is well all the while."""

    def has_become() -> bool:
        assert health(running) == (200, "ok")
        return readiness(running)[0] == status

    eventually(has_become, what=f"/readyz to answer {status}")


def test_a_working_service_is_alive_and_ready(flow: Flow) -> None:
    """Both are 200, without a credential, for GET and for HEAD, and never stored."""
    assert health(flow.service) == (200, "ok")
    assert readiness(flow.service) == (200, "ready")
    for page in ("/healthz", "/readyz"):
        for method in ("GET", "HEAD"):
            answer = flow.service.request(method, page)
            assert answer.status == 200
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["cache-control"] == "no-store"
            assert (answer.body == b"") is (method == "HEAD")


def test_readiness_follows_redis(fresh_standalone: RedisProcess) -> None:
    """/readyz is 503 while Redis is away and 200 once it is back; /healthz is 200 throughout."""
    server = fresh_standalone
    with service(PATIENT | {"REDIS_NODES": nodes(server.address)}) as running:
        assert readiness(running) == (200, "ready")
        for _ in range(2):
            server.stop()
            becomes(running, 503)
            assert readiness(running) == (503, "unavailable")
            server.start()
            becomes(running, 200)
        eventually(lambda: running.call(operation="SET", key="k", value=1).status == 200)


def test_a_stalled_redis_is_not_ready(fresh_standalone: RedisProcess) -> None:
    """A Redis that takes connections and answers nothing is not ready, and nobody waits for it."""
    server = fresh_standalone
    with service(PATIENT | {"REDIS_NODES": nodes(server.address)}) as running:
        server.pause()
        becomes(running, 503)
        server.resume()
        becomes(running, 200)


def test_a_cluster_with_a_dead_shard_is_not_ready(breakable_cluster: Cluster) -> None:
    """Every shard has to answer; a replica that takes over makes the cluster ready again."""
    servers = breakable_cluster
    with service({"REDIS_NODES": nodes(*servers.addresses[3:])}) as running:
        servers.primaries()[0].kill()
        becomes(running, 503)
        becomes(running, 200)


def test_readiness_tells_strangers_nothing(fresh_standalone: RedisProcess) -> None:
    """Which server is away, and why, is for the inspector: /readyz is open to anybody."""
    server = fresh_standalone
    with service(PATIENT | {"REDIS_NODES": nodes(server.address)}) as running:
        server.stop()
        becomes(running, 503)
        for page in ("/readyz", "/healthz"):
            body = running.request("GET", page).body
            assert str(server.port).encode() not in body
            assert b"127.0.0.1" not in body


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_starts_without_redis(fresh_standalone: RedisProcess, workers: str) -> None:
    """Without Redis it starts, says that it is not ready, refuses calls, and recovers by itself."""
    server = fresh_standalone
    server.stop()
    environment = PATIENT | {
        "REDIS_NODES": nodes(server.address),
        "FLOWCACHE_BREAKER_OPEN_SECONDS": "0.5",
    }
    with service(environment, "--workers", workers, ready=False) as running:
        assert health(running) == (200, "ok")
        assert readiness(running) == (503, "unavailable")
        for _ in range(8):
            answer = running.call(operation="SET", key="k", value=1)
            assert answer.json["code"] in ("redis_unavailable", "circuit_open")
            refused(answer, answer.json["code"])
            assert answer.headers["retry-after"].isdigit()
        assert running.inspect()["redisClusterStatus"] == "connecting"
        server.start()
        server.wait_ready()
        becomes(running, 200)
        eventually(lambda: running.call(operation="SET", key="k", value=2).status == 200)
        # Each worker finds Redis by itself: another may answer the read.
        eventually(lambda: running.call(operation="GET", key="k").json["data"] == 2)
        assert running.stop() == 0
