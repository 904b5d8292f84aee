"""flowcache itself as a real process, and a client that calls it as a flow would."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.servers import eventually
from tests.servers.ports import PortClaim

__all__ = ["CONTROL_TOKEN", "INSPECTOR_TOKEN", "ROUTE", "TOKEN", "Answer", "Service", "service"]

TOKEN = "flow-token-of-the-tests"
INSPECTOR_TOKEN = "inspector-token-of-the-tests"
CONTROL_TOKEN = "control-token-of-the-tests"
ROUTE = "/data-action/redis"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; ``json`` is its body decoded."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        """The data of a call that succeeded; fails the test when it did not."""
        answer = self.json
        assert self.status == 200, answer
        assert answer["success"] is True, answer
        return answer["data"]

    @property
    def code(self) -> str:
        """The code of a call that failed; fails the test when it did not."""
        answer = self.json
        assert answer["success"] is False, answer
        code: str = answer["code"]
        return code


class _InOneWrite(http.client.HTTPConnection):
    """Sends head and body together, as most clients do: flowcache takes such requests directly."""

    _parts: list[bytes] | None = None

    def request(self, *arguments: Any, **named: Any) -> None:
        self._parts = []
        super().request(*arguments, **named)
        parts, self._parts = self._parts, None
        super().send(b"".join(parts))

    def send(self, data: Any) -> None:
        if self._parts is None:
            super().send(data)
        else:
            self._parts.append(data)


class Service:
    """A running flowcache."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.token = TOKEN
        self.inspector_token = INSPECTOR_TOKEN
        self.control_token = CONTROL_TOKEN
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    @property
    def directory(self) -> Path:
        """Where it keeps its files while it runs."""
        return self._log.parent

    @property
    def log(self) -> str:
        """All that the process wrote to its standard output and error so far."""
        return self._log.read_text(errors="replace")

    def call(self, **fields: Any) -> Answer:
        """Post a data action as a flow would."""
        return self.post(json.dumps(fields).encode())

    def post(
        self, body: bytes | Iterator[bytes], headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Post any body to the data action's route, with the flow's token."""
        sent = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        return self.request("POST", ROUTE, body, sent | dict(headers or {}))

    def inspect(self, query: str = "") -> Any:
        """Return what GET /inspector says."""
        answer = self.request(
            "GET", f"/inspector{query}", None, {"authorization": f"Bearer {self.inspector_token}"}
        )
        assert answer.status == 200, answer.body
        return answer.json

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> Answer:
        """Make one HTTP request on a connection of its own. An iterator is sent in chunks."""
        kind = http.client.HTTPConnection if isinstance(body, Iterator) else _InOneWrite
        connection = kind("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(
                method, path, body, dict(headers or {}), encode_chunked=not isinstance(body, bytes)
            )
            response = connection.getresponse()
            content = response.read()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, content)
        finally:
            connection.close()

    def is_ready(self) -> bool:
        """Whether /readyz says that Redis answers."""
        return self.request("GET", "/readyz").status == 200

    def wait_ready(self) -> None:
        """Wait until Redis answers."""
        eventually(self.is_ready, what="flowcache to be ready", ignoring=(OSError,))

    def stop(self) -> int:
        """End it as an operator would, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"flowcache did not stop; it said:\n{self.log}") from None


@contextmanager
def service(
    environment: Mapping[str, str],
    *arguments: str,
    ready: bool = True,
    port: int | None = None,
    output: Path | None = None,
    files: int | None = None,
    launcher: Sequence[str] = (),
) -> Iterator[Service]:
    """Run flowcache with ``environment`` and further ``arguments`` of ``serve`` for a while.

    ``port`` is that of an earlier one which this one follows; any free one by default. ``output``
    is a file for its standard output, which is in the log by default. ``files`` is its limit of
    file descriptors. ``launcher`` is a command that starts flowcache in its own place, as
    ``("taskset", "--cpu-list", "0")``.
    """
    with tempfile.TemporaryDirectory() as directory, PortClaim() as claim:
        log = Path(directory) / "log"
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FLOWCACHE_", "REDIS_", "SERVICE_", "CXONE_"))
        }
        given = {
            "SERVICE_BEARER_TOKEN": TOKEN,
            "FLOWCACHE_INSPECTOR_TOKEN": INSPECTOR_TOKEN,
            "FLOWCACHE_INSPECTOR_CONTROL_TOKEN": CONTROL_TOKEN,
            "TMPDIR": directory,
            # Tests that show wrong credentials share an address and a service.
            "FLOWCACHE_AUTH_FAILURES_PER_MINUTE": "1000000",
        }
        port = claim.port if port is None else port
        command = [*launcher, sys.executable, "-m", "flowcache", "serve", "--port", str(port)]
        with log.open("wb") as errors, (output or log).open("ab") as out:
            process = subprocess.Popen(
                [*command, *arguments],
                env=inherited | given | dict(environment),
                stdout=errors if output is None else out,
                stderr=errors,
                preexec_fn=None if files is None else partial(_limit_files, files),
            )
        running = Service(process, port, log)
        try:
            eventually(lambda: _listens(running), what="flowcache to listen")
            if ready:
                running.wait_ready()
            yield running
        finally:
            running.stop()


def _limit_files(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _listens(running: Service) -> bool:
    if running.process.poll() is not None:
        raise RuntimeError(f"flowcache ended with {running.process.returncode}:\n{running.log}")
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", running.port)) == 0
