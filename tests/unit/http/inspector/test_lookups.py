"""Looks through the journal, when several are asked for at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from threading import Lock, Semaphore, current_thread

import pytest

from flowcache.errors import RateLimited
from flowcache.http.inspector.lookups import Lookups
from flowcache.http.inspector.view import AuditFilter
from flowcache.ports import AuditRecord
from tests.store.harness import soon
from tests.unit.telemetry.statuses import record


class Journal:
    """A journal that is read as soon as a test lets it; ``read`` is what was asked of it."""

    def __init__(self) -> None:
        self.read: list[AuditFilter] = []
        self.let = Semaphore(0)
        self._one = Lock()

    def find(self, wanted: AuditFilter) -> list[AuditRecord]:
        assert self._one.acquire(blocking=False), "two look-ups at once"
        assert current_thread().name.startswith("inspector")
        try:
            self.read.append(wanted)
            self.let.acquire()
            return [record(wanted.limit)]
        finally:
            self._one.release()


@pytest.fixture
def journal() -> Iterator[Journal]:
    made = Journal()
    yield made
    made.let.release(100)


async def test_look_ups_are_done_one_after_the_other(journal: Journal) -> None:
    """Each gets what it asked for, and none is done beside another."""
    lookups = Lookups(journal.find)
    asked = [asyncio.create_task(lookups(AuditFilter(limit=n))) for n in range(4)]
    journal.let.release(4)
    assert await asyncio.gather(*asked) == [[record(n)] for n in range(4)]
    assert [wanted.limit for wanted in journal.read] == [0, 1, 2, 3]
    lookups.close()


async def test_a_few_may_wait_and_more_are_told_to_come_again(journal: Journal) -> None:
    """The line is short: whoever finds it full learns when to come again, and then gets in."""
    lookups = Lookups(journal.find)
    asked = [asyncio.create_task(lookups(AuditFilter())) for _ in range(4)]
    await soon(lambda: journal.read)
    with pytest.raises(RateLimited) as refused:
        await lookups(AuditFilter())
    assert refused.value.retry_after == 1.0
    journal.let.release(5)
    await asyncio.gather(*asked)
    assert await lookups(AuditFilter(limit=7)) == [record(7)]
    lookups.close()


async def test_whoever_hangs_up_leaves_the_line(journal: Journal) -> None:
    """What nobody waits for is not looked up, and a look-up that fails takes nobody's place."""
    lookups = Lookups(journal.find)
    first = asyncio.create_task(lookups(AuditFilter(limit=0)))
    await soon(lambda: journal.read)
    gone = [asyncio.create_task(lookups(AuditFilter(limit=n))) for n in (1, 2, 3)]
    await asyncio.sleep(0)
    for each in gone:
        each.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    last = asyncio.create_task(lookups(AuditFilter(limit=4)))
    journal.let.release(2)
    await asyncio.gather(first, last)
    assert [wanted.limit for wanted in journal.read] == [0, 4]
    lookups.close()
