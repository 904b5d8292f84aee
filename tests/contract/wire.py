"""HTTP byte by byte: what a client library would mend, or would not let through."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from tests.service import ROUTE, TOKEN, Answer

__all__ = ["Wire", "post", "wire"]


def post(
    body: bytes,
    *headers: str,
    version: str = "1.1",
    target: str = ROUTE,
    authorization: bytes | None = b"Bearer " + TOKEN.encode(),
    declares_length: bool = True,
) -> bytes:
    """Write a POST; ``headers`` are further lines."""
    lines = [f"POST {target} HTTP/{version}".encode(), b"Host: flowcache"]
    if authorization is not None:
        lines.append(b"Authorization: " + authorization)
    if declares_length:
        lines.append(b"Content-Length: %d" % len(body))
    lines.extend(header.encode() for header in headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Wire:
    """One connection."""

    def __init__(self, connection: socket.socket, stream: BinaryIO) -> None:
        self._connection = connection
        self._stream = stream

    def send(self, data: bytes) -> None:
        """Send bytes as they are. A server that hangs up early may already have answered."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._connection.sendall(data)

    def end(self) -> None:
        """Send nothing more, and go on listening."""
        self._connection.shutdown(socket.SHUT_WR)

    def receive(self, *, has_body: bool = True) -> Answer:
        """Return the next answer, an interim one (1xx) included."""
        version, _, rest = self._stream.readline().decode("ascii").partition(" ")
        assert version.startswith("HTTP/1."), f"no answer, but {version!r}"
        status = int(rest[:3])
        fields = http.client.parse_headers(self._stream)
        headers = {name.lower(): value for name, value in fields.items()}
        length = int(headers.get("content-length", 0)) if has_body else 0
        return Answer(status, headers, self._stream.read(length))

    def is_over(self) -> bool:
        """Wait until the server hangs up; tell whether it did so without another word."""
        return self._stream.read(1) == b""


@contextmanager
def wire(port: int) -> Iterator[Wire]:
    """Open a connection to flowcache."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
        connection.makefile("rb") as stream,
    ):
        yield Wire(connection, stream)
