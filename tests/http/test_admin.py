"""The address for operators, and pages that take a credential."""

from __future__ import annotations

import http.client
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.contract.envelope import refused
from tests.servers import eventually
from tests.servers.ports import PortClaim
from tests.service import ROUTE, Answer, Service, service

PAGES = ("/metrics", "/docs", "/openapi.json", "/inspector", "/inspector/circuits")
PROBES = ("/healthz", "/readyz")


@contextmanager
def with_admin(**more: str) -> Iterator[tuple[Service, int]]:
    """Run a flowcache that serves operators apart; give it and the port for them."""
    with PortClaim() as claim:
        environment = {"FLOWCACHE_ADMIN_PORT": str(claim.port)} | more
        with service(environment, "--embedded") as running:
            yield running, claim.port


def ask(
    running: Service, port: int, path: str, method: str = "GET", token: str | None = None
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        headers = {"authorization": f"Bearer {token or running.inspector_token}"}
        connection.request(method, path, None, headers)
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, response.read())
    finally:
        connection.close()


def test_operators_have_an_address_of_their_own() -> None:
    """With several workers too: pages are there and not on the public address, data actions the
    other way round; probes are on both."""
    with with_admin(FLOWCACHE_HTTP_WORKERS="2") as (running, admin):
        for _ in range(6):  # each by a connection of its own: both workers are met
            for path in PAGES:
                assert ask(running, admin, path).status == 200
                refused(ask(running, running.port, path), "not_found", path)
            for path in PROBES:
                assert ask(running, admin, path).status == 200
                assert ask(running, running.port, path).status == 200
        assert running.call(operation="GET", key="k").data is None
        refused(ask(running, admin, ROUTE, "POST", running.token), "not_found")
        refused(ask(running, admin, "/docs", "PUT"), "method_not_allowed")
        said = ask(running, admin, "/metrics").body
        assert b"\nflowcache_workers 2.0\n" in said
        assert running.stop() == 0


def test_operators_are_served_when_callers_have_taken_all_connections() -> None:
    """The address for operators has connections of its own."""
    with with_admin(FLOWCACHE_HTTP_MAX_CONNECTIONS="4") as (running, admin):
        held = [http.client.HTTPConnection("127.0.0.1", running.port) for _ in range(8)]
        try:
            for each in held:
                each.connect()
            for path in (*PAGES, *PROBES):
                assert ask(running, admin, path).status == 200
        finally:
            for each in held:
                each.close()


def test_operators_have_64_connections_of_a_worker() -> None:
    """Past that the one that is idle for longest is closed; whoever asks is served."""
    with with_admin() as (running, admin), ExitStack() as stack:
        held = []
        for _ in range(70):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", admin), 20))
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
            held.append(connection)

        def closed() -> list[bool]:
            quiet = select.select(held, (), (), 0)[0]
            return [connection in quiet for connection in held]

        eventually(lambda: sum(closed()) >= 6, what="some connections to be closed")
        assert ask(running, admin, "/metrics").status == 200
        assert closed()[-1] is False
        assert sum(closed()) <= 8


def test_pages_may_take_a_credential() -> None:
    """Metrics and documentation are then for whoever may inspect, and the document says so; probes
    stay open."""
    with service({"FLOWCACHE_ADMIN_PAGES": "credential"}, "--embedded") as running:
        for path in ("/metrics", "/docs", "/openapi.json"):
            refused(running.request("GET", path), "unauthorized")
            refused(ask(running, running.port, path, token=running.token), "forbidden")
            assert ask(running, running.port, path).status == 200
        for path in PROBES:
            assert running.request("GET", path).status == 200
        document = ask(running, running.port, "/openapi.json").json
        assert document["paths"]["/metrics"]["get"]["security"] == [{"inspector": ["inspect:read"]}]
        assert {"401", "403", "429"} <= document["paths"]["/docs"]["get"]["responses"].keys()
        assert document["paths"]["/healthz"]["get"]["security"] == []
        outcomes = [each["outcome"] for each in running.inspect()["auditLogs"]]
        assert outcomes.count("unauthorized") == outcomes.count("forbidden") == 3


def test_a_reload_does_not_move_operators() -> None:
    """Workers are replaced and both addresses stay: no connection is refused."""
    with with_admin() as (running, admin):
        before = {each["pid"] for each in ask(running, admin, "/inspector").json["workers"]}
        running.process.send_signal(1)

        def is_replaced() -> bool:
            workers = ask(running, admin, "/inspector").json["workers"]
            return not before & {each["pid"] for each in workers}

        eventually(is_replaced, what="the workers to be replaced")
        assert ask(running, admin, "/docs").status == 200
