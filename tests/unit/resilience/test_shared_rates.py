"""What a process reports of a shared rate, and when. What Redis makes of it is in tests/store."""

from __future__ import annotations

import asyncio

import pytest

from flowcache.errors import RedisUnavailable
from flowcache.ports import Command, Done, Reply
from flowcache.ratelimit.buckets import Rate
from flowcache.ratelimit.shared import SharedBucket
from tests.executing import CoroutineExecutor
from tests.unit.http.asgi import Clock

RATE = Rate(1.0, 10)
PERIOD = 0.05


class Fleet(CoroutineExecutor):
    """An executor that takes reports and answers them when it is told to."""

    def __init__(self) -> None:
        self.reports: list[int] = []
        self._waiting: list[asyncio.Future[Reply]] = []

    async def execute(self, command: Command, deadline: float) -> Done:
        self.reports.append(int(command.words[3]))
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        return Done(await answer, "shard")

    async def answer(self, reply: Reply) -> None:
        """Answer the report on its way, and see the bucket take it in."""
        answer = self._waiting.pop()
        if isinstance(reply, Exception):
            answer.set_exception(reply)
        else:
            answer.set_result(reply)
        await turn()


async def turn() -> None:
    """Let what is ready to run run."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_what_is_taken_during_a_report_comes_on_top() -> None:
    """The answer is about what was reported: what was taken since is not forgotten for it."""
    fleet, clock = Fleet(), Clock()
    bucket = SharedBucket("acme", RATE, fleet, clock)
    assert [bucket.take(clock.now) for _ in range(3)] == [0.0] * 3
    await turn()
    assert fleet.reports == [3]
    assert [bucket.take(clock.now) for _ in range(2)] == [0.0] * 2
    await fleet.answer(5_000_000)  # two of the five are another process's
    assert [bucket.take(clock.now) for _ in range(3)] == [0.0] * 3
    assert bucket.take(clock.now) == pytest.approx(1.0)
    await bucket.close()


async def test_reports_are_a_period_apart() -> None:
    """However many calls there are, Redis hears of them that often at most, and of each of them."""
    fleet, clock = Fleet(), Clock()
    bucket = SharedBucket("acme", Rate(1.0, 1000), fleet, clock)
    bucket.take(clock.now)
    await turn()
    await fleet.answer(0)
    for _ in range(5):
        clock.now += PERIOD / 8
        bucket.take(clock.now)
        await turn()
    assert fleet.reports == [1]
    clock.now += PERIOD / 2
    bucket.take(clock.now)
    await turn()
    assert fleet.reports == [1, 6]
    clock.now += 10 * PERIOD
    bucket.take(clock.now)
    await turn()
    assert fleet.reports == [1, 6]  # the last has no answer yet
    await bucket.close()


async def test_who_makes_no_calls_makes_no_reports() -> None:
    """A refused call took nothing, so there is nothing to tell."""
    fleet, clock = Fleet(), Clock()
    bucket = SharedBucket("acme", Rate(1.0, 1), fleet, clock)
    bucket.take(clock.now)
    await turn()
    await fleet.answer(1_000_000)
    clock.now += PERIOD
    assert bucket.take(clock.now)
    await turn()
    assert fleet.reports == [1]
    await bucket.close()


async def test_a_report_without_an_answer_is_not_made_again() -> None:
    """It may have been counted: told again it might be counted twice. The next one goes out."""
    fleet, clock = Fleet(), Clock()
    bucket = SharedBucket("acme", RATE, fleet, clock)
    bucket.take(clock.now)
    await turn()
    await fleet.answer(RedisUnavailable("x"))
    clock.now += PERIOD
    bucket.take(clock.now)
    await turn()
    assert fleet.reports == [1, 1]
    await fleet.answer(0)
    await bucket.close()
