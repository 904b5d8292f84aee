"""Workers come and go, and no call is lost: SIGHUP and SIGTERM under load."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.contract.wire import wire
from tests.http.callers import calling, request
from tests.servers import eventually
from tests.service import Service, service


def workers(running: Service) -> set[int]:
    """Return the pids of the workers that answer."""
    return {worker["pid"] for worker in running.inspect()["workers"]}


def replaced(running: Service, before: set[int], count: int) -> Callable[[], set[int] | None]:
    """Tell, when asked, the workers once there are ``count``, all of them new."""

    def look() -> set[int] | None:
        now = workers(running)
        return now if len(now) == count and not now & before else None

    return look


async def test_sighup_under_load_loses_nothing() -> None:
    """Five reloads in a row, 32 kept connections and 8 fresh ones: every call is answered."""
    with service({}, "--embedded", "--workers", "2") as running:
        now = await asyncio.to_thread(eventually, replaced(running, set(), 2), what="both workers")
        async with calling(running.port, kept=32, fresh=8) as callers:
            for _ in range(5):
                running.process.send_signal(signal.SIGHUP)
                now = await asyncio.to_thread(
                    eventually, replaced(running, now, 2), what="new workers"
                )
        assert set(callers.outcomes) == {"200"}
        assert callers.outcomes["200"] > 1000
        assert "Traceback" not in running.log


async def test_sigterm_under_load_loses_nothing_that_was_sent() -> None:
    """Whoever is connected at SIGTERM gets an answer to all they send until one says it is the
    last; then the service ends, in order."""
    with service({}, "--embedded", "--workers", "2") as running:
        async with calling(running.port, kept=32, fresh=8) as callers:
            await asyncio.to_thread(
                eventually, lambda: callers.outcomes["200"] > 500, what="calls to be answered"
            )
            callers.reconnects = False  # from now on only what there is
            before = callers.outcomes["200"]
            running.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(running.process.wait, 15) == 0
        assert set(callers.outcomes) == {"200"}
        assert callers.outcomes["200"] >= before + 32


def test_who_waits_to_be_accepted_at_sigterm_is_served() -> None:
    """A connection in the kernel's queue has been promised nothing, and is served all the same."""
    with service({}, "--embedded") as running, ExitStack() as stack:
        (worker,) = workers(running)
        os.kill(worker, signal.SIGSTOP)
        try:
            eventually(lambda: status_of(worker, "State:") == "T", what="the worker to stop")
            clients = [stack.enter_context(wire(running.port)) for _ in range(30)]
            for client in clients:
                client.send(request(operation="GET", key="k"))
            running.process.send_signal(signal.SIGTERM)
            sigterm = 1 << (signal.SIGTERM - 1)
            eventually(
                lambda: int(status_of(worker, "ShdPnd:"), 16) & sigterm,
                what="the worker to have its signal waiting",
            )
        finally:
            os.kill(worker, signal.SIGCONT)
        for client in clients:
            answer = client.receive()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert client.is_over()
        assert running.process.wait(15) == 0


def status_of(pid: int, field: str) -> str:
    """Return a field of /proc/<pid>/status; see proc(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(field))
    return value


def test_an_idle_connection_may_still_be_used_at_sigterm() -> None:
    """A request that crosses the signal on its way is answered, as the last of its connection."""
    environment = {"FLOWCACHE_HTTP_DRAIN_SECONDS": "5"}
    with service(environment, "--embedded") as running, wire(running.port) as client:
        client.send(request(operation="GET", key="k"))
        assert "connection" not in client.receive().headers
        running.process.send_signal(signal.SIGTERM)
        eventually(lambda: refuses_connections(running), what="the service to stop accepting")
        client.send(request(operation="GET", key="k"))
        answer = client.receive()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert running.process.wait(15) == 0


def refuses_connections(running: Service) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", running.port)) != 0


# -- the configuration, read again -----------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flowcache.toml"
    path.write_text("")
    return path


def test_sighup_reads_the_configuration_again(file: Path) -> None:
    """The new workers have the new settings, and there are as many of them as it says now."""
    with service({}, "--embedded", "--config", str(file)) as running:
        before = workers(running)
        file.write_text("[http]\nworkers = 3\n[data]\ndefault_ttl = 77\n")
        running.process.send_signal(signal.SIGHUP)
        now = eventually(replaced(running, before, 3), what="three new workers")
        assert running.inspect()["configuration"]["data"]["default_ttl"] == 77
        file.write_text("[http]\nworkers = 1\nport = 1\n")
        running.process.send_signal(signal.SIGHUP)
        eventually(replaced(running, now, 1), what="one new worker")
        assert running.call(operation="GET", key="k").data is None
        assert "change only at a restart" not in running.log  # --port says


def test_sighup_with_faults_changes_nothing(file: Path) -> None:
    """All faults are told together, no worker is touched, and the next good configuration works."""
    with service({}, "--embedded", "--config", str(file)) as running:
        before = workers(running)
        file.write_text("[http]\nworkers = 0\n[data]\ndefault_ttl = 'soon'\n[nope]\nx = 1\n")
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: "the one before stays" in running.log, what="the refusal")
        where = f" ({file})"
        for told in (f"http.workers{where} = 0: ", f"data.default_ttl{where} = ", "nope"):
            assert told in running.log
        assert workers(running) == before
        file.write_text("")
        running.process.send_signal(signal.SIGHUP)
        eventually(replaced(running, before, 1), what="a new worker")
