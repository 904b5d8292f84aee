"""The journal as the hot path sees it: a bounded queue, and a thread that writes what is in it.

A call puts a record into the queue, and that is all it costs there. The thread takes what has
gathered and commits it as one, to the disk itself (`synchronous = FULL`) in both modes. They differ
in who waits:

- *relaxed*: nobody. The thread commits what has gathered for `FLUSH_SECONDS`. A crash loses what is
  newer than the last commit: that many seconds and the time of a commit, and never more than
  `CAPACITY` records.
- *strict*: each call waits for the commit that holds its record. While one commit is under way the
  next one gathers, so that calls share what a commit costs.

When a commit fails, its records are kept and tried again every `RETRY_SECONDS`, and calls go on
queueing. What comes to a full queue is lost: it is counted, the log and the inspector say so, and
so does a record in the chain, at the place where others are missing. In strict mode nobody is told
of anything that is not on disk: while the journal is broken, calls are refused before they begin.
A disk that hangs, or a neighbour that was stopped with the turn, raises nothing in the thread: so
the worker looks itself how long the oldest record has waited (`STALLED_SECONDS`). Damage to what is
in the file already raises nothing there either: another thread looks for it (`vouching`).

Unauthenticated requests above their limit are counted and not queued (`refusals`).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from threading import Lock
from time import monotonic

import structlog

from flowcache.audit.chain import Kind
from flowcache.audit.database import JournalFault
from flowcache.audit.refusals import INTERVAL_SECONDS, Refusals
from flowcache.audit.retention import SteadyTime
from flowcache.audit.settings import AuditSettings, Mode
from flowcache.audit.vouching import Voucher
from flowcache.audit.writing import ChainWriter, Note
from flowcache.errors import RateLimited, Unrecorded
from flowcache.metrics.latency import LatencyCounts
from flowcache.ports import AuditRecord, Clock, Now
from flowcache.status import JournalStatus

__all__ = ["CAPACITY", "FLUSH_SECONDS", "Journal"]

CAPACITY = 20_000
"""The most records that wait to be written."""
FLUSH_SECONDS = 0.2
"""How long records gather in relaxed mode."""
RETRY_SECONDS = 1.0
_BATCH = 1000
"""The most records of one commit: the others who share the journal wait for it."""
STALLED_SECONDS = 2.0
"""How long a record may wait to be written before that is a fault."""
_TIDY_SECONDS = 60.0
"""How often retention is looked after; while there is more to remove, after each commit."""
_TIDY_PAUSE = 0.05
_TIMEOUT = 2.0
"""How long the beginning of a worker waits for the thread."""

_log = structlog.get_logger(__name__)

_Waiting = asyncio.Future[bool]


class _Gap:
    """Stands in the queue where records are missing: so many that there was no room for."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._records = 1
        self._is_taken = False

    def widen(self) -> bool:
        """Count one more; False when it is too late, and another gap has to be made."""
        with self._lock:
            self._records += not self._is_taken
            return not self._is_taken

    def take(self) -> Note:
        """Return the record of it, which will count no more."""
        with self._lock:
            self._is_taken = True
            return Note(Kind.LOST, {"records": self._records})


