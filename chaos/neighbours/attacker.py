"""The attacker: a process of its own, bounded in time and count.

It is told an `Attack` on standard input, begins, and ends at a second line, or when its time or its
count is over. Then it says what came of its requests. It is polite to the machine (nice 10), so
that the neighbours' own process is on time; flowcache and Redis are what it is to hurt.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal, cast

import msgspec

__all__ = ["Attack", "Manner"]

Manner = Literal["ask", "drip", "do not read", "break off", "pour", "shake hands", "stay"]

NICE = 10
PATIENCE_SECONDS = 10.0
DRIP_SECONDS = 0.2
AGAIN_SECONDS = 0.02
"""How long to wait after a connection that failed: attackers that spin hurt the test alone."""
CONNECTING = 100
"""How many connections are opened at once."""
UNREAD_BYTES = 4 << 20
RECEIVED_BYTES = 4096
POURED = b"x" * (1 << 20)
POURED_BYTES = 64 << 20


class Attack(msgspec.Struct, frozen=True):
    """What to do. Each connection sends ``requests`` in turn, over and over."""

    requests: tuple[bytes, ...] = ()
    connections: int = 1
    rate: float | None = None
    """Requests a second of all connections together; None: as fast as answers come."""
    every: float | None = None
    """Seconds from one moment at which all connections send to the next; None: each when it can."""
    manner: Manner = "ask"
    most: int = 200_000
    """How many requests are sent at most."""
    seconds: float = 30.0
    """How long it lasts at most."""
    port: int = 0
    """Where flowcache listens."""
    ca: str | None = None
    """The authority of the service's certificate, where it speaks TLS."""


class Attacker:
    """All connections of one attack."""

    def __init__(self, attack: Attack) -> None:
        self._attack = attack
        self._tls = None
        if attack.ca is not None:
            self._tls = ssl.create_default_context(cafile=attack.ca)
        self.outcomes: Counter[str] = Counter()
        self._left = attack.most
        self._next = time.monotonic()
        self._opening = asyncio.Semaphore(CONNECTING)

    async def run(self, stop: asyncio.Event) -> None:
        """Attack until told to stop, or until time or count are over."""
        manner = _MANNERS[self._attack.manner]
        tasks = [
            asyncio.create_task(self._again_and_again(manner, number))
            for number in range(self._attack.connections)
        ]
        ended = asyncio.gather(*tasks)
        stopped = asyncio.create_task(stop.wait())
        with suppress(TimeoutError):
            async with asyncio.timeout(self._attack.seconds):
                await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, stopped):
            task.cancel()
        await asyncio.gather(*tasks, stopped, return_exceptions=True)
        with suppress(asyncio.CancelledError):
            await ended

    async def _again_and_again(self, manner: _Way, number: int) -> None:
        while self._left > 0:
            try:
                async with self._opening:
                    reader, writer = await self._connect()
            except OSError:
                self.outcomes["no connection"] += 1
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            try:
                await manner(self, number, reader, writer)
            except (OSError, asyncio.IncompleteReadError, ValueError, TimeoutError):
                self.outcomes["cut"] += 1
                await asyncio.sleep(AGAIN_SECONDS)
            finally:
                writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connection = socket.socket()
        connection.setblocking(False)
        if self._attack.manner == "do not read":
            # What the kernel doesn't take waits in flowcache's memory.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED_BYTES)
        try:
            await asyncio.get_running_loop().sock_connect(
                connection, ("127.0.0.1", self._attack.port)
            )
            named = None if self._tls is None else "127.0.0.1"
            return await asyncio.open_connection(
                sock=connection, ssl=self._tls, server_hostname=named
            )
        except BaseException:
            connection.close()
            raise

    async def turn(self) -> bool:
        """Wait until a request may be sent; return whether there is one left."""
        if self._attack.every is not None:
            await asyncio.sleep(self._attack.every - time.monotonic() % self._attack.every)
        if self._attack.rate is not None:
            now = time.monotonic()
            # What was missed for want of a connection is not made up for.
            self._next = max(self._next + 1 / self._attack.rate, now - 0.1)
            if self._next > now:
                await asyncio.sleep(self._next - now)
        self._left -= 1
        return self._left >= 0

    def request(self, number: int) -> bytes:
        """Return the request whose turn it is."""
        return self._attack.requests[number % len(self._attack.requests)]


_Way = Callable[[Attacker, int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _ask(
    self: Attacker, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send a request, read its answer, and so on."""
    while await self.turn():
        writer.write(self.request(number))
        number += 1
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            _, found, rest = head.partition(b"\r\ncontent-length:")
            await reader.readexactly(int(rest.partition(b"\r\n")[0]) if found else 0)
        self.outcomes[head[9:12].decode()] += 1
        if b"\r\nconnection: close" in head:
            return


async def _drip(
    self: Attacker, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send a request byte by byte."""
    if not await self.turn():
        return
    for byte in self.request(number):
        writer.write(bytes((byte,)))
        await writer.drain()
        self.outcomes["bytes"] += 1
        await asyncio.sleep(DRIP_SECONDS)
        if reader.at_eof():
            raise ConnectionResetError("cut")


async def _do_not_read(
    self: Attacker, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send requests, as many as the connection takes, and read no answer."""
    cast(asyncio.Transport, writer.transport).pause_reading()
    sent = 0
    while sent < UNREAD_BYTES and await self.turn():
        writer.write(self.request(number))
        sent += len(self.request(number))
        number += 1
        self.outcomes["sent"] += 1
        await writer.drain()
    await asyncio.sleep(PATIENCE_SECONDS)


async def _break_off(
    self: Attacker, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send half of a request, and hang up."""
    if await self.turn():
        writer.write(self.request(number)[: len(self.request(number)) // 2])
        await writer.drain()
        self.outcomes["half sent"] += 1
        await asyncio.sleep(AGAIN_SECONDS)


async def _pour(
    self: Attacker, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send a request, and then whatever the other side takes, until it ends the connection."""
    if await self.turn():
        writer.write(self.request(number))
        self.outcomes["sent"] += 1
        with suppress(OSError):
            for _ in range(POURED_BYTES // len(POURED)):
                writer.write(POURED)
                await writer.drain()
                self.outcomes["poured MiB"] += 1


async def _shake_hands(
    self: Attacker, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Do nothing with a connection but have it; with TLS the hands have been shaken."""
    if await self.turn():
        self.outcomes["connected"] += 1


async def _stay(
    self: Attacker, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Say nothing until the other side ends it."""
    if await self.turn():
        self.outcomes["connected"] += 1
        await reader.read()
        self.outcomes["ended by the server"] += 1


_MANNERS: dict[Manner, _Way] = {
    "ask": _ask,
    "drip": _drip,
    "do not read": _do_not_read,
    "break off": _break_off,
    "pour": _pour,
    "shake hands": _shake_hands,
    "stay": _stay,
}


async def _main() -> None:
    attack = msgspec.json.decode(sys.stdin.buffer.readline(), type=Attack)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def wait_for_the_end() -> None:
        os.read(sys.stdin.fileno(), 1)  # not buffered: at exit nobody holds a lock
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    attacker = Attacker(attack)
    await attacker.run(stop)
    sys.stdout.buffer.write(msgspec.json.encode(attacker.outcomes) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    os.nice(NICE)
    asyncio.run(_main())
