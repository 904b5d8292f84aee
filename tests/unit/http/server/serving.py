"""A listener on a real socket with an application of the tests, and a client that sends bytes."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, cast

from flowcache.api.envelope import refusals
from flowcache.server.asgi import Receive, Scope, Send
from flowcache.server.connection import State
from flowcache.server.listener import ConnectionLimits, Listener
from tests.unit.http.asgi import Answered, Clock

__all__ = [
    "WAIT",
    "Application",
    "Client",
    "Secure",
    "Served",
    "TlsPair",
    "happens",
    "post",
    "served",
]

WAIT = 10.0
"""Seconds after which a test that waits for the server has failed."""


class Application:
    """An application whose paths are what it does; ``/…`` anything else echoes the request."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.messages: list[str] = []
        self.scopes: list[Scope] = []
        self.gate = asyncio.Event()
        """What ``/wait`` waits for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.begun.append(path)
        self.scopes.append(scope)
        try:
            act = getattr(self, path.strip("/").replace("-", "_"), self.echo)
            await act(scope, receive, send)
        finally:
            self.ended.append(path)

    async def echo(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            self.messages.append(message["type"])
            if message["type"] == "http.disconnect":
                await reply(send, b"broke off", 400)
                return
            body += message["body"]
            more = message["more_body"]
        told = {
            "method": scope["method"],
            "path": scope["path"],
            "query": scope["query_string"].decode(),
            "version": scope["http_version"],
            "body": body.decode("latin-1"),
        }
        await reply(send, json.dumps(told).encode())

    async def unread(self, scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send, b"unread", 401)

    async def late_unread(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.gate.wait()
        await reply(send, b"unread", 401)

    async def listens(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        listening = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await reply(send, b"answered")
        self.messages.append((await listening)["type"])

    async def wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.gate.wait()
        await self.echo(scope, receive, send)

    async def gone(self, scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            self.messages.append(message["type"])
            if message["type"] == "http.disconnect":
                break
        await self.gate.wait()
        await reply(send, b"nobody reads this")

    async def big(self, scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send, b"x" * int(scope["query_string"]))

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"three"})

    async def flood(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await send({"type": "http.response.body"})

    async def silent(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async def fail(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("kept quiet")

    async def fail_late(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("kept quiet")

    async def split(self, scope: Scope, receive: Receive, send: Send) -> None:
        fields = [(b"x-header", b"a\r\nx-other: b")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"split"})

    async def empty(self, scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send, b"", 204)


async def reply(send: Send, body: bytes, status: int = 200) -> None:
    fields = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def post(path: str = "/", body: bytes = b"", *lines: str, method: str = "POST") -> bytes:
    """Write a request."""
    head = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


async def happens(condition: Callable[[], bool]) -> None:
    """Let the loop turn until the condition holds."""
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110 - the server has no events for tests
            await asyncio.sleep(0)


class Secure(asyncio.Protocol):
    """The client's side of TLS: each side ends by itself, which asyncio's own can't."""

    def __init__(self, above: asyncio.StreamReaderProtocol, context: ssl.SSLContext) -> None:
        self.above = above
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.wire: asyncio.Transport
        self.shaken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.said_goodbye = False
        """Whether the server ended its side as TLS does."""

    def connection_made(self, transport: Any) -> None:
        self.wire = transport
        self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        self.incoming.write(data)
        try:
            if not self.shaken.done():
                self.tls.do_handshake()
                self.shaken.set_result(None)
            while part := self._read():
                self.above.data_received(part)
            self.said_goodbye = True
            self.above.eof_received()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as fault:
            self.connection_lost(ConnectionAbortedError(str(fault)))
        if said := self.outgoing.read():
            self.wire.write(said)

    def _read(self) -> bytes:
        try:
            return self.tls.read(65536)
        except ssl.SSLZeroReturnError:
            return b""

    def eof_received(self) -> bool:
        self.above.eof_received()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.shaken.done():
            self.shaken.set_exception(exc or ConnectionResetError())
        self.above.connection_lost(exc)

    def pause_writing(self) -> None:
        self.above.pause_writing()

    def resume_writing(self) -> None:
        self.above.resume_writing()

    def encrypted(self, data: bytes) -> bytes:
        """Return the records that carry ``data``."""
        self.tls.write(data)
        return self.outgoing.read()

    def write(self, data: bytes) -> None:
        if data and not self.wire.is_closing():
            self.wire.write(self.encrypted(data))

    def write_eof(self) -> None:
        with suppress(ssl.SSLError):
            self.tls.unwrap()
        self.wire.write(self.outgoing.read())

    def close(self) -> None:
        self.wire.close()

    def abort(self) -> None:
        self.wire.abort()

    def is_closing(self) -> bool:
        return self.wire.is_closing()

    def pause_reading(self) -> None:
        self.wire.pause_reading()

    def resume_reading(self) -> None:
        self.wire.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.wire.get_extra_info(name, default)


