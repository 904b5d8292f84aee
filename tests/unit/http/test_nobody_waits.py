"""What comes for somebody who has gone, or fails for all: no harm, and nothing is reported."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from flowcache.admin.shared import Shared
from flowcache.server.turns import Turnstile

PAUSE = 0.001


@pytest.fixture
async def reported() -> list[dict[str, Any]]:
    """What the event loop had to report."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    return reports


async def test_shared_work_that_fails_for_nobody(reported: list[dict[str, Any]]) -> None:
    """Whoever asked has gone: the failure is forgotten in silence, and the next run is begun."""
    fails, ended = asyncio.Event(), asyncio.Event()

    async def work() -> int:
        await fails.wait()
        ended.set()
        raise OSError("nobody hears of it")

    shared = Shared(work, PAUSE, lambda: 0.0)
    asked = asyncio.create_task(shared())
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    fails.set()
    await ended.wait()
    with pytest.raises(OSError, match="nobody"):
        await shared()
    del asked
    gc.collect()
    assert reported == []


async def test_there_is_a_pause_after_a_failure_too() -> None:
    """Work that fails at once is not begun more often than work that succeeds."""
    now, began = 100.0, list[float]()

    def clock() -> float:
        nonlocal now
        now += PAUSE / 4  # to look at the clock takes time
        return now

    async def work() -> None:
        began.append(now)
        raise OSError("at once")

    shared = Shared(work, PAUSE, clock)
    with pytest.raises(OSError, match="at once"):
        await shared()
    free_at = shared._free_at
    assert free_at >= began[0] + PAUSE
    with pytest.raises(OSError, match="at once"):
        await shared()


async def test_a_turn_for_somebody_who_has_gone(reported: list[dict[str, Any]]) -> None:
    """It is passed over in silence."""
    turnstile = Turnstile(1)
    crowd = [asyncio.create_task(turnstile.wait()) for _ in range(5)]
    await asyncio.sleep(0)
    for each in crowd[1:4]:
        each.cancel()
    await asyncio.wait_for(crowd[4], 10)
    assert reported == []
