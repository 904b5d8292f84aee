"""A proxy to a Redis server that answers some commands with a lie, and hands on all others.

It runs in a thread of its own. On each connection it handles one command after the other, so that a
reply always belongs to the command that it follows.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from types import TracebackType
from typing import Self

import hiredis

from tests.servers.ports import LOOPBACK

__all__ = ["Liar", "Lie"]

Lie = Callable[[Sequence[bytes]], bytes | None]
"""Return the reply to a command, or None to have the server answer it."""


class Liar:
    """Forward a port of the loopback address to a server; ``lie`` may be changed at any time."""

    def __init__(self, target: tuple[str, int], lie: Lie = lambda command: None) -> None:
        self.lie = lie
        self.lies = 0
        """How many commands were answered with a lie."""
        self._target = target
        self._listener = socket.create_server((LOOPBACK, 0))
        self.address: tuple[str, int] = (LOOPBACK, self._listener.getsockname()[1])
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, name="liar", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, sock=self._listener)
        )
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError, asyncio.CancelledError):
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            with closing(server_writer):
                commands, replies = hiredis.Reader(), hiredis.Reader()
                while data := await reader.read(1 << 16):
                    commands.feed(data)
                    while (command := commands.gets()) is not False:
                        lie = self.lie(command)
                        if lie is not None:
                            self.lies += 1
                            writer.write(lie)
                            continue
                        server_writer.write(hiredis.pack_command(tuple(command)))
                        while True:
                            data = await server_reader.read(1 << 16)
                            if not data:
                                return
                            writer.write(data)
                            replies.feed(data)
                            if replies.gets() is not False:
                                break
