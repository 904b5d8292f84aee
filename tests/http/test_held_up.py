"""A worker that is held up, in a real service: what becomes of its calls, circuits and links."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.servers import RedisProcess, eventually
from tests.servers.proxy import Proxy
from tests.service import Answer, Service, service

CALLS = 16
DEADLINE_MS = 1500
PAUSE = 3.0
"""Seconds: longer than the deadline, and than Redis has for a reply before a link is reset."""
BODIES: list[dict[str, Any]] = [
    {"operation": "GET", "key": "k"},
    {"operation": "SET", "key": "k", "value": 1},
]


@pytest.fixture
def proxy(fresh_standalone: RedisProcess) -> Iterator[Proxy]:
    with Proxy(fresh_standalone.address) as proxy:
        yield proxy


@pytest.fixture
def running(proxy: Proxy) -> Iterator[Service]:
    environment = {
        "REDIS_NODES": f"127.0.0.1:{proxy.port}",
        "FLOWCACHE_DATA_DEADLINE_MS": str(DEADLINE_MS),
    }
    with service(environment) as running:
        running.call(operation="SET", key="k", value=0).data  # noqa: B018 - a miss asks twice
        yield running


@contextmanager
def stopped_worker(running: Service) -> Iterator[None]:
    """Stop the only worker with SIGSTOP for longer than any call may take, then let it go on."""
    pid = running.inspect("?limit=0")["workers"][0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
        time.sleep(PAUSE)  # the fault itself
    finally:
        os.kill(pid, signal.SIGCONT)


def under_way(running: Service) -> bool:
    return bool(running.inspect("?limit=0")["workers"][0]["inFlight"] == CALLS)


def calling(running: Service, pool: ThreadPoolExecutor) -> list[Any]:
    """Have so many calls wait for Redis."""
    made = [pool.submit(running.call, **BODIES[n % 2]) for n in range(CALLS)]
    eventually(lambda: under_way(running), what="all calls to wait for Redis")
    return made


def assert_nobody_blames_redis(running: Service) -> None:
    told = running.inspect("?limit=0")
    assert {circuit["state"] for circuit in told["circuits"]} == {"closed"}
    assert {circuit["transitions"] for circuit in told["circuits"]} == {0}
    assert {circuit["consecutiveFailures"] for circuit in told["circuits"]} == {0}
    assert [shard["primary"]["losses"] for shard in told["redis"][0]["shards"]] == [0]


def test_replies_that_came_during_a_pause_are_delivered(running: Service, proxy: Proxy) -> None:
    """A stopped worker hands out what Redis answered meanwhile, and says that it lagged."""
    with ThreadPoolExecutor(CALLS) as pool:
        proxy.drop("answers")
        made = calling(running, pool)
        with stopped_worker(running):
            proxy.restore()
        answers: list[Answer] = [each.result() for each in made]
    assert [answer.status for answer in answers] == [200] * CALLS
    assert_nobody_blames_redis(running)
    loop = running.inspect("?limit=0")["workers"][0]["eventLoop"]
    assert loop["longestLagMs"] >= PAUSE * 900
    assert loop["lostSeconds"] >= PAUSE * 0.9
    metrics = running.request("GET", "/metrics").body.decode()
    assert 'flowcache_event_loop_lag_seconds_bucket{le="1.048576"}' in metrics
    assert "flowcache_event_loop_lost_seconds_total" in metrics
    eventually(lambda: "event_loop_lagged" in running.log, what="the log line")


def test_calls_that_a_pause_cost_are_not_redis_failures(running: Service, proxy: Proxy) -> None:
    """Calls whose time the pause used up fail, and neither open a circuit nor reset a link."""
    with ThreadPoolExecutor(CALLS) as pool:
        proxy.drop("answers")
        made = calling(running, pool)
        with stopped_worker(running):
            pass
        answers: list[Answer] = [each.result() for each in made]
        proxy.restore()
    assert {answer.code for answer in answers} == {"deadline_exceeded"}
    assert_nobody_blames_redis(running)
    assert running.call(**BODIES[0]).status == 200
