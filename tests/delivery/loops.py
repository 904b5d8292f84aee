"""A delivery in the test's own process: a loop, its destination, and where it is."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import time

from flowcache.audit.received import Received
from flowcache.audit.verifying import Report, verify
from flowcache.delivery.batch import Batch
from flowcache.delivery.destination import Destination
from flowcache.delivery.feed import Feed
from flowcache.delivery.loop import Loop
from flowcache.delivery.progress import Progress, State, read_states
from flowcache.delivery.settings import DeliverySettings
from tests.unit.audit.journals import SIGNING_KEY

__all__ = ["QUICK", "Memory", "looping", "room_for", "state", "verified"]

QUICK = 0.01
"""Seconds to wait after a failure: nobody waits for them in a test."""


class Memory:
    """A destination that remembers, after failing as often as it was told to."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.batches: list[Batch] = []
        self.is_closed = False

    async def send(self, batch: Batch) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.batches.append(batch)

    async def close(self) -> None:
        self.is_closed = True

    @property
    def lines(self) -> list[bytes]:
        return [line for batch in self.batches for line in batch.lines]


@asynccontextmanager
async def looping(
    journal: Path, destination: Destination, *, batch: int = 500, longest: float = QUICK
) -> AsyncIterator[Loop]:
    """Give a loop named ``memory`` that is not running yet."""
    settings = DeliverySettings(journal, first_wait=QUICK, longest_wait=longest)
    progress = Progress(journal, time)
    loop = Loop(
        "memory", destination, Feed(journal, progress.begin("memory"), batch), progress, settings
    )
    try:
        yield loop
    finally:
        await loop.close()
        progress.close()


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size``, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def state(journal: Path, name: str = "memory") -> State:
    """Return what is kept of a destination."""
    return read_states(journal)[name][0]


def verified(lines: list[bytes]) -> Report:
    """Verify what a receiver has, with the key of the tests' journals."""
    return verify(Received(lines), SIGNING_KEY.encode())