class Client:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)

    def end(self) -> None:
        """Send nothing more, and go on listening."""
        self.writer.write_eof()

    async def receive(self, *, has_body: bool = True) -> Answered:
        """Return the next answer."""
        async with asyncio.timeout(WAIT):
            head = await self.reader.readuntil(b"\r\n\r\n")
            line, *fields = head.decode("latin-1").split("\r\n")[:-2]
            status = int(line.split(" ")[1])
            headers = {n.lower(): v for n, v in (field.split(": ", 1) for field in fields)}
            assert len(headers) == len(fields)
            body = b""
            if "content-length" in headers and has_body:
                body = await self.reader.readexactly(int(headers["content-length"]))
            elif headers.get("transfer-encoding") == "chunked" and has_body:
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    body += await self.reader.readexactly(size)
                    assert await self.reader.readexactly(2) == b"\r\n"
                assert await self.reader.readexactly(2) == b"\r\n"
            return Answered(status, headers, body)

    async def ask(self, *arguments: Any, **fields: Any) -> Answered:
        """Send a request and return its answer."""
        self.send(post(*arguments, **fields))
        return await self.receive()

    async def is_over(self) -> bool:
        """Wait until the server closes; tell whether it did so without another word."""
        async with asyncio.timeout(WAIT):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    def reset(self) -> None:
        """Hang up without a word: the server learns of it at once."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


class TlsPair(NamedTuple):
    """What both sides of TLS go by."""

    server: ssl.SSLContext
    client: ssl.SSLContext


async def _secure(
    plain: socket.socket, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 16)
    above = asyncio.StreamReaderProtocol(reader)
    secure = Secure(above, context)
    await loop.create_connection(lambda: secure, sock=plain)
    above.connection_made(cast(asyncio.Transport, secure))
    async with asyncio.timeout(WAIT):
        await secure.shaken
    return reader, asyncio.StreamWriter(cast(asyncio.Transport, secure), above, reader, loop)


class Served:
    """A listener, its application, and the clock that both go by."""

    def __init__(
        self, limits: ConnectionLimits, tls: TlsPair | None, app: Application | None = None
    ) -> None:
        self.app = app or Application()
        self._tls = tls
        self.clock = Clock()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self.listener = Listener(
            self.app,
            self._socket,
            limits,
            clock=self.clock,
            now=lambda: 1_700_000_000.0,
            refuse=refusals(),
            tls=tls and tls.server,
        )
        self._clients: list[Client] = []

    async def connect(self, *, buffer: int | None = None, secure: bool = True) -> Client:
        """Open a connection; ``buffer`` bounds what the kernel takes from the server for us.

        It speaks TLS where the server does, unless it is not to be ``secure``.
        """
        plain = socket.socket()
        if buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        plain.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", self.port))
        except OSError:
            plain.close()
            raise
        if self._tls is None or not secure:
            reader, writer = await asyncio.open_connection(sock=plain, limit=1 << 16)
        else:
            reader, writer = await _secure(plain, self._tls.client)
        client = Client(reader, writer)
        self._clients.append(client)
        return client

    def shrink(self) -> None:
        """Let the kernel take little of what is sent on the connections made from now on."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    @property
    def states(self) -> list[State]:
        """The states of all connections, in order."""
        return sorted(connection.state for connection in self.listener.connections)

    async def until(self, *states: State) -> None:
        """Wait until the connections are in these states."""
        await happens(lambda: self.states == sorted(states))

    def later(self, seconds: float) -> None:
        """Let time pass, and the sweep look at it."""
        self.clock.now += seconds
        self.listener.sweep()

    async def close(self) -> None:
        """End everything."""
        self.app.gate.set()
        for client in self._clients:
            try:
                async with asyncio.timeout(WAIT):
                    await client.close()
            except TimeoutError:  # a test that failed has left unsent what nobody takes
                client.writer.transport.abort()
        if self._socket.fileno() >= 0:
            await self.listener.drain(0, WAIT)


@asynccontextmanager
async def served(
    limits: ConnectionLimits = ConnectionLimits(),  # noqa: B008 - immutable
    tls: TlsPair | None = None,
    app: Application | None = None,
) -> AsyncIterator[Served]:
    """Serve for a while, over TLS if there is what it goes by."""
    there = Served(limits, tls, app)
    there.listener.start()
    try:
        yield there
    finally:
        await there.close()
