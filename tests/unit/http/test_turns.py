"""The turnstile: so many in a turn, in order, and nobody is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from flowcache.server.turns import Turnstile


async def test_a_few_pass_in_each_turn_in_their_order() -> None:
    """The first pass at once; each later turn of the loop lets as many through, oldest first."""
    turnstile, passed = Turnstile(3), list[int]()
    for number in range(8):
        turnstile.enter(lambda number=number: passed.append(number))  # type: ignore[misc]
    seen = [len(passed)]
    for _ in range(4):
        await asyncio.sleep(0)
        seen.append(len(passed))
    assert seen == [3, 6, 8, 8, 8]
    assert passed == list(range(8))


async def test_after_a_crowd_it_is_open_again() -> None:
    """Somebody who comes alone never waits, also when others have waited before."""
    turnstile = Turnstile(2)
    await asyncio.gather(*(turnstile.wait() for _ in range(7)))
    for _ in range(3):
        await asyncio.sleep(0)
        passed: list[bool] = []
        turnstile.enter(lambda: passed.append(True))  # noqa: B023 - called at once
        assert passed == [True]


async def test_nobody_overtakes_those_who_wait() -> None:
    """While somebody waits, whoever comes later waits behind them."""
    turnstile, passed = Turnstile(1), list[str]()

    async def come(name: str) -> None:
        await turnstile.wait()
        passed.append(name)

    crowd = [asyncio.create_task(come(name)) for name in "abc"]
    await asyncio.sleep(0)
    await asyncio.gather(*crowd, come("d"))
    assert passed == ["a", "b", "c", "d"]


async def test_whoever_is_cancelled_stops_nobody() -> None:
    """A place in the queue whose owner is gone is passed over."""
    turnstile = Turnstile(1)
    crowd = [asyncio.create_task(turnstile.wait()) for _ in range(4)]
    await asyncio.sleep(0)
    for each in crowd[1:3]:
        each.cancel()
    await asyncio.wait_for(crowd[3], 5)


async def test_whoever_is_cancelled_takes_nobodys_turn() -> None:
    """Whoever waits behind a crowd that hangs up passes in the next turn."""
    turnstile, passed = Turnstile(2), list[str]()
    crowd = [asyncio.create_task(turnstile.wait()) for _ in range(100)]
    await asyncio.sleep(0)
    for each in crowd:
        each.cancel()
    turnstile.enter(lambda: passed.append("last"))
    await asyncio.sleep(0)
    assert passed == ["last"]


async def test_a_bug_stops_nobody() -> None:
    """What one callback raises is the loop's to report; those behind it get their turn."""
    told: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    turnstile, passed = Turnstile(2), list[int]()

    def fail() -> None:
        raise OSError("a bug")

    turnstile.enter(lambda: None)
    turnstile.enter(lambda: None)
    turnstile.enter(fail)
    turnstile.enter(lambda: passed.append(1))
    turnstile.enter(lambda: passed.append(2))
    for _ in range(4):
        await asyncio.sleep(0)
    assert passed == [1, 2]
    with pytest.raises(OSError, match="a bug"):
        raise told[0]  # type: ignore[misc]
