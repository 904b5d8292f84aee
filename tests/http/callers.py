"""Callers that keep the service busy, each as a decent HTTP client does it: a connection is kept
until an answer says that it closes, and a request that fails is a failure, never tried again."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.service import ROUTE, TOKEN

__all__ = ["Callers", "calling", "request"]

WAIT = 20.0


def request(**fields: object) -> bytes:
    """Write a data action."""
    body = json.dumps(fields).encode()
    head = f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


async def answer(reader: asyncio.StreamReader) -> tuple[str, bool]:
    """Return an answer's status, with the code of a failure, and whether it is the last of its
    connection."""
    async with asyncio.timeout(WAIT):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
    told = json.loads(body)
    assert told["success"] is (b" 200 " in head)
    outcome = " ".join((head[9:12].decode(), told.get("code", ""))).strip()
    return outcome, b"\r\nconnection: close\r\n" in head


class Callers:
    """So many callers at once, until told to stop."""

    def __init__(self, port: int, tls: ssl.SSLContext | None) -> None:
        self._port = port
        self._tls = tls
        self._call = request(operation="GET", key="k")
        self.outcomes: Counter[str] = Counter()
        """By status, or by what went wrong and when."""
        self.reconnects = True
        """Whether a caller whose connection has ended opens another one, or is done."""
        self.is_over = False

    async def keep_alive(self) -> None:
        """Call on one connection for as long as it may stay."""
        while self.reconnects and not self.is_over:
            await self._on_one_connection(kept=True)

    async def fresh(self) -> None:
        """Call on a new connection each time."""
        while self.reconnects and not self.is_over:
            await self._on_one_connection(kept=False)

    async def _on_one_connection(self, *, kept: bool) -> None:
        try:
            host = "127.0.0.1" if self._tls is None else "localhost"
            reader, writer = await asyncio.open_connection(host, self._port, ssl=self._tls)
        except OSError as fault:
            self.outcomes[f"connecting: {fault!r}"] += 1
            return
        try:
            while True:
                writer.write(self._call)
                outcome, is_last = await answer(reader)
                self.outcomes[outcome] += 1
                if is_last or not kept or self.is_over:
                    return
        except (OSError, EOFError, TimeoutError) as fault:
            self.outcomes[f"calling: {fault!r}"] += 1
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def calling(
    port: int, *, kept: int, fresh: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Callers]:
    """Keep so many callers busy; wait for their last answers at the end."""
    callers = Callers(port, tls)
    async with asyncio.TaskGroup() as group:
        for _ in range(kept):
            group.create_task(callers.keep_alive())
        for _ in range(fresh):
            group.create_task(callers.fresh())
        try:
            yield callers
        finally:
            callers.is_over = True
