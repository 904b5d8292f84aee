"""Room for calls is shared: a client that takes all it can get leaves the others theirs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from flowcache.authn.tokens import show_digest
from flowcache.secret import Secret
from tests.contract.envelope import answered, refused
from tests.contract.wire import Wire, post, wire
from tests.servers import RedisProcess, eventually
from tests.service import Service, service

NAMES = ("busy", "quiet", "heavy", "limited")
TOKENS = {name: f"fc_{name}-{'x' * 40}" for name in NAMES}
RULES = {"heavy": "weight = 3", "limited": "max_in_flight = 1"}
CLIENTS = "".join(
    f"""
[clients.{name}]
tokens = ["{show_digest(Secret(TOKENS[name]))}"]
permissions = ["data:read"]
keys = ["*"]
{RULES.get(name, "")}
"""
    for name in NAMES
)
CALL = b'{"operation":"GET","key":"k"}'


class Clients:
    """Calls that wait for a Redis at a standstill."""

    def __init__(self, running: Service, stack: ExitStack) -> None:
        self._running = running
        self._stack = stack
        self.waiting: list[Wire] = []

    def at_work(self) -> int:
        return sum(worker["inFlight"] for worker in self._running.inspect()["workers"])

    def begin(self, client: str) -> Wire:
        """Send a call on a connection of its own."""
        connection = self._stack.enter_context(wire(self._running.port))
        connection.send(post(CALL, authorization=b"Bearer " + TOKENS[client].encode()))
        return connection

    def get_in(self, client: str, calls: int) -> None:
        """So many calls are let in, and wait."""
        before = self.at_work()
        self.waiting += [self.begin(client) for _ in range(calls)]
        eventually(lambda: self.at_work() == before + calls, what=f"{client} to get in")


def test_a_busy_client_leaves_the_others_their_places(
    fresh_standalone: RedisProcess, tmp_path: Path
) -> None:
    """Of 32 places 16 may be kept: one for each of five clients, and eleven by weight, of seven in
    all. That makes 2 for weight 1, 5 for weight 3, and 1 for whoever may have no more: 12, so that
    20 are for all. A busy client gets those and its own; the others still get theirs."""
    configuration = tmp_path / "flowcache.toml"
    configuration.write_text(CLIENTS)
    environment = {
        "REDIS_NODES": f"127.0.0.1:{fresh_standalone.port}",
        "FLOWCACHE_HTTP_MAX_IN_FLIGHT": "32",
        "FLOWCACHE_DATA_DEADLINE_MS": "30000",
    }
    with (
        service(environment, "--config", str(configuration)) as running,
        ExitStack() as stack,
    ):
        clients = Clients(running, stack)
        fresh_standalone.pause()
        try:
            clients.get_in("busy", 2 + 20)
            for _ in range(3):
                told = refused(clients.begin("busy").receive(), "overloaded", "too many calls")
                assert told["retryable"] is True
            clients.get_in("quiet", 2)
            clients.get_in("heavy", 5)
            clients.get_in("limited", 1)
            for client in ("quiet", "heavy"):
                refused(clients.begin(client).receive(), "overloaded", "too many calls")
            answer = clients.begin("limited").receive()
            refused(answer, "rate_limited", "the limit is 1")
            assert answer.headers["retry-after"] == "1"
        finally:
            fresh_standalone.resume()
        for each in clients.waiting:
            answered(each.receive())
        eventually(lambda: clients.at_work() == 0, what="all to be over")
        for client in NAMES:
            answered(clients.begin(client).receive())


def test_a_start_says_that_no_places_can_be_kept(
    fresh_standalone: RedisProcess, tmp_path: Path
) -> None:
    """With fewer than two places for each client the operator is told, and what to do."""
    configuration = tmp_path / "flowcache.toml"
    configuration.write_text(CLIENTS)
    environment = {
        "REDIS_NODES": f"127.0.0.1:{fresh_standalone.port}",
        "FLOWCACHE_HTTP_MAX_IN_FLIGHT": "9",
    }
    with service(environment, "--config", str(configuration)) as running:
        assert "less than two for each of 5 clients" in running.log
        assert "raise it to 10" in running.log