class Journal:
    """Keep records in the journal that ``settings`` names. An `AuditSink`.

    ``clock`` is monotonic, ``now`` Unix time.
    """

    def __init__(
        self,
        settings: AuditSettings,
        clock: Clock,
        now: Now,
        capacity: int = CAPACITY,
    ) -> None:
        self.wants_intents = self._strict = settings.mode is Mode.STRICT
        self.total = 0
        """How many records were made, those that are only counted among them."""
        self._settings = settings
        self._clock = clock
        self._now = now
        self._capacity = capacity
        self._refusals = Refusals()
        self._queue: deque[tuple[AuditRecord | _Gap, _Waiting | None]] = deque()
        self._queued_at = 0.0
        """Since when there is something in the queue."""
        self._gap: _Gap | None = None
        """The last one."""
        self._wake = threading.Event()
        self._stopping = False
        self._lost = 0
        self._loop: asyncio.AbstractEventLoop
        # What follows is the thread's own; others only look.
        self._writer = ChainWriter(settings, now)
        assert settings.journal is not None
        self._voucher = Voucher(settings.journal, self._writer.promised, clock)
        self._time: SteadyTime | None = None
        self._fault: str | None = None
        self._tampering: str | None = None
        self._batch: list[AuditRecord | Note] = []
        self._taken_at: float | None = None
        """Since when the oldest of the batch has waited; None while there is none."""
        self._waiting: list[_Waiting] = []
        self._written = 0
        self._pruned = 0
        self._pruned_early = 0
        self._early_untold = 0
        self._commits = LatencyCounts()
        self._tidy_at = clock() + _TIDY_SECONDS
        self._thread = threading.Thread(target=self._run, name="audit journal", daemon=True)

    # -- the worker's side: in the event loop -----------------------------------------------------

    async def start(self) -> None:
        """Open the journal. A fault is told by the log and by `status`; it is tried again."""
        self._loop = asyncio.get_running_loop()
        opened: _Waiting = self._loop.create_future()
        self._waiting.append(opened)
        self._thread.start()
        self._voucher.start()
        with suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT):
                await opened

    async def close(self, seconds: float) -> None:
        """Write what is queued within ``seconds``, and end the chains; what is left is lost."""
        self._sum_up()
        self._stopping = True
        self._wake.set()
        self._voucher.stop()
        if await asyncio.to_thread(self._join, seconds):
            self._voucher.release()
        self._give_up()

    def _join(self, seconds: float) -> bool:
        """Wait for both threads, at most ``seconds`` in all; tell whether they have ended."""
        until = monotonic() + seconds
        self._thread.join(seconds)
        return self._voucher.join(max(0.0, until - monotonic())) and not self._thread.is_alive()

    def admit(self) -> None:
        """Pass while records are written, or need not be.

        Raises:
            Unrecorded: in strict mode, while the journal is broken.
        """
        if self._strict and (self._now_wrong() is not None or len(self._queue) >= self._capacity):
            raise Unrecorded("The audit journal can't be written, so nothing was done.")

    def look(self) -> None:
        """Pass as `admit` does, and find what nobody has written to see: files that are gone.

        Raises:
            Unrecorded: in strict mode, when what is recorded now would not be kept.
        """
        self.admit()
        if self._strict and self._writer.displaced() is not None:
            raise Unrecorded("The audit journal can't be written, so nothing was done.")

    def record(self, record: AuditRecord) -> Awaitable[bool] | None:
        """Queue one record; in strict mode return what says whether it is on disk."""
        self.total += 1
        if record.client is None and self._is_counted(record):
            return None
        queued = len(self._queue)
        if queued >= self._capacity:
            self._lose()
            return self._refused() if self._strict else None
        if not queued:
            self._queued_at = self._clock()
        if not self._strict:
            self._queue.append((record, None))
            if queued == _BATCH:  # a flush would be a long one
                self._wake.set()
            return None
        if self._now_wrong() is not None:
            self._queue.append((record, None))
            return self._refused()
        waiting: _Waiting = self._loop.create_future()
        self._queue.append((record, waiting))
        if not self._wake.is_set():
            self._wake.set()
        return waiting

    def status(self) -> JournalStatus:
        """Return how the writing does."""
        return JournalStatus(
            path=str(self._settings.journal),
            mode=self._settings.mode.value,
            writer=self._writer.name,
            fault=self._now_wrong() or self._writer.displaced(),
            tampering=self._tampering,
            queued=self._unwritten(),
            written=self._written,
            lost=self._lost,
            pruned=self._pruned,
            pruned_early=self._pruned_early,
            commits=self._commits.timings(),
        )

    def _give_up(self) -> None:
        """Count what is left as lost: the worker ends now."""
        left = self._unwritten()
        if left:
            self._lost += left
            _log.error("audit_records_lost_at_end", records=left, fault=self._now_wrong())

    def _unwritten(self) -> int:
        return len(self._queue) + len(self._batch)

    def _now_wrong(self) -> str | None:
        """Return what keeps records from being written, if anything does."""
        if self._voucher.fault is not None:
            return self._voucher.fault
        if self._fault is not None:
            return self._fault
        since = self._taken_at
        if since is None:
            if not self._queue:
                return None
            since = self._queued_at
        waited = self._clock() - since
        if waited < STALLED_SECONDS:
            return None
        return (
            f"{self._settings.journal}: a record has waited for {waited:.1f} s to be written: "
            "the disk hangs, or another process has its turn and keeps it."
        )

    def _is_counted(self, record: AuditRecord) -> bool:
        """Tell whether an unauthenticated request is only counted."""
        if record.outcome != RateLimited.code or record.kind == Kind.REFUSED:
            return False
        if not self._refusals:
            self._loop.call_later(INTERVAL_SECONDS, self._sum_up)
        return not self._refusals.count(record)

    def _sum_up(self) -> None:
        for record in self._refusals.told(self._now()):
            self.record(record)

    def _refused(self) -> Awaitable[bool]:
        refused: _Waiting = self._loop.create_future()
        refused.set_result(False)
        return refused

    def _lose(self) -> None:
        self._lost += 1
        if self._gap is None or not self._gap.widen():
            self._gap = _Gap()
            self._queue.append((self._gap, None))
            _log.error("audit_queue_full", fault=self._now_wrong())

    # -- the thread's side ------------------------------------------------------------------------

    def _run(self) -> None:
        self._attempt(self._writer.open)
        self._settle(True)
        while not self._stopping:
            self._wake.wait(self._pause())
            self._wake.clear()
            while self._step():
                self._tidy()
            self._tidy()
        while self._step() or (self._unwritten() and self._fault is None):
            pass
        # After a fault the chain has no end: a closing record would say that all is there.
        if self._fault is None:
            self._attempt(self._writer.close)

    def _pause(self) -> float:
        """Return how long to wait for a wake-up, in seconds."""
        if self._fault is not None:
            return RETRY_SECONDS
        if not self._strict:
            return FLUSH_SECONDS
        return max(_TIDY_PAUSE, self._tidy_at - self._clock())

    def _step(self) -> bool:
        """Commit what has gathered; tell whether there is more to commit at once."""
        if not self._batch:
            self._take()
            if not self._batch:
                if self._fault is not None:
                    self._attempt(self._writer.open)
                return False
        began = self._clock()
        done = self._attempt(lambda: self._writer.append(self._batch))
        is_full = len(self._batch) >= _BATCH
        if done:
            self._commits.record(self._clock() - began)
            self._written += sum(isinstance(each, AuditRecord) for each in self._batch)
            self._batch, self._taken_at = [], None
        self._settle(done)
        return done and (is_full if not self._strict else bool(self._queue))

    def _take(self) -> None:
        """Take a batch from the queue."""
        if not self._queue:
            return
        batch: list[AuditRecord | Note] = []
        self._taken_at = self._queued_at
        while self._queue and len(batch) < _BATCH:
            item, waiting = self._queue.popleft()
            batch.append(item.take() if isinstance(item, _Gap) else item)
            if waiting is not None:
                self._waiting.append(waiting)
        self._queued_at = self._clock()  # what is left came at that time or a little before
        self._batch = batch

    def _tidy(self) -> None:
        now = self._clock()
        if self._fault is not None or now < self._tidy_at:
            return
        self._tidy_at = now + _TIDY_SECONDS
        self._attempt(self._retain)

    def _retain(self) -> None:
        if self._time is None:
            # Of an hour ago: what workers write that begin with us says what their clock says.
            known = self._writer.newest_before(self._now() - 3600)
            self._time = SteadyTime(self._now, self._clock, known)
        gone = self._writer.retain(self._time())
        if gone is not None:
            self._pruned += gone.records
            self._pruned_early += gone.early
            self._early_untold += gone.early
            if gone.is_full:
                self._tidy_at = self._clock()
                return
        if self._early_untold:
            _log.warning(
                "audit_records_pruned_early",
                records=self._early_untold,
                reason="the journal was larger than audit.max_mb",
            )
            self._early_untold = 0

    def _attempt(self, work: Callable[[], None]) -> bool:
        """Do ``work`` on the journal; tell whether it went well, and the log when that changed."""
        try:
            work()
        except JournalFault as fault:
            self._broken(str(fault))
            return False
        except Exception as bug:
            # Not to be met again and again: what can't be written must not hold up all the rest.
            records = sum(isinstance(each, AuditRecord) for each in self._batch)
            _log.error("audit_journal_bug", records=records, exc_info=bug)
            self._lost += records
            self._batch = [Note(Kind.LOST, {"records": records})] if records else []
            return False
        if self._fault is not None:
            self._fault = None
            _log.warning("audit_journal_written_again", lost=self._lost)
        if self._writer.tampering != self._tampering:
            self._tampering = self._writer.tampering
            _log.error("audit_journal_tampered", found=self._tampering)
        return True

    def _broken(self, fault: str) -> None:
        if self._fault is None:
            _log.error("audit_journal_unwritable", fault=fault, mode=self._settings.mode)
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
