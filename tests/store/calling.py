"""Callers who go on calling while something breaks, and remember what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic

from flowcache.errors import DeadlineExceeded, Failure, RedisUnavailable
from flowcache.ports import Command
from flowcache.store.redis_store import RedisStore

__all__ = ["Caller", "calling"]

PAUSE = 0.005


@dataclass
class Caller:
    """What came of one caller's calls. ``late`` is the most seconds a call went past its deadline.

    ``unknown`` counts the calls that were told not to be repeated.
    """

    answered: int = 0
    failed: int = 0
    unknown: int = 0
    late: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    is_done: bool = False

    async def call(self, store: RedisStore, make: Callable[[], Command], budget: float) -> None:
        """Call again and again, each time with ``budget`` seconds, until told that it is done."""
        while not self.is_done:
            deadline = monotonic() + budget
            try:
                await store.execute(make(), deadline)
            except (RedisUnavailable, DeadlineExceeded) as failure:
                self.failed += 1
                self.unknown += not failure.retryable
                self.failures.append(failure)
            else:
                self.answered += 1
            self.late = max(self.late, monotonic() - deadline)
            await asyncio.sleep(PAUSE)


@asynccontextmanager
async def calling(
    store: RedisStore, make: Callable[[], Command], *, budget: float = 0.3
) -> AsyncIterator[Caller]:
    """Have somebody call for as long as the block lasts; all calls have ended at its end."""
    caller = Caller()
    task = asyncio.create_task(caller.call(store, make, budget))
    try:
        yield caller
    finally:
        caller.is_done = True
        await task
