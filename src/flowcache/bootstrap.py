"""The only place that constructs and wires: settings in, a worker's application out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING

import msgspec
import structlog

from flowcache import __version__
from flowcache.admin.inspector.circuits import Control
from flowcache.admin.inspector.view import AuditFilter
from flowcache.admin.pages import PROBES, PagesSettings, nothing_delivered, pages
from flowcache.admin.switching import Switching
from flowcache.api.app import App, Parts
from flowcache.api.data_action import DataAction
from flowcache.api.envelope import refusals, request_ids
from flowcache.audit.history import newest_calls
from flowcache.audit.journal import Journal
from flowcache.audit.reading import Query
from flowcache.audit.redaction import redaction
from flowcache.audit.ring import AuditRing
from flowcache.authn.certificates import Certificates
from flowcache.authn.gate import Gate, ShowsCertificate, no_certificate
from flowcache.authn.principals import Principals
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.calls.admission import Admission
from flowcache.calls.running import Calls
from flowcache.calls.standing_lag import StandingLag
from flowcache.delivery.settings import DeliverySettings
from flowcache.delivery.watch import Watch
from flowcache.executing import Executor
from flowcache.fleet.messages import Fleet, Question
from flowcache.fleet.overrides import Overrides
from flowcache.issuer.refreshing import KeyRefresh
from flowcache.loop_watch import LoopWatch
from flowcache.metrics import logs
from flowcache.metrics.counters import Counters
from flowcache.metrics.latency import LatencyCounts
from flowcache.metrics.totals import fold, once_each
from flowcache.operations.catalogue import CATALOGUE
from flowcache.ports import AuditRecord
from flowcache.ratelimit.buckets import Bucket, Limiter
from flowcache.ratelimit.shared import SharedBucket
from flowcache.resilience.guard import Guard
from flowcache.server.asgi import ASGIApp
from flowcache.server.supervisor import Service
from flowcache.server.turns import Turnstile
from flowcache.settings import Settings
from flowcache.status import LoopStatus, WorkerStatus
from flowcache.store.redis_store import RedisStore

if TYPE_CHECKING:
    from flowcache.authn.jwks import KeySet
    from flowcache.encryption.vault import Vault

__all__ = ["application", "service"]

_log = structlog.get_logger(__name__)
_decode = msgspec.msgpack.Decoder(WorkerStatus).decode

_CLOSING_SECONDS = 1.0
"""How long the audit journal has at the end, whatever is left of the grace."""
_READY_SECONDS = 0.5
"""How long Redis has to answer for ``/readyz``."""


def service(settings: Settings, fleet_directory: Path) -> Service:
    """Return what a supervisor starts workers and the delivery of the audit from."""
    delivery = settings.delivery
    return Service(
        lambda: _applications(settings, fleet_directory),
        settings.server,
        None if delivery is None else partial(_deliver, delivery, settings),
        refusals,
    )


def _deliver(delivery: DeliverySettings, settings: Settings) -> int:
    # Imported here: it brings an HTTP client, and no worker needs one.
    from flowcache.delivery.process import deliver

    logs.configure(settings.log_level)
    return deliver(delivery, settings.store)


def _applications(settings: Settings, fleet_directory: Path) -> tuple[ASGIApp, ...]:
    """Return an application for each address of the server."""
    app = application(settings, fleet_directory)
    return (app,) if settings.server.admin is None else (app, app.admin)


def application(settings: Settings, fleet_directory: Path) -> App:
    """Return a worker's application. Nothing is opened before its lifespan begins."""

    def build() -> Parts:
        logs.configure(settings.log_level)
        worker = Worker(settings, fleet_directory)
        pages, action = worker.pages, worker.data_action
        if settings.server.admin is None:
            return Parts(action, pages, pages, worker, action)
        return Parts(action, pages.only(PROBES), pages.without_data_action(), worker, action)

    return App(build)


