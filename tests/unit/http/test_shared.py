"""Work that is shared: once for all who ask at the same time, and kept for a moment."""

from __future__ import annotations

import asyncio

import pytest

from flowcache.http.shared import Shared
from tests.unit.http.asgi import Clock


class Work:
    """Work that counts how often it is done; ``go`` lets it end."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.clock = Clock()
        self.done = 0
        self.go = asyncio.Event()
        self._fault = fault
        self.shared = Shared(self._work, 2.0, self.clock)

    async def _work(self) -> int:
        self.done += 1
        await self.go.wait()
        if self._fault is not None:
            raise self._fault
        return self.done


async def test_all_who_ask_at_once_share_one() -> None:
    """However many ask, the work is done once, and all have what came of it."""
    work = Work()
    asked = [asyncio.create_task(work.shared()) for _ in range(50)]
    await asyncio.sleep(0)
    work.go.set()
    assert await asyncio.gather(*asked) == [1] * 50


async def test_it_is_kept_for_a_moment_and_no_longer() -> None:
    """The time counts from when the work ended."""
    work = Work()
    work.go.set()
    assert await work.shared() == 1
    work.clock.now += 1.9
    assert await work.shared() == 1
    work.clock.now += 0.1
    assert await work.shared() == 2


async def test_whoever_is_cancelled_cancels_it_for_nobody() -> None:
    """The first to ask, too."""
    work = Work()
    first, second = (asyncio.create_task(work.shared()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    work.go.set()
    assert await second == 1


async def test_a_failure_is_shared_and_passes() -> None:
    """Work that fails is not done again for each who asks; after a moment it is tried again."""
    work = Work(OSError("away"))
    work.go.set()
    for _ in range(3):
        with pytest.raises(OSError, match="away"):
            await work.shared()
    assert work.done == 1
    work.clock.now += 2.0
    with pytest.raises(OSError, match="away"):
        await work.shared()
    assert work.done == 2
