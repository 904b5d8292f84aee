"""One piece of work for all who ask for it at the same time, whose result is kept for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from flowcache.ports import Clock

__all__ = ["Shared"]

T = TypeVar("T")


class Shared(Generic[T]):
    """Call it for what ``make`` returns; it runs at most once at a time, and once in ``seconds``.

    A failure is shared and kept like a result: work that fails is as dear as work that succeeds.
    """

    __slots__ = ("_clock", "_good_until", "_make", "_seconds", "_task")

    def __init__(self, make: Callable[[], Awaitable[T]], seconds: float, clock: Clock) -> None:
        self._make = make
        self._seconds = seconds
        self._clock = clock
        self._task: asyncio.Task[T] | None = None
        self._good_until = 0.0

    async def __call__(self) -> T:
        task = self._task
        if task is None or (task.done() and self._clock() >= self._good_until):
            task = self._task = asyncio.create_task(self._run())
        if task.done():
            return task.result()
        # shield: whoever is cancelled must not cancel the work for the others.
        return await asyncio.shield(task)

    async def _run(self) -> T:
        try:
            return await self._make()
        finally:
            self._good_until = self._clock() + self._seconds
