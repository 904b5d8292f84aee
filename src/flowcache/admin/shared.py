"""One piece of work for all who ask for it at the same time.

What somebody gets was begun after they asked, so it is never out of date: an operator who breaks
something and looks at ``/readyz`` sees it. Those who ask while the work goes on share the next one,
and there is a pause between two. So however many ask, the work is done a bounded number of times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from flowcache.ports import Clock

__all__ = ["Shared"]

T = TypeVar("T")


class Shared(Generic[T]):
    """Call it for what ``make`` returns; ``make`` runs at most once at a time.

    ``pause`` seconds pass from the end of a run to the begin of the next. A failure is shared like
    a result.
    """

    __slots__ = ("_clock", "_free_at", "_make", "_next", "_pause", "_turn")

    def __init__(self, make: Callable[[], Awaitable[T]], pause: float, clock: Clock) -> None:
        self._make = make
        self._pause = pause
        self._clock = clock
        self._next: asyncio.Task[T] | None = None
        """The run that has not begun yet."""
        self._turn = asyncio.Lock()
        self._free_at = clock()

    async def __call__(self) -> T:
        task = self._next
        if task is None:
            task = self._next = asyncio.create_task(self._run())
            task.add_done_callback(_heard)
        # shield: whoever is cancelled must not cancel the work for the others.
        return await asyncio.shield(task)

    async def _run(self) -> T:
        async with self._turn:
            if (pause := self._free_at - self._clock()) > 0:
                await asyncio.sleep(pause)
            self._next = None
            try:
                return await self._make()
            finally:
                self._free_at = self._clock() + self._pause


def _heard(task: asyncio.Task[T]) -> None:
    """Look at a failure that nobody waits for any more, or asyncio would log it as forgotten."""
    if not task.cancelled():
        task.exception()
