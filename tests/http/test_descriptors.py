"""A service with few file descriptors: whoever opens many connections keeps no caller out."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

from tests.http.callers import request
from tests.servers import RedisProcess, eventually
from tests.service import service

CALL = request(operation="GET", key="k")
FILES = 64


class Crowd:
    """Open 200 connections over and over: some silent, some idle after a call, some half sent."""

    def __init__(self, port: int) -> None:
        self.opened = 0
        self._port = port
        self._over = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Crowd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            with ExitStack() as stack:
                for number in range(200):
                    try:
                        each = socket.create_connection(("127.0.0.1", self._port), timeout=10)
                        stack.enter_context(each)
                        each.sendall((b"", CALL, CALL[:20])[number % 3])
                    except OSError:
                        continue  # made room for others
                    self.opened += 1


def test_every_call_is_answered_with_few_descriptors(
    fresh_standalone: RedisProcess, tmp_path: Path
) -> None:
    """At ulimit -n 64, beside a client that opens 200 connections over and over."""
    environment = {
        "REDIS_NODES": f"127.0.0.1:{fresh_standalone.port}",
        "FLOWCACHE_AUDIT_JOURNAL": str(tmp_path / "audit.db"),
    }
    with service(environment, files=FILES) as running:
        with Crowd(running.port) as crowd:
            eventually(lambda: crowd.opened > 200, what="the crowd")
            for number in range(100):
                answer = running.call(operation="SET", key=f"k{number}", value=number)
                assert answer.data == "OK"
            assert running.inspect()["journal"][0]["fault"] is None
            assert running.is_ready()
        told = [json.loads(line) for line in running.log.splitlines() if line.startswith("{")]
        (low,) = [each for each in told if each["event"] == "file_descriptor_limit_too_low"]
        assert low["limit"] == FILES
        assert low["needed"] > 4096
        assert f"ulimit -n {low['needed']}" in low["remedy"]
        assert "can't accept a connection" not in running.log
