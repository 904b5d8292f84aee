"""HTTP/1.1 over raw asyncio connections: one request at a time on each, kept open in between.

No HTTP library: most repeat a request by themselves when a kept connection turns out to be closed,
and here each attempt has to be seen and counted.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import msgspec

from chaos.history import LOST, OK, REFUSED, SILENT

__all__ = ["Answer", "Pool"]

PATIENCE_SECONDS = 5.0
CONNECTIONS = 1024
"""More than any deadline lets be in use at once; a call that finds none free counts as refused."""


class Answer(msgspec.Struct, frozen=True):
    """What came of one attempt."""

    outcome: str
    retryable: bool = False
    stale: bool = False
    data: Any = None


class _Metadata(msgspec.Struct, frozen=True):
    stale: bool = False


class _Envelope(msgspec.Struct, frozen=True):
    success: bool
    metadata: _Metadata
    data: Any = None
    code: str = ""
    retryable: bool = False


_DECODER = msgspec.json.Decoder(_Envelope)


class _Connection(asyncio.Protocol):
    """One connection; its answer goes to whoever sent last."""

    def __init__(self) -> None:
        self.closes = False
        """Whether it can't be used again."""
        self._received = b""
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: bytes) -> asyncio.Future[bytes]:
        """Send a request and return what will be the body of its answer."""
        assert self._transport is not None
        self._received = b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        head = head.lower()
        _, found, rest = head.partition(b"\r\ncontent-length:")
        if not found:
            self.close()
            return
        length = int(rest.partition(b"\r\n")[0])
        if len(body) < length:
            return
        if b"\r\nconnection: close" in head:
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(body[:length])

    def connection_lost(self, fault: Exception | None) -> None:
        self.closes = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the connection ended"))

    def close(self) -> None:
        self.closes = True
        if self._transport is not None:
            self._transport.close()


class Pool:
    """As many connections as calls are under way, up to `CONNECTIONS`; the last used goes first."""

    def __init__(self, port: int, token: str, tls: ssl.SSLContext | None = None) -> None:
        """Call the service that listens on ``port`` of the loopback, with TLS where it is given."""
        self._port = port
        self._tls = tls
        self._head = (
            f"POST /data-action/redis HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
            "Content-Length: "
        ).encode()
        self._idle: list[_Connection] = []
        self._in_use = 0

    async def call(self, body: bytes) -> Answer:
        """Post one body and return what came of it, whatever it was."""
        connection = await self._connection()
        if connection is None:
            return Answer(REFUSED)
        self._in_use += 1
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                raw = await connection.send(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
        except TimeoutError:
            connection.close()
            return Answer(SILENT)
        except ConnectionError:
            return Answer(LOST)
        finally:
            self._in_use -= 1
        if not connection.closes:
            self._idle.append(connection)
        return _read(raw)

    async def _connection(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closes:
                return connection
        if self._in_use >= CONNECTIONS:
            return None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                _, fresh = await loop.create_connection(
                    _Connection, "127.0.0.1", self._port, ssl=self._tls
                )
        except OSError:  # a TimeoutError is one
            return None
        return fresh

    def close(self) -> None:
        """Close what is idle; nothing else is left when all calls have returned."""
        for connection in self._idle:
            connection.close()


def _read(raw: bytes) -> Answer:
    try:
        envelope = _DECODER.decode(raw)
    except msgspec.MsgspecError:
        return Answer(f"not an answer: {raw[:80]!r}")
    outcome = OK if envelope.success else envelope.code
    return Answer(outcome, envelope.retryable, envelope.metadata.stale, envelope.data)
