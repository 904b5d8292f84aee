"""A line before dear work: in turn, bounded, and left by whoever is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from flowcache.admin.line import Line
from flowcache.errors import Overloaded


class Work:
    """Work that ends when a test lets it; ``begun`` are the pieces that began."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.begun: list[int] = []
        self.go = asyncio.Semaphore(0)

    async def piece(self, number: int) -> int:
        async with self._line:
            self.begun.append(number)
            await self.go.acquire()
            return number

    def start(self, *numbers: int) -> list[asyncio.Task[int]]:
        return [asyncio.create_task(self.piece(number)) for number in numbers]


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_pieces_are_done_one_after_the_other() -> None:
    """None begins before the one before it has ended, and they keep their order."""
    work = Work(Line(8))
    asked = work.start(0, 1, 2)
    await turns()
    assert work.begun == [0]
    work.go.release()
    await turns()
    assert work.begun == [0, 1]
    work.go.release()
    work.go.release()
    assert await asyncio.gather(*asked) == [0, 1, 2]


async def test_more_than_may_wait_are_refused_at_once() -> None:
    """Whoever finds the line full is told when to come again, and then gets in."""
    work = Work(Line(3))
    asked = work.start(0, 1, 2)
    await turns()
    with pytest.raises(Overloaded) as refused:
        await work.piece(3)
    assert refused.value.retry_after == 1.0
    for _ in range(4):
        work.go.release()
    await asyncio.gather(*asked)
    assert await work.piece(4) == 4


async def test_whoever_is_cancelled_leaves_the_line() -> None:
    """In the line or at work: neither keeps anybody out, and what nobody waits for is not begun."""
    work = Work(Line(3))
    asked = work.start(0, 1, 2)
    await turns()
    for each in asked:
        each.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    later = work.start(3, 4, 5)
    for _ in range(3):
        work.go.release()
    assert await asyncio.gather(*later) == [3, 4, 5]
    assert work.begun == [0, 3, 4, 5]


async def test_what_fails_takes_no_place() -> None:
    """A fault is the asker's own, and the next piece is done."""
    line = Line(2)
    for _ in range(5):
        with pytest.raises(OSError, match="no journal"):
            async with line:
                raise OSError("no journal")
    async with line:
        pass
