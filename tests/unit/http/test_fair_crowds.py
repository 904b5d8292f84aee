"""Turns for what is dear, when too many want one: who goes, and that all others get theirs."""

from __future__ import annotations

import asyncio

from flowcache.calls.fair import FairTurns
from tests.unit.http.asgi import Clock

LATE = 2000.0
"""A deadline that never comes: the clock stands at 1000."""


async def test_nobody_passes_those_who_wait() -> None:
    """Whoever comes after a turn was given away waits for a later turn of the loop."""
    turns = FairTurns(Clock(), a_turn=1)
    order: list[str] = []

    async def come(name: str) -> None:
        await turns.wait(name, LATE, 1)
        order.append(name)

    waiting = [asyncio.create_task(come(name)) for name in ("first", "a", "b", "c")]
    while len(order) < 2:  # noqa: ASYNC110 - turn by turn
        await asyncio.sleep(0)
    late = come("late")
    late.send(None)  # it runs until it waits
    late.close()
    await asyncio.gather(*waiting)
    assert order == ["first", "a", "b", "c"]
