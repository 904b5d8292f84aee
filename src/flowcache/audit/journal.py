"""The journal as the hot path sees it: a bounded queue, and a thread that writes what is in it.

A call puts a record into the queue, and that is all it costs there. The thread takes what has
gathered and commits it as one, to the disk itself (`synchronous = FULL`) in both modes. They differ
in who waits:

- *relaxed*: nobody. The thread commits every `FLUSH_SECONDS`. A crash loses what is newer than the
  last commit: that many seconds and the time of a commit, and never more than `CAPACITY` records.
- *strict*: each call waits for the commit that holds its record. While one commit is under way the
  next one gathers, so that calls share what a commit costs.

When a commit fails, its records are kept and tried again every `RETRY_SECONDS`, and calls go on
queueing. What comes to a full queue is lost: it is counted, the log and the inspector say so, and
so does a record in the chain, at the place where others are missing. In strict mode nobody is told
of anything that is not on disk: while the journal is broken, calls are refused before they begin.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from flowcache.audit.database import JournalFault
from flowcache.audit.settings import AuditSettings, Mode
from flowcache.audit.writing import ChainWriter
from flowcache.errors import Unrecorded
from flowcache.ports import AuditRecord, Clock
from flowcache.status import JournalStatus
from flowcache.telemetry.latency import BUCKETS, bucket_of

__all__ = ["CAPACITY", "FLUSH_SECONDS", "Journal"]

CAPACITY = 20_000
"""The most records that wait to be written."""
FLUSH_SECONDS = 0.2
"""How long records gather in relaxed mode."""
RETRY_SECONDS = 1.0
_BATCH = 1000
"""The most records of one commit: the others who share the journal wait for it."""
_TIDY_SECONDS = 60.0
"""How often retention is looked after; while there is more to remove, after each commit."""
_TIDY_PAUSE = 0.05
_PATIENCE = 2.0
"""How long the beginning and the end of a worker wait for the thread."""

_log = structlog.get_logger(__name__)

_Waiting = asyncio.Future[bool]


class Journal:
    """Keep records in the journal that ``settings`` names. An `AuditSink`.

    ``clock`` is monotonic, ``now`` Unix time.
    """

    def __init__(
        self,
        settings: AuditSettings,
        clock: Clock,
        now: Callable[[], float],
        capacity: int = CAPACITY,
    ) -> None:
        self.wants_intents = self._strict = settings.mode is Mode.STRICT
        self.total = 0
        """How many records were made."""
        self._settings = settings
        self._clock = clock
        self._capacity = capacity
        self._queue: deque[tuple[AuditRecord, _Waiting | None]] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._lost = 0
        self._loop: asyncio.AbstractEventLoop
        # What follows is the thread's own; others only look.
        self._writer = ChainWriter(settings, now)
        self._fault: str | None = None
        self._batch: list[AuditRecord] = []
        self._batch_lost = 0
        self._waiting: list[_Waiting] = []
        self._lost_told = 0
        self._written = 0
        self._commits = [0] * BUCKETS
        self._commit_ms = 0.0
        self._tidy_at = clock() + _TIDY_SECONDS
        self._thread = threading.Thread(target=self._run, name="audit journal", daemon=True)

    # -- the worker's side: in the event loop -----------------------------------------------------

    async def start(self) -> None:
        """Open the journal. A fault is told by the log and by `status`; it is tried again."""
        self._loop = asyncio.get_running_loop()
        opened: _Waiting = self._loop.create_future()
        self._waiting.append(opened)
        self._thread.start()
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await opened

    async def close(self) -> None:
        """Write what is queued, and end the chain."""
        self._stopping = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join, _PATIENCE)
        if self._thread.is_alive():
            _log.error("the audit journal was not closed in time", queued=len(self._queue))

    def admit(self) -> None:
        """Pass while records are written, or need not be.

        Raises:
            Unrecorded: in strict mode, while the journal is broken.
        """
        if self._strict and (self._fault is not None or len(self._queue) >= self._capacity):
            raise Unrecorded("The audit journal can't be written, so nothing was done.")

    def record(self, record: AuditRecord) -> Awaitable[bool] | None:
        """Queue one record; in strict mode return what says whether it is on disk."""
        self.total += 1
        queued = len(self._queue)
        if queued >= self._capacity:
            self._lose()
            return self._refused() if self._strict else None
        if self._fault is not None:
            self._queue.append((record, None))
            return self._refused() if self._strict else None
        if self._strict:
            waiting: _Waiting = self._loop.create_future()
            self._queue.append((record, waiting))
            if not self._wake.is_set():
                self._wake.set()
            return waiting
        self._queue.append((record, None))
        if queued == _BATCH:  # a flush would be a long one
            self._wake.set()
        return None

    def status(self) -> JournalStatus:
        """Return how the writing does."""
        return JournalStatus(
            str(self._settings.journal),
            self._settings.mode.value,
            self._writer.name,
            self._fault,
            len(self._queue) + len(self._batch),
            self._written,
            self._lost,
            list(self._commits),
            self._commit_ms,
        )

    def _refused(self) -> Awaitable[bool]:
        refused: _Waiting = self._loop.create_future()
        refused.set_result(False)
        return refused

    def _lose(self) -> None:
        self._lost += 1
        if self._lost - self._lost_told == 1:
            _log.error("audit records are being lost: their queue is full", fault=self._fault)

    # -- the thread's side ------------------------------------------------------------------------

    def _run(self) -> None:
        self._attempt(self._writer.open)
        self._settle(True)
        while not self._stopping:
            self._wake.wait(self._pause())
            self._wake.clear()
            while self._step():
                pass
            self._tidy()
        while self._step():
            pass
        self._attempt(self._writer.close)
        left = len(self._batch) + len(self._queue)
        if left:
            self._lost += left
            _log.error("audit records were lost at the end", records=left, fault=self._fault)

    def _pause(self) -> float:
        """Return how long to wait for a wake-up, in seconds."""
        if self._fault is not None:
            return RETRY_SECONDS
        if not self._strict:
            return FLUSH_SECONDS
        return max(_TIDY_PAUSE, self._tidy_at - self._clock())

    def _step(self) -> bool:
        """Commit what has gathered; tell whether there is more to commit at once."""
        if not self._batch and not self._batch_lost:
            while self._queue and len(self._batch) < _BATCH:
                record, waiting = self._queue.popleft()
                self._batch.append(record)
                if waiting is not None:
                    self._waiting.append(waiting)
            self._batch_lost = self._lost - self._lost_told
            if not self._batch and not self._batch_lost:
                if self._fault is not None:
                    self._attempt(self._writer.open)
                return False
        began = self._clock()
        done = self._attempt(lambda: self._writer.append(self._batch, self._batch_lost))
        if done:
            ms = (self._clock() - began) * 1000
            self._commit_ms += ms
            self._commits[bucket_of(ms)] += 1
            self._written += len(self._batch)
            self._lost_told += self._batch_lost
            self._batch, self._batch_lost = [], 0
        self._settle(done)
        return done and bool(self._queue)

    def _tidy(self) -> None:
        now = self._clock()
        if self._fault is None and now >= self._tidy_at:
            more = False

            def retain() -> None:
                nonlocal more
                more = self._writer.retain()

            self._attempt(retain)
            self._tidy_at = now if more else now + _TIDY_SECONDS

    def _attempt(self, work: Callable[[], None]) -> bool:
        """Do ``work`` on the journal; tell whether it went well, and the log when that changed."""
        try:
            work()
        except JournalFault as fault:
            self._broken(str(fault))
            return False
        except Exception as bug:
            # Not to be met again and again: what can't be written must not hold up all the rest.
            _log.error("a bug in the audit journal", records=len(self._batch), exc_info=bug)
            self._lost += len(self._batch)
            self._batch = []
            return False
        if self._fault is not None:
            self._fault = None
            _log.warning("the audit journal is written again", lost=self._lost)
        return True

    def _broken(self, fault: str) -> None:
        if self._fault is None:
            _log.error("the audit journal can't be written", fault=fault, mode=self._settings.mode)
        self._fault = fault

    def _settle(self, kept: bool) -> None:
        """Tell those who wait for the last commit."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                self._loop.call_soon_threadsafe(_tell, waiting, kept)


def _tell(waiting: list[_Waiting], kept: bool) -> None:
    for each in waiting:
        if not each.done():
            each.set_result(kept)
