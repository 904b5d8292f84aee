"""Work beside the loop, when several pieces are asked for at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from threading import Lock, Semaphore, current_thread

import pytest

from flowcache.errors import RateLimited
from flowcache.http.inspector.aside import Aside
from tests.store.harness import soon


class Work:
    """Pieces of work that end as soon as a test lets them; ``begun`` are those that began."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.let = Semaphore(0)
        self._one = Lock()

    def piece(self, number: int) -> Callable[[], str]:
        def do() -> str:
            assert self._one.acquire(blocking=False), "two pieces at once"
            assert current_thread().name.startswith("inspector")
            try:
                self.begun.append(number)
                self.let.acquire()
                return f"done {number}"
            finally:
                self._one.release()

        return do


@pytest.fixture
def work() -> Iterator[Work]:
    made = Work()
    yield made
    made.let.release(100)


async def test_pieces_are_done_one_after_the_other(work: Work) -> None:
    """Each returns what it did, in turn, and none is done beside another."""
    aside = Aside()
    asked = [asyncio.create_task(aside(work.piece(n))) for n in range(4)]
    work.let.release(4)
    assert await asyncio.gather(*asked) == [f"done {n}" for n in range(4)]
    assert work.begun == [0, 1, 2, 3]


async def test_a_few_may_wait_and_more_are_told_to_come_again(work: Work) -> None:
    """The line is short: whoever finds it full learns when to come again, and then gets in."""
    aside = Aside()
    asked = [asyncio.create_task(aside(work.piece(n))) for n in range(8)]
    await soon(lambda: work.begun)
    with pytest.raises(RateLimited) as refused:
        await aside(work.piece(8))
    assert refused.value.retry_after == 1.0
    work.let.release(9)
    await asyncio.gather(*asked)
    assert await aside(work.piece(9)) == "done 9"


async def test_whoever_hangs_up_leaves_the_line(work: Work) -> None:
    """What nobody waits for is not begun, and keeps nobody else out."""
    aside = Aside()
    first = asyncio.create_task(aside(work.piece(0)))
    await soon(lambda: work.begun)
    gone = [asyncio.create_task(aside(work.piece(n))) for n in range(1, 8)]
    await asyncio.sleep(0)
    for each in gone:
        each.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    last = asyncio.create_task(aside(work.piece(8)))
    work.let.release(2)
    await asyncio.gather(first, last)
    assert work.begun == [0, 8]


async def test_what_fails_fails_for_who_asked_and_takes_no_place(work: Work) -> None:
    """A fault is the asker's own, and the next piece is done."""

    def fail() -> str:
        raise OSError("no journal")

    aside = Aside()
    for _ in range(9):
        with pytest.raises(OSError, match="no journal"):
            await aside(fail)
    work.let.release()
    assert await aside(work.piece(1)) == "done 1"
