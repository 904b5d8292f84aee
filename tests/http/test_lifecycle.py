"""The life of the service: signals, workers that die, calls in flight. Watched from outside."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import pytest

from tests.servers import RedisProcess, eventually
from tests.service import ROUTE, TOKEN, Answer, Service, service

GONE = (OSError, http.client.HTTPException)
LONG = {"FLOWCACHE_DATA_DEADLINE_MS": "3000"}


@contextmanager
def calls_in_flight(
    running: Service, redis: RedisProcess, count: int = 3
) -> Iterator[list[Future[Answer]]]:
    """Have calls wait for a Redis that has been stopped in its tracks."""
    redis.pause()
    try:
        with ThreadPoolExecutor(count) as pool:
            calls = [pool.submit(running.call, operation="GET", key="k") for _ in range(count)]
            eventually(lambda: in_flight(running) == count, what=f"{count} calls to be in flight")
            yield calls
    finally:
        redis.resume()


def in_flight(running: Service) -> int:
    """Return how many calls wait for an answer, in all workers."""
    return sum(worker["inFlight"] for worker in running.inspect()["workers"])


def refuses_connections(running: Service) -> bool:
    """Whether nobody listens any more."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", running.port)) != 0


def nodes(redis: RedisProcess) -> dict[str, str]:
    return {"REDIS_NODES": f"127.0.0.1:{redis.port}"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_finishes_what_is_in_flight(fresh_standalone: RedisProcess, workers: str) -> None:
    """Calls in flight at SIGTERM get their answers, an idle connection holds nothing up, exit 0."""
    with service(nodes(fresh_standalone) | LONG, "--workers", workers) as running:
        idle = http.client.HTTPConnection("127.0.0.1", running.port)
        idle.request("GET", "/healthz")
        idle.getresponse().read()
        with calls_in_flight(running, fresh_standalone) as calls:
            running.process.send_signal(signal.SIGTERM)
            eventually(lambda: refuses_connections(running), what="the listener to close")
            fresh_standalone.resume()
            assert [call.result().status for call in calls] == [200] * 3
        assert running.process.wait(15) == 0
        idle.close()


def test_a_call_that_cannot_finish_is_answered_at_its_deadline(
    fresh_standalone: RedisProcess,
) -> None:
    """A stalled Redis does not keep the service from ending, nor callers from an answer."""
    with service(nodes(fresh_standalone)) as running:
        with calls_in_flight(running, fresh_standalone) as calls:
            running.process.send_signal(signal.SIGTERM)
            assert {call.result().code for call in calls} == {"deadline_exceeded"}
        assert running.process.wait(15) == 0


def test_second_signal_ends_at_once(fresh_standalone: RedisProcess) -> None:
    """A second SIGTERM waits for nobody: the calls in flight are cut, the exit code is 1."""
    patient = LONG | {"FLOWCACHE_DATA_DEADLINE_MS": "60000"}
    with (
        service(nodes(fresh_standalone) | patient) as running,
        calls_in_flight(running, fresh_standalone) as calls,
    ):
        running.process.send_signal(signal.SIGTERM)
        eventually(lambda: refuses_connections(running), what="the first signal to be heard")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 1
        for call in calls:
            assert isinstance(call.exception(), (ConnectionError, http.client.HTTPException))


def test_grace_ends(fresh_standalone: RedisProcess) -> None:
    """Calls that take longer than the grace are cut, and the service ends all the same."""
    impatient = LONG | {
        "FLOWCACHE_DATA_DEADLINE_MS": "60000",
        "FLOWCACHE_HTTP_GRACE_SECONDS": "0.3",
    }
    with (
        service(nodes(fresh_standalone) | impatient) as running,
        calls_in_flight(running, fresh_standalone),
    ):
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(15)


def test_a_killed_worker_is_replaced() -> None:
    """A worker that dies is replaced; the one beside it goes on answering."""
    with service({}, "--embedded", "--workers", "2") as running:
        before = eventually(lambda: new_workers(running, set(), 2), what="both workers")
        os.kill(min(before), signal.SIGKILL)
        after = eventually(
            lambda: new_workers(running, before, 1), what="a new worker", ignoring=GONE
        )
        assert max(before) in after
        assert running.call(operation="GET", key="k").data is None


def workers(running: Service) -> set[int]:
    """Return the pids of the workers that answer."""
    return {worker["pid"] for worker in running.inspect()["workers"]}


def new_workers(running: Service, before: set[int], count: int) -> set[int] | None:
    """Return the workers once there are two, ``count`` of them new."""
    now = workers(running)
    return now if len(now) == 2 and len(now - before) == count else None


def test_a_second_death_does_not_end_the_service() -> None:
    """One sick worker is replaced again; the service goes on."""
    with service({}, "--embedded", "--workers", "2") as running:
        before = eventually(lambda: new_workers(running, set(), 2), what="both workers")
        for _ in range(2):
            os.kill(min(before), signal.SIGKILL)
            known = before
            before = eventually(
                lambda known=known: new_workers(running, known, 1),  # type: ignore[misc]
                what="a new worker",
                ignoring=GONE,
            )
        assert running.call(operation="GET", key="k").data is None


def test_killed_supervisor_leaves_no_worker() -> None:
    """Workers do not outlive a supervisor that had no chance to end them."""
    with service({}, "--embedded", "--workers", "2") as running:
        pids = workers(running)
        running.process.kill()
        running.process.wait()
        eventually(lambda: not any(map(is_alive, pids)), what="the workers to end")


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_sighup_replaces_the_workers() -> None:
    """After SIGHUP all workers are new ones, and calls on new connections went on all the while."""
    with service({}, "--embedded", "--workers", "2") as running:
        before = eventually(lambda: new_workers(running, set(), 2), what="both workers")
        with keep_calling(running) as outcomes:
            running.process.send_signal(signal.SIGHUP)
            eventually(lambda: new_workers(running, before, 2), what="new workers", ignoring=GONE)
        assert outcomes[200] > 0
        assert set(outcomes) == {200}


@contextmanager
def keep_calling(running: Service) -> Iterator[Counter[int | str]]:
    """Call again and again, each time on a connection of its own."""
    outcomes: Counter[int | str] = Counter()
    over = Event()

    def call() -> None:
        while not over.is_set():
            try:
                outcomes[running.call(operation="GET", key="k").status] += 1
            except (OSError, http.client.HTTPException):
                outcomes["cut"] += 1

    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(call)
        try:
            yield outcomes
        finally:
            over.set()
            calling.result()


@pytest.mark.parametrize(
    "cut",
    [
        lambda s: s.sendall(b"POST " + ROUTE.encode() + b" HTTP/1.1\r\nHost: x\r\n"),
        lambda s: s.sendall(_head(b"100") + b'{"operation":'),
        lambda s: s.sendall(b"GARBAGE\r\n\r\n"),
    ],
    ids=["in the headers", "in the body", "no HTTP"],
)
def test_clients_that_hang_up_harm_nobody(cut: Callable[[socket.socket], None]) -> None:
    """A connection that ends in the middle of a request leaves nothing in flight behind."""
    with service({}, "--embedded") as running:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", running.port)) as connection:
                cut(connection)
        assert running.call(operation="SET", key="k", value=1).data == "OK"
        eventually(lambda: in_flight(running) == 0, what="nothing to be in flight")
        assert "Traceback" not in running.log


def test_slow_body_is_ended() -> None:
    """A body that does not arrive in time is answered with `invalid_request` that says so."""
    quick = {"FLOWCACHE_HTTP_BODY_TIMEOUT_SECONDS": "0.3"}
    with (
        service(quick, "--embedded") as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection,
    ):
        connection.sendall(_head(b"100") + b'{"operation":')
        response = http.client.HTTPResponse(connection)
        response.begin()
        answer = json.loads(response.read())
        assert (response.status, answer["code"]) == (400, "invalid_request")
        assert answer["error"].startswith("body:")
        assert in_flight(running) == 0


def _head(length: bytes) -> bytes:
    return (
        b"POST " + ROUTE.encode() + b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        + TOKEN.encode() + b"\r\nContent-Length: " + length + b"\r\n\r\n"
    )  # fmt: skip
