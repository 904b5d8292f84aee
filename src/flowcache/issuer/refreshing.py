"""Refresh an issuer's keys in the background. No call waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from flowcache.issuer.fetching import KeysFault, fetch_keys

__all__ = ["KeyRefresh"]

_log = structlog.get_logger(__name__)

_RETRY = 1.0
"""Seconds to the next try after one that failed, twice as many after each further one."""

_LEAST = 10.0
"""Seconds between two readings, whoever asks: a caller may make up names of keys."""


class KeyRefresh:
    """Read the keys at the start, every ``seconds``, and when somebody asks.

    What can't be read leaves the keys there are, and is tried again sooner: after ``retry``
    seconds at first. ``use`` takes what was read and raises ValueError where those are no keys.
    """

    def __init__(
        self,
        location: str,
        seconds: float,
        use: Callable[[bytes], object],
        *,
        retry: float = _RETRY,
        least: float = _LEAST,
    ) -> None:
        self._location = location
        self._seconds = seconds
        self._use = use
        self._retry = retry
        self._least = least
        self._failures = 0
        """Readings that failed, since the last that did not."""
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read once, and continue in the background. An unreachable issuer stops nothing."""
        await self._read()
        self._task = asyncio.create_task(self._go_on())

    def ask(self) -> None:
        """Have the keys read soon: somebody named one that is not among them."""
        self._asked.set()

    async def close(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _go_on(self) -> None:
        while True:
            wait = self._wait()
            least = min(wait, self._least)
            await asyncio.sleep(least)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait - least):
                    await self._asked.wait()
            self._asked.clear()
            await self._read()

    def _wait(self) -> float:
        """Return the seconds to the next reading, if nobody asks for it."""
        if not self._failures:
            return self._seconds
        return float(min(self._retry * 2 ** min(self._failures - 1, 20), self._seconds))

    async def _read(self) -> None:
        try:
            self._use(await fetch_keys(self._location))
        except Exception as fault:
            # Whatever it is: were they never read again, all tokens would end with their rotation.
            self._failures += 1
            is_bug = not isinstance(fault, KeysFault | ValueError)
            _log.error(
                "issuer_keys_unreadable",
                location=self._location,
                fault=str(fault),
                next_seconds=self._wait(),
                exc_info=fault if is_bug else None,
            )
        else:
            self._failures = 0
