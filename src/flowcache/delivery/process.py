"""The process that delivers: one a journal, all destinations side by side.

Whoever holds the lock next to the journal delivers; another one that shares it stands by until the
lock is free, which the kernel sees to when its holder dies.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from time import monotonic, time

import stamina.instrumentation
import structlog

from flowcache.cxone.target import CxoneTarget
from flowcache.delivery.destination import Destination
from flowcache.delivery.endpoint import EndpointDestination, Fixed
from flowcache.delivery.feed import Feed
from flowcache.delivery.lines import FileDestination, StandardOutput
from flowcache.delivery.loop import Loop
from flowcache.delivery.progress import Progress, progress_path
from flowcache.delivery.settings import CXONE, FILE, HTTP, STREAM, DeliverySettings
from flowcache.delivery.stream import StreamDestination
from flowcache.outbound.client import Outbound
from flowcache.store.settings import StoreSettings

__all__ = ["DELIVERY_FAULTS", "deliver", "deliver_once"]

_log = structlog.get_logger(__name__)

DELIVERY_FAULTS = (OSError, sqlite3.Error)
"""What stands in the way of any delivery: the lock, the progress, the file of authorities."""

_STAND_BY_SECONDS = 1.0
_LAST_SECONDS = 2.0
"""How long a batch under way has to be taken when the service ends, and what came last after it."""


def deliver(settings: DeliverySettings, store: StoreSettings) -> int:
    """Deliver until SIGTERM or SIGINT; return the exit code. It is a process's main function.

    ``store`` is the Redis that has the stream.
    """
    # Failures are told by `loop`: once, and not at each attempt.
    stamina.instrumentation.set_on_retry_hooks([])
    try:
        return asyncio.run(_deliver(settings, store))
    except DELIVERY_FAULTS as fault:
        _log.error("audit_delivery_cannot_start", fault=str(fault))
        return 1


def deliver_once(settings: DeliverySettings, store: StoreSettings) -> dict[str, str | None]:
    """Deliver what is due now, without trying again; return by destination why it was not taken.

    Raises:
        BlockingIOError: another process delivers from this journal.
        DELIVERY_FAULTS: the files next to the journal can't be opened.
    """
    return asyncio.run(_deliver_once(settings, store))


async def _deliver(settings: DeliverySettings, store: StoreSettings) -> int:
    ended = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, ended.set)
    with _lock(settings.journal) as lock:
        is_free = _takes(lock)
        if not is_free:
            _log.info("audit_delivery_standing_by")
        while not (is_free or _takes(lock)):
            with suppress(TimeoutError):
                async with asyncio.timeout(_STAND_BY_SECONDS):
                    await ended.wait()
                return 0
        async with _loops(settings, store) as loops:
            _log.info("audit_delivery_started", to=[each.name for each in loops])
            running = [(each, asyncio.create_task(each.run())) for each in loops]
            await ended.wait()
            await asyncio.gather(*(_end(each, task) for each, task in running))
    return 0


async def _end(loop: Loop, running: asyncio.Task[None]) -> None:
    """End a loop between two batches; if it does well, the last records are delivered, too."""
    is_between = await loop.finish(running, _LAST_SECONDS)
    if is_between and loop.is_well:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await loop.catch_up()


async def _deliver_once(settings: DeliverySettings, store: StoreSettings) -> dict[str, str | None]:
    with _lock(settings.journal) as lock:
        if not _takes(lock):
            raise BlockingIOError
        async with _loops(settings, store) as loops:
            faults = await asyncio.gather(*(each.catch_up() for each in loops))
            return {each.name: fault for each, fault in zip(loops, faults, strict=True)}


@asynccontextmanager
async def _loops(settings: DeliverySettings, store: StoreSettings) -> AsyncIterator[Sequence[Loop]]:
    progress = Progress(settings.journal, time)
    loops = []
    for name, destination in _destinations(settings, store):
        feed = Feed(settings.journal, progress.begin(name), settings.batch)
        loops.append(Loop(name, destination, feed, progress, settings))
    try:
        yield loops
    finally:
        await asyncio.gather(*(each.close() for each in loops))
        progress.close()


def _destinations(
    settings: DeliverySettings, store: StoreSettings
) -> Iterator[tuple[str, Destination]]:
    """Yield what is configured, by name."""

    def outbound() -> Outbound:
        return Outbound(settings.timeout, settings.ca_file)

    if settings.stream is not None:
        yield STREAM, StreamDestination(settings.stream, store, settings.timeout, monotonic)
    if settings.file is not None:
        path = settings.file
        yield FILE, StandardOutput() if path == "-" else FileDestination(Path(path))
    if settings.http is not None:
        target = Fixed(settings.http)
        yield HTTP, EndpointDestination(target, outbound(), settings.shape, time)
    if settings.cxone is not None:
        client = outbound()
        cxone = CxoneTarget(settings.cxone, client, monotonic, time)
        yield CXONE, EndpointDestination(cxone, client, settings.shape, time)


@contextmanager
def _lock(journal: Path) -> Iterator[int]:
    path = f"{progress_path(journal)}-lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield lock
    finally:
        os.close(lock)


def _takes(lock: int) -> bool:
    """Take the lock; tell whether it was free."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
