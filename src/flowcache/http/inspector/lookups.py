"""Looking records of the journal up for the inspector, without holding the calls up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from flowcache.errors import RateLimited
from flowcache.http.inspector.view import AuditFilter
from flowcache.ports import AuditRecord

__all__ = ["Lookups"]

_MOST = 4
"""Look-ups that are asked for at once, the one under way among them."""


class Lookups:
    """Look-ups of ``find``, which blocks, one after the other in a thread of their own.

    Each takes up to a fifth of a second of an interpreter that the calls need as well: two at once
    would take it twice as long, and end no sooner.
    """

    def __init__(self, find: Callable[[AuditFilter], Sequence[AuditRecord]]) -> None:
        self._find = find
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inspector")
        self._asked = 0

    async def __call__(self, wanted: AuditFilter) -> Sequence[AuditRecord]:
        """Return what ``find`` finds.

        Raises:
            RateLimited: too many are asked for at once.
        """
        if self._asked >= _MOST:
            raise RateLimited("The inspector is looked at by too many at once.", retry_after=1.0)
        self._asked += 1
        try:
            # Whoever hangs up takes their place in the line along, and leaves the thread its work.
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._find, wanted)
        finally:
            self._asked -= 1

    def close(self) -> None:
        """Begin no further look-up."""
        self._thread.shutdown(wait=False, cancel_futures=True)
