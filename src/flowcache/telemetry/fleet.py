"""The workers of one service as one: each answers the others over a Unix socket.

Every worker listens on a socket of its own in a directory that the supervisor made for them, only
readable by their user, and hands whoever connects its report: bytes, opaque here. To gather, a
worker asks each socket there is. One that does not answer in time, or has died, is left out.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["Fleet"]

_PATIENCE = 0.5
"""Seconds a sibling has to hand over its report."""
_MOST_BYTES = 64 * 1024 * 1024


class Fleet:
    """This worker among its siblings."""

    def __init__(self, directory: Path, report: Callable[[], bytes]) -> None:
        self._directory = directory
        self._path = directory / f"{os.getpid()}.worker"
        self._report = report
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        """Listen for siblings."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._hand_over, self._path)

    async def close(self) -> None:
        """Stop listening and leave the directory."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        self._path.unlink(missing_ok=True)

    async def _hand_over(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(self._report())
            await writer.drain()
        except ConnectionError:
            pass  # the sibling gave up; it says so itself
        finally:
            writer.close()

    async def gather(self) -> list[bytes]:
        """Return the reports of all workers, this one's first."""
        others = [path for path in self._directory.glob("*.worker") if path != self._path]
        reports = await asyncio.gather(*(_ask(path) for path in sorted(others)))
        return [self._report(), *(report for report in reports if report)]


async def _ask(path: Path) -> bytes:
    """Return a sibling's report; empty when it is gone, or too slow."""
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_unix_connection(path, limit=_MOST_BYTES)
            try:
                return await reader.read(-1)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""
