"""The inspector's JSON, made from what all workers say of themselves. Pure.

The first four fields keep the names of the tutorial: `metrics`, `auditLogs`, `circuitState`,
`redisClusterStatus`. So do `totalRequests`, `cacheHits`, `cacheMisses`, `totalLatency`,
`hitRatio` and `avgLatencyMs` inside `metrics`, and in an audit entry `hitRatio`, which there is
the boolean that is also called `hit`. Ratios are numbers; the tutorial sent them as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from flowcache.admin.inspector.answers import (
    AuditEntry,
    CallMetrics,
    Circuit,
    DeliveryState,
    EventLoop,
    Inspector,
    JournalState,
    LatencyPercentiles,
    RetriesAndHedges,
    ServiceMetrics,
    StoreState,
    TlsState,
    WorkerState,
)
from flowcache.errors import InvalidRequest
from flowcache.measures import add_up
from flowcache.metrics.counters import merge
from flowcache.metrics.latency import percentile_ms
from flowcache.metrics.totals import merge_encryption
from flowcache.ports import FAILED, Access, AuditRecord, Mode, has_failed
from flowcache.status import (
    CIRCUIT_STATES,
    DeliveryStatus,
    JournalStatus,
    LoopStatus,
    OperationStats,
    WorkerStatus,
)

__all__ = ["MAX_LIMIT", "AuditFilter", "circuits_of", "iso", "view"]

_DEFAULT_LIMIT = 50
MAX_LIMIT = 10_000


class AuditFilter(msgspec.Struct, frozen=True):
    """Which audit records to show: the newest ``limit`` of those that fit."""

    limit: int = _DEFAULT_LIMIT
    flow: str | None = None
    interaction: str | None = None
    operation: str | None = None
    outcome: str | None = None

    @classmethod
    def from_query(cls, query: dict[str, str]) -> AuditFilter:
        """Read ``?limit=&flow=&interaction=&operation=&outcome=``.

        Raises:
            InvalidRequest: a parameter is unknown, or the limit is no number in range.
        """
        unknown = query.keys() - set(cls.__struct_fields__)
        if unknown:
            raise InvalidRequest(
                f"{min(unknown)}: unknown; there are {', '.join(cls.__struct_fields__)}."
            )
        text = query.get("limit", str(_DEFAULT_LIMIT))
        digits = text.lstrip("0") or text[-1:]
        if not (
            digits.isascii() and digits.isdigit() and len(digits) < 9 and int(digits) <= MAX_LIMIT
        ):
            raise InvalidRequest(f"limit: expected a number from 0 to {MAX_LIMIT}.")
        operation = query.get("operation")
        return cls(
            int(digits),
            query.get("flow"),
            query.get("interaction"),
            operation.upper() if operation else None,
            query.get("outcome"),
        )

    def keeps(self, record: AuditRecord) -> bool:
        """Tell whether ``record`` is wanted. ``failed`` is any that `has_failed`."""
        return (
            (self.flow is None or record.flow_id == self.flow)
            and (self.interaction is None or record.interaction_id == self.interaction)
            and (self.operation is None or record.operation == self.operation)
            and (
                self.outcome is None
                or record.outcome == self.outcome
                or (self.outcome == FAILED and has_failed(record.outcome))
            )
        )


def view(
    workers: Sequence[WorkerStatus],
    wanted: AuditFilter,
    configuration: dict[str, Any],
    version: str,
    records: Sequence[AuditRecord] | None = None,
    deliveries: Sequence[DeliveryStatus] = (),
) -> Inspector:
    """Return the whole document.

    ``records`` are those of the audit journal that are ``wanted``, newest last; without a journal
    they are what the workers have in memory. ``deliveries`` says how they are delivered elsewhere.
    """
    everybody, workers = workers, [worker for worker in workers if worker.alive]
    circuits = circuits_of(workers)
    reads = add_up([worker.reads for worker in everybody])
    store = add_up([worker.store for worker in everybody])
    return Inspector(
        metrics=_metrics(everybody),
        audit_logs=[
            _entry(each) for each in (_audit(workers, wanted) if records is None else records)
        ],
        circuit_state=next(
            (
                state
                for state in reversed(CIRCUIT_STATES)
                if any(c.state == state for c in circuits)
            ),
            "closed",
        ),
        redis_cluster_status=next(
            (w.store.status for w in workers if w.store.status != "ready"), "ready"
        ),
        circuits=circuits,
        retries_and_hedges=RetriesAndHedges(
            hedges=reads.hedges,
            hedges_refused=reads.hedges_refused,
            late_hedges=reads.late_hedges,
            fallback_reads=reads.fallback,
            retries=store.retries,
            retries_refused=store.retries_refused,
        ),
        journal=[_journal(w.pid, w.journal) for w in workers if w.journal is not None],
        deliveries=[_delivery(each) for each in deliveries],
        tls=[
            TlsState(worker=worker.pid, certificate_expires=iso(worker.certificate_expires))
            for worker in workers
            if worker.certificate_expires is not None
        ],
        encryption=merge_encryption(everybody),
        redis=[StoreState(worker=w.pid, **msgspec.structs.asdict(w.store)) for w in workers],
        workers=[
            WorkerState(
                pid=worker.pid,
                started_at=iso(worker.started_at),
                in_flight=worker.in_flight,
                audit_records=worker.audit_total,
                event_loop=None if worker.loop is None else _loop(worker.loop),
            )
            for worker in workers
        ],
        configuration=configuration,
        version=version,
    )


def circuits_of(workers: Sequence[WorkerStatus]) -> list[Circuit]:
    """Return every circuit of the workers that live, each with its worker."""
    return [
        Circuit(
            worker=worker.pid,
            shard=circuit.shard,
            access=Access(circuit.access),
            mode=Mode(circuit.mode),
            state=circuit.state,
            consecutive_failures=circuit.failures,
            calls=circuit.calls,
            failure_rate=_rounded(circuit.failure_rate),
            slow_rate=_rounded(circuit.slow_rate),
            retry_after_seconds=circuit.retry_after,
            reopened=circuit.reopened,
            refused=circuit.refused,
            would_refuse=circuit.would_refuse,
            transitions=sum(circuit.transitions.values()),
        )
        for worker in workers
        if worker.alive
        for circuit in worker.circuits
    ]


def _metrics(workers: Sequence[WorkerStatus]) -> ServiceMetrics:
    names = workers[0].operations
    by_name = {name: merge(worker.operations[name] for worker in workers) for name in names}
    return ServiceMetrics(
        **_call_metrics(merge(by_name.values())),
        operations={
            name: CallMetrics(**_call_metrics(stats))
            for name, stats in by_name.items()
            if stats.outcomes
        },
    )


def _call_metrics(stats: OperationStats) -> dict[str, Any]:
    """Return the fields of `CallMetrics`."""
    total = sum(stats.outcomes.values())
    lookups = stats.hits + stats.misses
    p50, p95, p99 = (percentile_ms(stats.latency, share) for share in (0.50, 0.95, 0.99))
    return {
        "total_requests": total,
        "cache_hits": stats.hits,
        "cache_misses": stats.misses,
        "total_latency": round(stats.total_ms, 3),
        "hit_ratio": round(stats.hits / lookups, 4) if lookups else 0.0,
        "avg_latency_ms": round(stats.total_ms / total, 3) if total else 0.0,
        "errors": {code: n for code, n in sorted(stats.outcomes.items()) if code != "ok"},
        "latency": LatencyPercentiles(p50_ms=p50, p95_ms=p95, p99_ms=p99),
    }


def _audit(workers: Sequence[WorkerStatus], wanted: AuditFilter) -> Sequence[AuditRecord]:
    records = [record for worker in workers for record in worker.audit if wanted.keeps(record)]
    records.sort(key=lambda record: record.at)
    return records[max(0, len(records) - wanted.limit) :]


def _entry(record: AuditRecord) -> AuditEntry:
    return AuditEntry(
        timestamp=iso(record.at),
        request_id=record.request_id,
        client=record.client,
        flow_id=record.flow_id,
        interaction_id=record.interaction_id,
        operation=record.operation,
        key=record.key.decode(errors="replace") if record.key is not None else None,
        outcome=record.outcome,
        success=record.outcome == "ok",
        hit=record.hit,
        hit_ratio=record.hit is True,
        latency_ms=record.latency_ms,
        address=record.address,
        shard=record.shard,
        stale=record.stale,
        kind=record.kind,
        detail=record.detail,
    )


def _journal(worker: int, journal: JournalStatus) -> JournalState:
    return JournalState(
        worker=worker,
        writer=journal.writer,
        path=journal.path,
        mode=journal.mode,
        fault=journal.fault,
        queued=journal.queued,
        written=journal.written,
        lost=journal.lost,
        tampering=journal.tampering,
        pruned=journal.pruned,
        pruned_early=journal.pruned_early,
    )


def _delivery(status: DeliveryStatus) -> DeliveryState:
    return DeliveryState(
        destination=status.destination,
        delivered=status.delivered,
        failures=status.failures,
        missed=status.missed,
        behind=sum(status.behind.values()),
        behind_seconds=round(status.behind_seconds, 3),
        last_delivered=None if status.delivered_at is None else iso(status.delivered_at),
        fault=status.fault,
        last_failed=None if status.fault_at is None else iso(status.fault_at),
        stopped=status.stopped,
    )


def _loop(loop: LoopStatus) -> EventLoop:
    return EventLoop(
        lag_ms=round(loop.last * 1000, 3),
        longest_lag_ms=round(loop.longest * 1000, 3),
        lost_seconds=round(loop.lost, 3),
    )


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 4)


def iso(at: float) -> str:
    """Write Unix seconds as JSON has them, in UTC with milliseconds."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
