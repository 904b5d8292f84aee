"""Work of the inspector that takes long, done beside the loop that serves the calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from flowcache.errors import RateLimited

__all__ = ["Aside"]

T = TypeVar("T")

_MOST = 8
"""Pieces of work that are asked for at once, the one under way among them."""


class Aside:
    """Do work that blocks in a thread of its own, one piece after the other.

    A look through the journal takes up to a fifth of a second, an answer of ten thousand records
    another twentieth, of an interpreter that the calls need as well: two at once would take it
    twice as long, and end no sooner.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inspector")
        self._asked = 0

    async def __call__(self, work: Callable[[], T]) -> T:
        """Return what ``work`` does.

        Raises:
            RateLimited: too much is asked for at once.
        """
        if self._asked >= _MOST:
            raise RateLimited("The inspector is looked at by too many at once.", retry_after=1.0)
        self._asked += 1
        try:
            # Whoever hangs up takes their place in the line along, and leaves the thread its work.
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._asked -= 1
