"""Turns for what is dear, when too many want one: who goes, and that all others get theirs."""

from __future__ import annotations

import asyncio

from flowcache.calls.fair import FairTurns
from tests.unit.http.asgi import Clock

LATE = 2000.0
"""A deadline that never comes: the clock stands at 1000."""


async def crowd(turns: FairTurns, *clients: str) -> list[bool]:
    """Have a call come for each name, in this order; return which of them had their turn."""
    calls = [asyncio.create_task(turns.wait(client, LATE)) for client in clients]
    async with asyncio.timeout(5):
        return list(await asyncio.gather(*calls))


async def test_a_client_that_loses_its_only_call_is_forgotten() -> None:
    """The turn that would have been its own goes to the next, time and again."""
    turns = FairTurns(Clock(), most=2)
    for _ in range(3):
        assert await crowd(turns, "first", "a", "b", "c") == [True, False, True, True]
        assert turns.waiting == 0
        await asyncio.sleep(0)


async def test_of_two_with_as_many_the_one_that_comes_is_refused() -> None:
    """A client takes no place from another that has no more than itself."""
    turns = FairTurns(Clock(), most=4)
    came = await crowd(turns, "first", "a", "a", "b", "b", "b", "a")
    assert came == [True, True, True, True, True, False, False]


async def test_the_count_of_those_who_wait_is_true_after_a_crowd() -> None:
    """Places that were taken away are free again: the next crowd finds as many as the first."""
    turns = FairTurns(Clock(), most=4)
    for _ in range(5):
        came = await crowd(turns, "first", *["busy"] * 4, "one", "two")
        assert came == [True, True, True, False, False, True, True]
        await asyncio.sleep(0)


async def test_nobody_passes_those_who_wait() -> None:
    """Whoever comes after a turn was given away waits for a later turn of the loop."""
    turns = FairTurns(Clock())
    order: list[str] = []

    async def come(name: str) -> None:
        await turns.wait(name, LATE)
        order.append(name)

    waiting = [asyncio.create_task(come(name)) for name in ("first", "a", "b", "c")]
    while len(order) < 2:  # noqa: ASYNC110 - turn by turn
        await asyncio.sleep(0)
    late = come("late")
    late.send(None)  # it runs until it waits
    late.close()
    await asyncio.gather(*waiting)
    assert order == ["first", "a", "b", "c"]
