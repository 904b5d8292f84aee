"""More than there is room for: calls, connections, bodies. Decent callers go on being answered."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from tests.contract.envelope import answered, refused
from tests.contract.wire import post, wire
from tests.http.callers import request
from tests.servers import RedisProcess, eventually
from tests.service import Service, service

CALL = request(operation="GET", key="k")


def in_flight(running: Service) -> int:
    return sum(worker["inFlight"] for worker in running.inspect()["workers"])


def test_past_the_limit_calls_are_refused_at_once_and_pages_are_not(
    fresh_standalone: RedisProcess,
) -> None:
    """With Redis at a standstill, so many calls wait; all others, and health, are answered now."""
    environment = {
        "REDIS_NODES": f"127.0.0.1:{fresh_standalone.port}",
        "FLOWCACHE_HTTP_MAX_IN_FLIGHT": "4",
        "FLOWCACHE_DATA_DEADLINE_MS": "30000",
    }
    with service(environment) as running, ExitStack() as stack:
        fresh_standalone.pause()
        try:
            waiting = [stack.enter_context(wire(running.port)) for _ in range(4)]
            for client in waiting:
                client.send(CALL)
            eventually(lambda: in_flight(running) == 4, what="four calls at work")
            with wire(running.port) as client:
                for _ in range(3):
                    client.send(CALL)
                    answer = client.receive()
                    told = refused(answer, "overloaded", "too many calls")
                    assert (answer.headers["retry-after"], told["retryable"]) == ("1", True)
            assert running.request("GET", "/healthz").status == 200
            metrics = running.request("GET", "/metrics").body.decode()
            assert 'flowcache_requests_total{operation="other",outcome="overloaded"' in metrics
            assert "\nflowcache_overload_refusals_total 3.0\n" in metrics
            assert "\nflowcache_requests_at_work 4.0\n" in metrics
        finally:
            fresh_standalone.resume()
        for client in waiting:
            answered(client.receive())
        assert running.call(operation="GET", key="k").data is None


def test_slow_heads_keep_no_caller_out() -> None:
    """A hundred connections that never get to the end of a head, where thirty have room."""
    environment = {"FLOWCACHE_HTTP_MAX_CONNECTIONS": "30"}
    with service(environment, "--embedded") as running, ExitStack() as stack:
        for _ in range(100):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
            slow.sendall(CALL[:20])
        for _ in range(5):
            assert running.call(operation="GET", key="k").data is None


def test_the_oldest_of_too_many_bodies_gives_way() -> None:
    """Bodies that don't get on share what there is for them; whoever sends in one go is served."""
    environment = {
        "FLOWCACHE_HTTP_MAX_UNFINISHED_BYTES": "131072",
        "FLOWCACHE_HTTP_MAX_BODY_BYTES": "65536",
        "FLOWCACHE_HTTP_BODY_TIMEOUT_SECONDS": "30",
    }
    body = b" " * 50_000 + b'{"operation":"GET","key":"k"}'
    with service(environment, "--embedded") as running, ExitStack() as stack:
        slow = []
        for count in range(1, 5):
            client = stack.enter_context(wire(running.port))
            client.send(post(body)[:-20])
            slow.append(client)
            eventually(
                lambda count=count: in_flight(running) == min(count, 2),  # type: ignore[misc]
                what="the body to be read",
            )
        for client in slow[:2]:
            answer = client.receive()
            assert refused(answer, "overloaded", "body:")["retryable"] is True
            assert answer.headers["connection"] == "close"
            assert client.is_over()
        answered(running.post(body[-10_000:]))
        for client in slow[2:]:
            client.send(body[-20:])
            answered(client.receive())
