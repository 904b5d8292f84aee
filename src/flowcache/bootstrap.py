"""The only place that constructs and wires: settings in, a worker's application out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import monotonic, time

import msgspec
import structlog
from msgspec import structs

from flowcache import __version__
from flowcache.audit.chain import Entry
from flowcache.audit.database import JournalFault
from flowcache.audit.journal import Journal
from flowcache.audit.reading import Query, Reader
from flowcache.audit.redaction import redaction
from flowcache.audit.ring import AuditRing
from flowcache.http.app import App
from flowcache.http.asgi import ASGIApp
from flowcache.http.data_action import DataAction, request_ids
from flowcache.http.inspector.view import AuditFilter
from flowcache.http.pages import PagesSettings, pages
from flowcache.operations.catalogue import CATALOGUE
from flowcache.policy.principals import Principals
from flowcache.ports import AuditRecord
from flowcache.resilience.guard import Guard
from flowcache.settings import Settings
from flowcache.status import WorkerStatus
from flowcache.store.redis_store import RedisStore
from flowcache.telemetry import logs
from flowcache.telemetry.fleet import Fleet, Question
from flowcache.telemetry.metrics import Counters

__all__ = ["application"]

_log = structlog.get_logger(__name__)
_decode = msgspec.msgpack.Decoder(WorkerStatus).decode

_READY_SECONDS = 0.5
"""How long Redis has to answer for ``/readyz``."""
_SEARCHED = 100_000
"""How many of the newest records the inspector looks through; the command line has no such end."""


def application(settings: Settings, fleet_directory: Path) -> App:
    """Return a worker's application. Nothing is opened before its lifespan begins."""

    def build() -> tuple[ASGIApp, ASGIApp, Worker]:
        logs.configure(settings.log_level)
        worker = Worker(settings, fleet_directory)
        return worker.data_action, worker.pages, worker

    return App(build)


class Worker:
    """All the parts of one worker, and their life together."""

    def __init__(self, settings: Settings, fleet_directory: Path) -> None:
        self._started_at = time()
        self._grace = settings.server.grace
        self._store = RedisStore(
            settings.store,
            monotonic,
            on_back=lambda shard, primary: self._guard.came_back(shard, primary),
        )
        self._guard = Guard(self._store, settings.guard, monotonic)
        self._counters = Counters(CATALOGUE)
        audit = settings.audit
        self._ring = AuditRing(audit.ring, redaction(audit.keys, audit.hmac_secret))
        self._journal = None if audit.journal is None else Journal(audit, monotonic, time)
        self._audit = self._journal or self._ring
        self._fleet = Fleet(fleet_directory, self._report)
        principals = Principals(settings.credentials)
        self.data_action = DataAction(
            settings.data_action, principals, self._guard, self._counters, self._audit, monotonic
        )
        self.pages = pages(
            PagesSettings(__version__, settings.shown, settings.data_action),
            principals,
            self._gather,
            self._ready,
            request_ids(),
            self._audit,
            None if audit.journal is None else partial(_history, audit.journal),
        )

    async def start(self) -> None:
        if self._journal is not None:
            await self._journal.start()
        await self._store.start()
        await self._fleet.start()

    async def close(self) -> None:
        await self.data_action.finish(self._grace)
        if self._journal is not None:
            await self._journal.close()
        await self._fleet.close()
        await self._guard.close()
        await self._store.close()

    async def _ready(self) -> None:
        self._audit.admit()
        await self._store.ping(monotonic() + _READY_SECONDS)

    def _report(self, question: Question) -> bytes:
        with_audit = question is Question.EVERYTHING
        status = WorkerStatus(
            pid=os.getpid(),
            alive=True,
            started_at=self._started_at,
            in_flight=self.data_action.in_flight,
            operations=self._counters.stats(),
            audit=self._ring.newest(self._ring.total) if with_audit else [],
            audit_total=self._audit.total,
            circuits=self._guard.circuits(),
            reads=self._guard.reads(),
            store=self._store.status(),
            journal=None if self._journal is None else self._journal.status(),
        )
        return msgspec.msgpack.encode(status)

    async def _gather(self, question: Question) -> Sequence[WorkerStatus]:
        """Return what all workers say: those that live first, this one before all."""
        living = [_read(report) for report in await self._fleet.gather(question)]
        left = [_read(report) for report in self._fleet.left()]
        gone = [structs.replace(status, alive=False) for status in left if status is not None]
        return [*(status for status in living if status is not None), *gone]


async def _history(journal: Path, wanted: AuditFilter) -> list[AuditRecord]:
    """Read what is ``wanted`` from the journal's newest records, newest last."""
    query = Query(
        wanted.limit, wanted.flow, wanted.interaction, None, None, wanted.operation, wanted.outcome
    )
    return await asyncio.to_thread(_read_journal, journal, query)


def _read_journal(journal: Path, query: Query) -> list[AuditRecord]:
    try:
        with Reader(journal) as reader:
            entries = list(reader.newest(query, within=_SEARCHED))
    except JournalFault as fault:
        _log.warning("the audit journal can't be read", fault=str(fault))
        return []
    return [_as_record(entry) for entry in reversed(entries) if entry.request_id is not None]


def _as_record(entry: Entry) -> AuditRecord:
    return AuditRecord(
        entry.at,
        entry.request_id or "",
        entry.client,
        entry.flow,
        entry.interaction,
        entry.operation,
        None if entry.key is None else entry.key.encode(),
        entry.outcome or "",
        None if entry.hit is None else bool(entry.hit),
        entry.latency_ms or 0.0,
        entry.address,
        entry.shard,
        bool(entry.stale),
        entry.kind,
    )


def _read(report: bytes) -> WorkerStatus | None:
    try:
        return _decode(report)
    except msgspec.MsgspecError:
        # A worker that ended while it reported, or one of another version.
        _log.warning("a worker's report can't be read", bytes=len(report))
        return None
