"""A server of a few lines that answers what it is told, for what no real server can be made to do.

It lives on the test's own event loop and shakes hands as a healthy server would. Everything after
the handshake goes to the script, which says something or not:

    async with Scripted(lambda peer, request: peer.say(bulk(request[1]))) as server:
        ...  # GET is answered with its key
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, cast

import hiredis

from flowcache.store.settings import Address
from tests.servers.ports import LOOPBACK
from tests.store.harness import soon
from tests.store.resp import OK, array, bulk, hello, integer, serving

__all__ = ["Peer", "Request", "Script", "Scripted"]

Request = list[bytes]
Script = Callable[["Peer", Request], None]


class Peer(asyncio.Protocol):
    """One connection, as the server sees it. ``requests`` are those the handshake doesn't know."""

    def __init__(self, server: Scripted) -> None:
        self.requests: list[Request] = []
        self.is_open = False
        self._server = server
        self._reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True
        self._server.peers.append(self)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (request := self._reader.gets()) is not False:
            self._answer(cast(Request, request))

    def _answer(self, request: Request) -> None:
        name = request[0].upper()
        if name in self._server.handshake:
            self._server.handshaken.append(name)
            self.say(self._server.handshake[name])
            if self._server.ends_handshake:
                self.hang_up()
        else:
            self.requests.append(request)
            self._server.script(self, request)

    def connection_lost(self, fault: Exception | None) -> None:
        self.is_open = False

    def say(self, *replies: bytes) -> None:
        """Send bytes, all in one piece."""
        if self.is_open:
            self._transport.write(b"".join(replies))

    def hang_up(self) -> None:
        """End the connection once all that was said is out."""
        self._transport.close()


def _silence(peer: Peer, request: Request) -> None:
    """Say nothing."""


class Scripted:
    """Listen on the loopback address and do as the script says.

    ``handshake`` maps a command's name to its answer; b"" is silence. Tests may change it, and set
    ``ends_handshake`` to have the connection ended right behind such an answer.
    """

    def __init__(
        self,
        script: Script = _silence,
        *,
        mode: str = "standalone",
    ) -> None:
        self.script = script
        self.handshake = {
            b"HELLO": hello(mode),
            b"SELECT": OK,
            b"READONLY": OK,
            b"ROLE": array(bulk(b"master"), integer(0), array()),
        }
        self.handshaken: list[bytes] = []
        self.ends_handshake = False
        self.peers: list[Peer] = []
        self._is_cluster = mode == "cluster"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), LOOPBACK, 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = Address(host, port)
        if self._is_cluster:
            self.handshake[b"CLUSTER"] = serving(self.address)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for peer in self.peers:
            peer.hang_up()
        await soon(lambda: not any(peer.is_open for peer in self.peers))
        await self._server.wait_closed()

    @property
    def requests(self) -> list[Request]:
        """Return all that was asked beyond handshakes, connection by connection."""
        return [request for peer in self.peers for request in peer.requests]

    @property
    def talking(self) -> Peer:
        """Return the connection that asked last."""
        return next(peer for peer in reversed(self.peers) if peer.requests)

    async def asked(self, count: int = 1) -> Sequence[Request]:
        """Wait until that much was asked; return it."""
        await soon(lambda: len(self.requests) >= count)
        return self.requests
