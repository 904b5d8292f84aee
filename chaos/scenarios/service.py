"""flowcache itself: signals, workers that die, more load than Redis takes, slow clients."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from chaos.bars import Bars
from chaos.figures import percentile
from chaos.history import Call, Strike
from chaos.rigs import alone, behind_proxy
from chaos.scenarios.cluster import OnCluster
from chaos.scenarios.network import proxied
from chaos.stage import Scenario, Stage
from tests.servers import Proxy, RedisProcess, eventually
from tests.service import TOKEN

__all__ = ["SCENARIOS"]

TWO_WORKERS = ("--workers", "2")
SLOW_CLIENTS = 500
IN_FLIGHT_SECONDS = 0.05
SLOW_SECONDS = 0.1
MAX_IN_FLIGHT = 15
CAPACITY = MAX_IN_FLIGHT / SLOW_SECONDS
"""Calls a second."""
AT_ONCE_SECONDS = 0.05
DRIP_SECONDS = 1.0


def keep_in_flight(stage: OnCluster) -> None:
    """Slow every node down a little, so that there are always calls in flight to be lost."""
    for node in stage.servers.nodes:
        stage.servers.proxy(node).delay(IN_FLIGHT_SECONDS)
    stage.calm(0.5)


def reload_thrice(stage: OnCluster) -> None:
    keep_in_flight(stage)
    for _ in range(3):
        old = workers(stage)
        stage.service.process.send_signal(signal.SIGHUP)
        wait_replaced(stage, old)
        stage.calm(0.5)


def kill_worker(stage: OnCluster) -> None:
    keep_in_flight(stage)
    victim = min(workers(stage))
    strike = stage.strike("worker killed")
    os.kill(victim, signal.SIGKILL)
    wait_replaced(stage, {victim})
    stage.mends(strike)


def wait_replaced(stage: OnCluster, old: set[int]) -> None:
    """Wait until there are two workers, and none of the old ones."""

    def replaced() -> bool:
        now = workers(stage)
        return len(now) == 2 and not now & old

    eventually(
        replaced, within=60, what="workers to be replaced", ignoring=(OSError, AssertionError)
    )


def end_and_start_again(stage: OnCluster) -> None:
    """End flowcache as an operator would, and start it anew on the same port."""
    keep_in_flight(stage)
    strike = stage.strike("SIGTERM")
    stage.service.stop()
    stage.start_again()
    stage.mends(strike)
    stage.calm()


def kill_instance(stage: OnCluster) -> None:
    """Kill one of two flowcaches with all its workers, and start it again."""
    keep_in_flight(stage)
    strike = stage.strike("killed")
    stage.service.process.kill()
    stage.service.process.wait()
    stage.calm(0.5)
    stage.start_again()
    stage.mends(strike)


def overload(stage: Stage[Proxy]) -> None:
    """Slow Redis down until what flowcache may have at work carries a quarter of the load."""
    stage.servers.delay(SLOW_SECONDS)
    strike = stage.strike("slowed down")
    stage.calm(2)
    stage.servers.restore()
    stage.mends(strike)


def admitted_stay_flat(calls: Sequence[Call], strikes: Sequence[Strike]) -> str | None:
    """Say how long admitted calls took, if longer than twice what Redis takes."""
    admitted = [call for call in _while_struck(calls, strikes) if call.ok]
    slow = percentile([call.latency for call in admitted], 0.99)
    if len(admitted) < CAPACITY * 0.9 * _seconds_struck(strikes):
        return f"only {len(admitted)} calls were admitted"
    return f"p99 of admitted calls is {slow * 1000:.0f} ms" if slow > 2 * SLOW_SECONDS else None


def the_rest_is_told_at_once(calls: Sequence[Call], strikes: Sequence[Strike]) -> str | None:
    """Say how long refused calls had to wait to be told, if they did."""
    refused = [call for call in _while_struck(calls, strikes) if not call.ok]
    slow = percentile([call.latency for call in refused], 0.99)
    return f"p99 of refusals is {slow * 1000:.0f} ms" if slow > AT_ONCE_SECONDS else None


def _while_struck(calls: Sequence[Call], strikes: Sequence[Strike]) -> list[Call]:
    """Return the calls of the strike, without its first moment: what was admitted before it."""
    (strike,) = strikes
    settled, mended = strike.at + 2 * SLOW_SECONDS, strike.mended or strike.at
    return [call for call in calls if settled <= call.woken < mended]


def _seconds_struck(strikes: Sequence[Strike]) -> float:
    (strike,) = strikes
    return (strike.mended or strike.at) - strike.at - 2 * SLOW_SECONDS


def workers(stage: OnCluster) -> set[int]:
    """Return the pids of the workers that answer."""
    return {worker["pid"] for worker in stage.service.inspect()["workers"]}


def in_flight_are_answered(calls: Sequence[Call], strikes: Sequence[Strike]) -> str | None:
    """Say how many calls that were in flight at SIGTERM failed; there must be some in flight."""
    (strike,) = strikes
    in_flight = [call for call in calls if call.woken < strike.at < call.answered]
    lost = sum(not call.ok for call in in_flight)
    if lost or not in_flight:
        return f"{lost} of {len(in_flight)} calls in flight at SIGTERM failed"
    return None


@contextmanager
def dripping(port: int, head: bytes, body: bytes) -> Iterator[None]:
    """Hold `SLOW_CLIENTS` connections that send a byte a second; those that are cut come again."""
    over = threading.Event()

    def connected() -> socket.socket:
        fresh = socket.create_connection(("127.0.0.1", port), 5)
        fresh.setblocking(False)
        with suppress(OSError):
            fresh.send(head)
        return fresh

    def drip() -> None:
        clients = [connected() for _ in range(SLOW_CLIENTS)]
        while not over.wait(DRIP_SECONDS):
            for place, client in enumerate(clients):
                try:
                    client.send(body)
                    if client.recv(4096):
                        raise ConnectionResetError("answered, so over")
                except BlockingIOError:
                    continue
                except OSError:
                    client.close()
                    clients[place] = connected()
        for client in clients:
            client.close()

    thread = threading.Thread(target=drip, name="slow clients", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def slow_heads(stage: Stage[RedisProcess]) -> None:
    with dripping(stage.service.port, b"POST /data-action/redis HTTP/1.1\r\nX-Slow: ", b"a"):
        stage.calm(2)


def slow_bodies(stage: Stage[RedisProcess]) -> None:
    head = (
        f"POST /data-action/redis HTTP/1.1\r\nHost: chaos\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Length: 10000\r\n\r\n"
    )
    with dripping(stage.service.port, head.encode(), b" "):
        stage.calm(2)


SCENARIOS = (
    Scenario(
        "SIGHUP",
        "Two workers are replaced under load, three times.",
        proxied,
        reload_thrice,
        Bars(success=1.0),
        TWO_WORKERS,
    ),
    Scenario(
        "SIGTERM",
        "flowcache is ended under load and started again on the same port; calls in between find "
        "nobody.",
        proxied,
        end_and_start_again,
        Bars(also=(in_flight_are_answered,)),
    ),
    Scenario(
        "worker killed",
        "One of two workers gets SIGKILL; the calls it had are lost.",
        proxied,
        kill_worker,
        Bars(success=0.99),
        TWO_WORKERS,
    ),
    Scenario(
        "instance killed",
        "One of two flowcaches gets SIGKILL, and is started again; callers repeat at the other.",
        proxied,
        kill_instance,
        instances=2,
    ),
    Scenario(
        "overload",
        f"The only server answers {SLOW_SECONDS * 1000:.0f} ms late, and `http.max_in_flight` is "
        f"{MAX_IN_FLIGHT}: four times the load that this can carry.",
        behind_proxy,
        overload,
        Bars(also=(admitted_stay_flat, the_rest_is_told_at_once)),
        environment={"FLOWCACHE_HTTP_MAX_IN_FLIGHT": str(MAX_IN_FLIGHT)},
        rate=4 * CAPACITY,
    ),
    Scenario(
        "slow heads",
        f"{SLOW_CLIENTS} clients send a byte of their request's head a second.",
        alone,
        slow_heads,
        Bars(success=1.0),
    ),
    Scenario(
        "slow bodies",
        f"{SLOW_CLIENTS} clients send a byte of their request's body a second.",
        alone,
        slow_bodies,
        Bars(success=1.0),
    ),
)