class Worker:
    """All the parts of one worker, and their life together."""

    def __init__(self, settings: Settings, fleet_directory: Path) -> None:
        self._started_at = time()
        self._grace = settings.server.grace
        tls = settings.tls
        self._certificate_expires = None if tls is None else tls.not_after
        self._lags = LatencyCounts()
        lag = StandingLag(settings.data_action.deadline)

        def record(seconds: float) -> None:
            self._lags.record(seconds)
            lag.record(seconds)

        self._loop = LoopWatch(monotonic, record)
        self._store = RedisStore(
            settings.store,
            monotonic,
            on_back=lambda shard, accesses: self._guard.came_back(shard, accesses),
            listened=self._loop.listened,
        )
        self._guard = Guard(self._store, settings.guard, monotonic, self._loop.listened)
        self._counters = Counters(CATALOGUE)
        audit = settings.audit
        self._journal = self._ring = None
        self._audit: Journal | AuditRing
        if audit.journal is not None:
            self._audit = self._journal = Journal(audit, monotonic, time)
        else:
            self._audit = self._ring = AuditRing(
                audit.ring, redaction(audit.keys, audit.hmac_secret)
            )
        self._fleet = Fleet(fleet_directory, self._report, _fold)
        self._limiters = _limiters(settings, self._guard)
        known = Principals(settings.credentials, time)
        self._keys: KeyRefresh | None = None
        if settings.jwt is not None:
            # Imported here: it brings a whole library of cryptography, and few have an issuer.
            from flowcache.authn.jwt import Jwts

            stated = Jwts(settings.jwt, settings.principals, time, lambda: keys.ask())
            self._keys = keys = KeyRefresh(
                settings.jwt.keys, settings.jwt.refresh, lambda read: _told(stated.use(read))
            )
            known = Principals(settings.credentials, time, stated.credential)
        gate = Gate(known, settings.gate, self._limiters, monotonic, _shown_certificate(settings))
        self._overrides = Overrides(fleet_directory, self._guard.obey)
        executor: Executor = self._guard
        self._vault: Vault | None = None
        if settings.sealing is not None:
            # Imported here, as is what issuers need: it brings the library of cryptography.
            from flowcache.encryption.vault import Vault

            executor = self._vault = Vault(self._guard, settings.sealing)
        turns = Turnstile()
        self._calls = Calls(
            settings.data_action,
            executor,
            self._counters,
            self._audit,
            monotonic,
            request_ids(),
            Admission(settings.data_action.max_in_flight, _callers(settings), lag),
        )
        self.data_action = DataAction(settings.data_action, gate, self._calls, monotonic, turns)
        self.pages = pages(
            PagesSettings(
                __version__, settings.shown, settings.data_action, settings.pages_need_credential
            ),
            gate,
            self._gather,
            self._ready,
            Control(
                settings.guard.mode,
                self._overrides.in_force,
                Switching(self._audit, time, self._overrides, self._fleet),
            ),
            request_ids(),
            self._audit,
            None if audit.journal is None else partial(_history, audit.journal),
            nothing_delivered
            if settings.delivery is None
            else Watch(settings.delivery, monotonic, time),
            monotonic,
            turns,
        )

    async def start(self) -> None:
        self._loop.start()
        if self._keys is not None:
            await self._keys.start()
        await self._store.start()
        self._overrides.follow()
        if self._journal is not None:  # late: a start that is given up leaves no chain without end
            await self._journal.start()
        await self._fleet.start()
        self._overrides.follow()  # one that nobody could tell us of a moment ago

    async def close(self) -> None:
        began = monotonic()
        await self._calls.finish(self._grace)
        if self._journal is not None:
            await self._journal.close(max(_CLOSING_SECONDS, began + self._grace - monotonic()))
        await self._fleet.close()
        if self._keys is not None:
            await self._keys.close()
        for limiter in self._limiters.values():
            if isinstance(limiter, SharedBucket):
                await limiter.close()
        await self._guard.close()
        await self._store.close()
        self._loop.close()

    async def _ready(self) -> None:
        if self._journal is not None:
            self._journal.look()
        await self._store.ping(monotonic() + _READY_SECONDS)

    def _report(self, question: Question) -> bytes:
        # Whatever is asked: an override that we were too slow to hear of is followed now.
        switched = self._overrides.follow()
        if question is Question.OVERRIDES:
            return b"%d" % switched
        with_audit = question is Question.EVERYTHING
        status = WorkerStatus(
            pid=os.getpid(),
            alive=True,
            started_at=self._started_at,
            in_flight=self._calls.in_flight,
            at_work=self._calls.admission.at_work,
            overload_refusals=self._calls.admission.refusals,
            operations=self._counters.stats(),
            audit=self._ring.newest(self._ring.total) if self._ring and with_audit else [],
            audit_total=self._audit.total,
            circuits=self._guard.circuits(),
            reads=self._guard.reads(),
            store=self._store.status(),
            certificate_expires=self._certificate_expires,
            journal=None if self._journal is None else self._journal.status(),
            encryption=None if self._vault is None else self._vault.status(),
            loop=LoopStatus(
                lags=self._lags.timings(),
                longest=self._loop.longest,
                last=self._loop.lag,
                lost=self._loop.lost,
            ),
        )
        return msgspec.msgpack.encode(status)

    async def _gather(self, question: Question) -> Sequence[WorkerStatus]:
        """Return what all workers say: those that live first, this one before all."""
        living = _read(await self._fleet.gather(question))
        return once_each(living, _read(self._fleet.left()))


def _callers(settings: Settings) -> list[Principal]:
    """Return those that may make data actions."""
    data = {Permission.DATA_READ, Permission.DATA_WRITE}
    return [who for who in settings.principals if who.permissions & data]


def _limiters(settings: Settings, store: Executor) -> dict[str, Limiter]:
    """Return a bucket for each client that has a rate."""
    return {
        who.name: SharedBucket(who.name, who.rate, store, monotonic)
        if settings.gate.shared_rates
        else Bucket(who.rate)
        for who in settings.principals
        if who.rate is not None
    }


def _shown_certificate(settings: Settings) -> ShowsCertificate:
    """Return how to find out which certificate a call shows, and whose it is."""
    if not any(who.certificates for who in settings.principals):
        return no_certificate
    # Imported here: it brings a whole library of cryptography, and few clients have any.
    from flowcache.authn.x509 import read_certificate

    gate = settings.gate
    return Certificates(
        settings.principals, read_certificate, gate.proxies, gate.certificate_header
    ).shown


def _told(keys: KeySet) -> None:
    if keys.weak:
        _log.warning("issuer_keys_ignored", why="RSA under 2048 bits", keys=keys.weak)


def _fold(reports: list[bytes]) -> bytes:
    workers = _read(reports)
    return msgspec.msgpack.encode(fold(workers)) if workers else b""


def _read(reports: list[bytes]) -> list[WorkerStatus]:
    read = []
    for report in reports:
        try:
            read.append(_decode(report))
        except msgspec.MsgspecError:
            # A worker that ended while it reported, or one of another version.
            _log.warning("worker_report_unreadable", bytes=len(report))
    return read


def _history(journal: Path, wanted: AuditFilter) -> list[AuditRecord]:
    """Read what is ``wanted`` from the journal's newest records, newest last. It blocks."""
    query = Query(
        limit=wanted.limit,
        flow=wanted.flow,
        interaction=wanted.interaction,
        operation=wanted.operation,
        outcome=wanted.outcome,
    )
    return newest_calls(journal, query)
