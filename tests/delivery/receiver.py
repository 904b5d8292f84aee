"""CXone as a real HTTP server on loopback: token endpoint, discovery and intake, with faults.

It takes nothing that CXone would not: a token request has to be a form, in its body and not only by
its header; a batch has to show a token that was issued and is still good. The intake is also that
of a plain endpoint, with a token of its own.
"""

from __future__ import annotations

import json
import socket
import struct
from base64 import b64decode
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from flowcache.cxone.settings import CxoneSettings, Grant
from flowcache.secret import Secret

__all__ = ["CLIENT", "KEY", "TENANT", "Batch", "Fault", "Receiver", "receiver"]

CLIENT = ("client of the tests", "client-secret:with+signs&=%")
KEY = ("access-key-id", "access-key-secret/with+signs&=%")
TENANT = "tenant one&two"
PATH = "/audit/in"
ENDPOINT_TOKEN = "endpoint-token-of-the-tests"


@dataclass(frozen=True)
class Fault:
    """What happens in place of an answer: a ``status``, or else a reset, or no answer at all."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    silent: bool = False


RESET = Fault()
SILENCE = Fault(silent=True)


@dataclass(frozen=True)
class Batch:
    """A batch that was taken."""

    key: str
    kind: str
    body: bytes
    token: str

    @property
    def lines(self) -> list[bytes]:
        if self.kind == "application/json":
            return [json.dumps(each).encode() for each in json.loads(self.body)]
        return self.body.splitlines()


class Receiver:
    """What the server knows and has seen."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.issued: list[str] = []
        self.good: set[str] = {ENDPOINT_TOKEN}
        self.expires_in: Any = 3600
        self.api_endpoint: str | None = f"{self.url}/api"
        self.token_faults: deque[Fault] = deque()
        self.intake_faults: deque[Fault] = deque()
        self.discovery_faults: deque[Fault] = deque()
        self.attempts: list[str] = []
        """The path of every request, whatever came of it."""
        self.keys: list[str] = []
        """The key of every batch that was sent, taken or not."""
        self.batches: list[Batch] = []
        self.released = Event()
        """Set at the end, for those who were not answered."""

    @property
    def lines(self) -> list[bytes]:
        """All records that were taken, in the order they came."""
        return [line for batch in self.batches for line in batch.lines]

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def expire(self) -> None:
        """Let no token that was issued be good any more."""
        self.good -= set(self.issued)

    def cxone(self, grant: Grant = Grant.CLIENT_CREDENTIALS, **fields: Any) -> CxoneSettings:
        """Return the settings of a client of this CXone."""
        known: dict[str, Any] = {
            "audit_path": PATH,
            "client_id": CLIENT[0],
            "client_secret": Secret(CLIENT[1]),
            "grant": grant,
            "auth_base": self.url,
        }
        if grant is Grant.CLIENT_CREDENTIALS:
            known["api_base"] = f"{self.url}/api"
        else:
            known |= {"access_key_id": KEY[0], "access_key_secret": Secret(KEY[1])}
            known["tenant_id"] = TENANT
        return CxoneSettings(**(known | fields))


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Run the server for a while."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who called is gone
    known = Receiver(server.server_address[1])
    server.known = known  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield known
    finally:
        known.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would hold a body back until the head was acknowledged

    @property
    def known(self) -> Receiver:
        known: Receiver = self.server.known  # type: ignore[attr-defined]
        return known

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.known.attempts.append(url.path)
        if url.path != "/.well-known/cxone-configuration":
            return self._answer(404)
        if self._faults(self.known.discovery_faults):
            return None
        if parse_qs(url.query) != {"tenantId": [TENANT]}:
            return self._answer(400)
        return self._answer(200, {"api_endpoint": self.known.api_endpoint, "area": "na1"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.known.attempts.append(self.path)
        routes = {
            "/api/api/v2/oauth/token": self._client_credentials,
            "/auth/token": self._access_key,
            f"/api{PATH}": self._take,
        }
        route = routes.get(self.path)
        if route is None:
            return self._answer(404)
        return route(body)

    def _client_credentials(self, body: bytes) -> None:
        self._grant(
            body,
            {
                "grant_type": ["client_credentials"],
                "client_id": [CLIENT[0]],
                "client_secret": [CLIENT[1]],
                "scope": ["api:read"],
            },
        )

    def _access_key(self, body: bytes) -> None:
        kind, _, basic = self.headers.get("authorization", "").partition(" ")
        pairs = parse_qs("id={}&secret={}".format(*b64decode(basic).decode().split(":")))
        if kind != "Basic" or pairs != {"id": [CLIENT[0]], "secret": [CLIENT[1]]}:
            return self._answer(401)
        form = {"grant_type": ["password"], "username": [KEY[0]], "password": [KEY[1]]}
        return self._grant(body, form)

    def _grant(self, body: bytes, wanted: dict[str, list[str]]) -> None:
        if self._faults(self.known.token_faults):
            return None
        if self.headers["content-type"] != "application/x-www-form-urlencoded":
            return self._answer(415)
        if parse_qs(body.decode()) != wanted:
            return self._answer(400, {"error": "invalid_request", "echo": body.decode()})
        token = f"issued-token-{len(self.known.issued)}"
        self.known.issued.append(token)
        self.known.good.add(token)
        answer = {"access_token": token, "token_type": "Bearer"}
        return self._answer(200, answer | {"expires_in": self.known.expires_in})

    def _take(self, body: bytes) -> None:
        self.known.keys.append(self.headers["idempotency-key"])
        if self._faults(self.known.intake_faults):
            return None
        kind, _, token = self.headers.get("authorization", "").partition(" ")
        if kind != "Bearer" or token not in self.known.good:
            return self._answer(401, {"echo": token})
        key, content = self.headers["idempotency-key"], self.headers["content-type"]
        self.known.batches.append(Batch(key, content, body, token))
        return self._answer(202)

    def _faults(self, faults: deque[Fault]) -> bool:
        """Do what is wrong next, if anything is."""
        if not faults:
            return False
        fault = faults.popleft()
        if fault.status is not None:
            self._answer(fault.status, {"echo": "what was sent"}, fault.headers)
            return True
        if fault.silent:
            self.known.released.wait()
        # A reset, and not an orderly end of the connection.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
        return True

    def _answer(
        self, status: int, content: object = None, headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
