"""Work that is shared: once for all who ask at the same time, and never out of date."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from flowcache.admin.shared import Shared

PAUSE = 0.05


class Work:
    """Work that notes when it was begun; ``go`` lets it end."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.began: list[float] = []
        self.go = asyncio.Event()
        self._fault = fault
        self.shared = Shared(self._work, PAUSE, monotonic)

    async def _work(self) -> int:
        self.began.append(monotonic())
        await self.go.wait()
        if self._fault is not None:
            raise self._fault
        return len(self.began)


async def ask(work: Work, times: int) -> list[asyncio.Task[int]]:
    """Ask at once; return when all have asked and, unless others are before them, it has begun."""
    asked = [asyncio.create_task(work.shared()) for _ in range(times)]
    for _ in range(3):
        await asyncio.sleep(0)
    return asked


async def test_all_who_ask_at_once_share_one() -> None:
    """However many ask, the work is done once, and all have what came of it."""
    work = Work()
    asked = await ask(work, 50)
    work.go.set()
    assert await asyncio.gather(*asked) == [1] * 50


async def test_who_asks_while_it_goes_on_gets_what_is_begun_afterwards() -> None:
    """What somebody gets is never older than their question; they share the next run."""
    work = Work()
    first = await ask(work, 1)
    later = await ask(work, 20)
    work.go.set()
    assert await asyncio.gather(*first, *later) == [1] + [2] * 20


async def test_there_is_a_pause_between_two() -> None:
    """Asked again and again, it takes a bounded part of the time."""
    work = Work()
    work.go.set()
    assert [await work.shared() for _ in range(3)] == [1, 2, 3]
    first, second, third = work.began
    assert second - first >= PAUSE
    assert third - second >= PAUSE


async def test_whoever_is_cancelled_cancels_it_for_nobody() -> None:
    """The first to ask, too."""
    work = Work()
    first, second = await ask(work, 2)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    work.go.set()
    assert await second == 1


async def test_a_failure_is_shared_and_passes() -> None:
    """Work that fails is not done again for each who asks; the next run may succeed."""
    work = Work(OSError("away"))
    asked = await ask(work, 3)
    work.go.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each) for each in answers] == [OSError] * 3
    assert len(work.began) == 1
    with pytest.raises(OSError, match="away"):
        await work.shared()
    assert len(work.began) == 2


async def test_a_failure_that_nobody_waits_for_is_not_logged_as_forgotten() -> None:
    """The asker hung up: there is nobody to tell."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    work = Work(OSError("away"))
    (asked,) = await ask(work, 1)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    work.go.set()
    with pytest.raises(OSError, match="away"):
        await work.shared()
    assert complaints == []
