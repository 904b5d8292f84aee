"""The inspector's JSON, made from what all workers say of themselves. Pure.

The first four fields are the seed's and keep its names: `metrics`, `auditLogs`, `circuitState`,
`redisClusterStatus`. So do `totalRequests`, `cacheHits`, `cacheMisses`, `totalLatency`,
`hitRatio` and `avgLatencyMs` inside `metrics`, and in an audit entry `hitRatio`, which there is
the boolean that is also called `hit`. Ratios are numbers; the seed sent them as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from flowcache.errors import InvalidRequest
from flowcache.metrics.counters import merge
from flowcache.metrics.latency import percentile_ms
from flowcache.metrics.totals import merge_encryption
from flowcache.ports import FAILED, AuditRecord, has_failed
from flowcache.status import (
    CIRCUIT_STATES,
    DeliveryStatus,
    LoopStatus,
    OperationStats,
    WorkerStatus,
)

__all__ = ["MAX_LIMIT", "AuditFilter", "circuits_of", "iso", "view"]

_PERCENTILES = (("p50Ms", 0.50), ("p95Ms", 0.95), ("p99Ms", 0.99))
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
) -> dict[str, Any]:
    """Return the whole document.

    ``records`` are those of the audit journal that are ``wanted``, newest last; without a journal
    they are what the workers have in memory. ``deliveries`` tells how they are delivered elsewhere.
    """
    names = workers[0].operations
    everybody, workers = workers, [worker for worker in workers if worker.alive]
    by_name = {name: merge(worker.operations[name] for worker in everybody) for name in names}
    circuits = [circuit for worker in workers for circuit in worker.circuits]
    stores = [worker.store for worker in workers]
    return {
        "metrics": _metrics(merge(by_name.values()))
        | {"operations": {n: _metrics(s) for n, s in by_name.items() if s.outcomes}},
        "auditLogs": _audit(workers, wanted)
        if records is None
        else [_entry(record) for record in records],
        "circuitState": next(
            (
                state
                for state in reversed(CIRCUIT_STATES)
                if any(c.state == state for c in circuits)
            ),
            "closed",
        ),
        "redisClusterStatus": next(
            (store.status for store in stores if store.status != "ready"), "ready"
        ),
        "circuits": circuits_of(workers),
        "retriesAndHedges": {
            "hedges": sum(worker.reads.hedges for worker in everybody),
            "hedgesRefused": sum(worker.reads.hedges_refused for worker in everybody),
            "lateHedges": sum(worker.reads.late_hedges for worker in everybody),
            "fallbackReads": sum(worker.reads.fallback for worker in everybody),
            "retries": sum(worker.store.retries for worker in everybody),
            "retriesRefused": sum(worker.store.retries_refused for worker in everybody),
        },
        "journal": [
            {
                "worker": worker.pid,
                "writer": worker.journal.writer,
                "path": worker.journal.path,
                "mode": worker.journal.mode,
                "fault": worker.journal.fault,
                "queued": worker.journal.queued,
                "written": worker.journal.written,
                "lost": worker.journal.lost,
                "tampering": worker.journal.tampering,
                "pruned": worker.journal.pruned,
                "prunedEarly": worker.journal.pruned_early,
            }
            for worker in workers
            if worker.journal is not None
        ],
        "deliveries": [
            {
                "destination": each.destination,
                "delivered": each.delivered,
                "failures": each.failures,
                "missed": each.missed,
                "behind": sum(each.behind.values()),
                "behindSeconds": round(each.behind_seconds, 3),
                "lastDelivered": None if each.delivered_at is None else iso(each.delivered_at),
                "fault": each.fault,
                "lastFailed": None if each.fault_at is None else iso(each.fault_at),
                "stopped": each.stopped,
            }
            for each in deliveries
        ],
        "tls": [
            {"worker": worker.pid, "certificateExpires": iso(worker.certificate_expires)}
            for worker in workers
            if worker.certificate_expires is not None
        ],
        "encryption": _encryption(everybody),
        "redis": [{"worker": w.pid} | msgspec.to_builtins(w.store) for w in workers],
        "workers": [
            {
                "pid": worker.pid,
                "startedAt": iso(worker.started_at),
                "inFlight": worker.in_flight,
                "auditRecords": worker.audit_total,
                "eventLoop": None if worker.loop is None else _loop(worker.loop),
            }
            for worker in workers
        ],
        "configuration": configuration,
        "version": version,
    }


def _loop(loop: LoopStatus) -> dict[str, Any]:
    return {
        "lagMs": round(loop.last * 1000, 3),
        "longestLagMs": round(loop.longest * 1000, 3),
        "lostSeconds": round(loop.lost, 3),
    }


def _encryption(workers: Sequence[WorkerStatus]) -> dict[str, Any] | None:
    total = merge_encryption(workers)
    return None if total is None else msgspec.to_builtins(total)


def circuits_of(workers: Sequence[WorkerStatus]) -> list[dict[str, Any]]:
    """Return every circuit of the workers that live, each with its worker."""
    return [
        {
            "worker": worker.pid,
            "shard": circuit.shard,
            "access": circuit.access,
            "mode": circuit.mode,
            "state": circuit.state,
            "consecutiveFailures": circuit.failures,
            "calls": circuit.calls,
            "failureRate": _rounded(circuit.failure_rate),
            "slowRate": _rounded(circuit.slow_rate),
            "retryAfterSeconds": circuit.retry_after,
            "reopened": circuit.reopened,
            "refused": circuit.refused,
            "wouldRefuse": circuit.would_refuse,
            "transitions": sum(circuit.transitions.values()),
        }
        for worker in workers
        if worker.alive
        for circuit in worker.circuits
    ]


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 4)


def _metrics(stats: OperationStats) -> dict[str, Any]:
    total = sum(stats.outcomes.values())
    lookups = stats.hits + stats.misses
    return {
        "totalRequests": total,
        "cacheHits": stats.hits,
        "cacheMisses": stats.misses,
        "totalLatency": round(stats.total_ms, 3),
        "hitRatio": round(stats.hits / lookups, 4) if lookups else 0.0,
        "avgLatencyMs": round(stats.total_ms / total, 3) if total else 0.0,
        "errors": {code: n for code, n in sorted(stats.outcomes.items()) if code != "ok"},
        "latency": {
            name: percentile_ms(stats.latency, fraction) for name, fraction in _PERCENTILES
        },
    }


def _audit(workers: Sequence[WorkerStatus], wanted: AuditFilter) -> list[dict[str, Any]]:
    records = [record for worker in workers for record in worker.audit if wanted.keeps(record)]
    records.sort(key=lambda record: record.at)
    return [_entry(record) for record in records[max(0, len(records) - wanted.limit) :]]


def _entry(record: AuditRecord) -> dict[str, Any]:
    return {
        "timestamp": iso(record.at),
        "requestId": record.request_id,
        "client": record.client,
        "flowId": record.flow_id,
        "interactionId": record.interaction_id,
        "operation": record.operation,
        "key": record.key.decode(errors="replace") if record.key is not None else None,
        "outcome": record.outcome,
        "success": record.outcome == "ok",
        "hit": record.hit,
        "hitRatio": record.hit is True,
        "latencyMs": record.latency_ms,
        "address": record.address,
        "shard": record.shard,
        "stale": record.stale,
        "kind": record.kind,
        "detail": record.detail,
    }


def iso(at: float) -> str:
    """Write Unix seconds as JSON has them, in UTC with milliseconds."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
