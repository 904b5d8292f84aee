"""Ending tasks: also those that lose a cancellation on their way."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from flowcache.store.cancelling import cancel


async def test_a_task_that_loses_cancellations_ends() -> None:
    """What swallows a cancellation, as wait_for may, is asked again until it ends."""
    swallowed = 0

    async def deaf() -> None:
        nonlocal swallowed
        while swallowed < 3:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            swallowed += 1
        await asyncio.Event().wait()

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await asyncio.wait_for(cancel(task), 20)
    assert task.cancelled()
    assert swallowed == 3


async def test_tasks_that_end_otherwise() -> None:
    """A task that has ended, or that fails while it is cancelled, is nothing to wait for."""

    async def fails() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("on its way out")

    done, failing = asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(fails())
    await done
    await asyncio.sleep(0)
    await cancel(done, failing)
    await cancel()
    assert failing.done()
