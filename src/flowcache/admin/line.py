"""A bounded queue for expensive work: one piece at a time."""

from __future__ import annotations

import asyncio
from types import TracebackType

from flowcache.errors import Overloaded

__all__ = ["Line"]


class Line:
    """Use it as ``async with``: the block is entered when those before have left theirs.

    Raises:
        Overloaded: ``most`` are in the line, the one whose turn it is among them.
    """

    __slots__ = ("_asked", "_lock", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._asked = 0
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        if self._asked >= self._most:
            raise Overloaded("Too many ask for this page at once.")
        self._asked += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._asked -= 1
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._asked -= 1
        self._lock.release()
