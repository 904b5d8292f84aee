"""What a destination is."""

from __future__ import annotations

from typing import Protocol

from flowcache.delivery.batch import Batch

__all__ = ["Destination"]


class Destination(Protocol):
    """Somewhere that batches go. One is sent at a time, and again until it is taken."""

    async def send(self, batch: Batch) -> None:
        """Hand ``batch`` over: all of it was taken when this returns, and nobody knows otherwise.

        Raises:
            NotNow: it is to be sent again.
            Refused: it is of no use.
        """

    async def close(self) -> None:
        """Close everything."""
