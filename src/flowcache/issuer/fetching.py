"""Reading an issuer's keys: from a file, or from where its URL says and nowhere else.

No redirect is followed, and no proxy of the environment used: ``http_proxy`` is set for programs
that call out, and would be handed what has to come from this very host.

Not by way of `outbound`: what that sends is secret, so it tells no reasons apart, and whoever sets
an issuer up needs the reason. And its loop would wait at its end for a resolver that hangs.
"""

from __future__ import annotations

import asyncio
import io
import socket
from concurrent.futures import Future
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["KeysFault", "fetch_keys", "read_keys"]

_TIMEOUT = 5.0
"""Seconds from the first byte that is sent to the last that is received."""

_WHOLE_TIMEOUT = 10.0
"""Seconds from the look-up of the host's name to the last byte."""

_MOST_BYTES = 1 << 20
_CONNECTIONS = {"http": HTTPConnection, "https": HTTPSConnection}


class KeysFault(Exception):
    """Keys can't be read; the text says why, and repeats nothing of what was received."""


async def fetch_keys(location: str, within: float = _WHOLE_TIMEOUT) -> bytes:
    """Return what `read_keys` does, if it does within so many seconds.

    Nobody waits for the thread that reads, not at the end of the process either: a resolver may
    take a minute, and can't be told to stop.

    Raises:
        KeysFault: it can't be read, or not in time.
    """
    read = Future[bytes]()
    read.set_running_or_notify_cancel()  # so that it takes what comes when nobody waits any more

    def run() -> None:
        try:
            read.set_result(read_keys(location))
        except Exception as fault:
            read.set_exception(fault)

    Thread(target=run, name="keys of the issuer", daemon=True).start()
    try:
        async with asyncio.timeout(within):
            return await asyncio.wrap_future(read)
    except TimeoutError:
        raise KeysFault(f"no answer within {within:g} s") from None


def read_keys(location: str, timeout: float = _TIMEOUT) -> bytes:
    """Return what is at a path, or at an ``https://`` (or ``http://``) URL. Blocks.

    Of a URL all the answer has to come within ``timeout`` seconds of the request; the connection
    before it may take as long, for each address of the host.

    Raises:
        KeysFault: it can't be read, whatever the reason is.
    """
    try:
        content = (
            _fetch(location, timeout)
            if location.partition("://")[0].lower() in _CONNECTIONS
            else _read(location)
        )
    except HTTPException as fault:
        raise KeysFault(f"no proper answer: {type(fault).__name__}") from None
    except OSError as fault:
        raise KeysFault(fault.strerror or str(fault) or type(fault).__name__) from None
    except ValueError:  # of urlsplit, and of a host that is no name
        raise KeysFault("no proper URL") from None
    if len(content) > _MOST_BYTES:
        raise KeysFault(f"longer than {_MOST_BYTES} bytes")
    return content


def _read(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(_MOST_BYTES + 1)


def _fetch(url: str, timeout: float) -> bytes:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = _CONNECTIONS[parts.scheme](parts.hostname or "", parts.port, timeout=timeout)
    with closing(connection):
        connection.connect()
        incoming = _Incoming(connection.sock, monotonic() + timeout)
        connection.request("GET", target, headers={"accept": "application/json"})
        response = HTTPResponse(cast(socket.socket, incoming), method="GET")
        response.begin()
        if response.status != 200:
            is_redirect = 300 <= response.status < 400
            note = ": redirects are not followed" if is_redirect else ""
            raise KeysFault(f"status {response.status}{note}")
        content = response.read(_MOST_BYTES + 1)
        if response.length and len(content) <= _MOST_BYTES:
            raise KeysFault("the answer broke off")
        return content


class _Incoming(io.RawIOBase):
    """What a socket receives until ``deadline``; its own time-out would begin with each byte."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        super().__init__()
        self._socket = connected
        self._deadline = deadline

    def makefile(self, _: str) -> io.BufferedReader:
        """Return what `HTTPResponse` asks of a socket: itself, to read."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)
        return self._socket.recv_into(buffer)
