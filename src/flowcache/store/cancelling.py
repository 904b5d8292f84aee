"""Cancelling that can't be missed.

On Python 3.11 `asyncio.wait_for`, which redis-py awaits everything with, loses a cancellation that
arrives in the turn in which what it waits for is done (CPython issue 86296). The task then goes on,
into a wait that may be long. So whoever has to end a task asks until it has ended.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

__all__ = ["cancel"]

_AGAIN: Final = 0.05
"""Seconds before a task is asked once more."""


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel ``tasks`` and return when all have ended, however they did."""
    waiting = {task for task in tasks if not task.done()}
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=_AGAIN)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at, so that nobody is told that nobody looked
