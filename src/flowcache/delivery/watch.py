"""How the destinations do, for all who ask a worker: one look at a time, shared for a while.

A look takes longer the more chains the journal has. Whoever asks `/metrics` a hundred times a
second gets the same answer a hundred times, and the calls keep their processor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from flowcache.audit.database import JournalFault
from flowcache.delivery.overview import overview, unknown
from flowcache.delivery.settings import DeliverySettings
from flowcache.ports import Clock
from flowcache.status import DeliveryStatus

__all__ = ["Watch"]

_log = structlog.get_logger(__name__)

_KEPT_SECONDS = 2.0
"""How long a look is good for, from when it ended: less than between two scrapes."""


class Watch:
    """Call it for the statuses of the destinations. ``now`` is Unix time."""

    def __init__(self, settings: DeliverySettings, clock: Clock, now: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._now = now
        self._look: asyncio.Task[Sequence[DeliveryStatus]] | None = None
        self._good_until = 0.0

    async def __call__(self) -> Sequence[DeliveryStatus]:
        """Return how each destination does, as of a moment ago."""
        if self._look is None or (self._look.done() and self._clock() >= self._good_until):
            self._look = asyncio.create_task(self._take())
        return await asyncio.shield(self._look)  # a disconnect must not cancel the shared task

    async def _take(self) -> Sequence[DeliveryStatus]:
        journal, names = self._settings.journal, self._settings.names
        try:
            return await asyncio.to_thread(overview, journal, names, self._now())
        except JournalFault as fault:
            _log.error("audit_delivery_progress_unreadable", fault=str(fault))
            return unknown(names, str(fault))
        finally:
            self._good_until = self._clock() + _KEPT_SECONDS
