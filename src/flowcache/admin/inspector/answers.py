"""What ``/inspector`` and ``/inspector/circuits`` answer, as records.

They are what is sent, and the source of its schema in ``/openapi.json``: names, types and
descriptions stand here and nowhere else. Names are camelCase on the wire.

Wire compatibility: fields are never renamed or removed. New ones may be added.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from flowcache.ports import Access, Mode
from flowcache.status import CIRCUIT_STATES, EncryptionStatus, StoreStatus

__all__ = [
    "CONFIGURED",
    "AuditEntry",
    "CallMetrics",
    "Circuit",
    "Circuits",
    "CircuitsSwitched",
    "DeliveryState",
    "EventLoop",
    "Inspector",
    "JournalState",
    "LatencyPercentiles",
    "Override",
    "RetriesAndHedges",
    "ServiceMetrics",
    "StoreState",
    "TlsState",
    "WorkerState",
]

CONFIGURED = "configured"
"""In place of a mode: the override is removed, and the configuration decides."""

Count = Annotated[int, Meta(ge=0)]
Number = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""UTC with milliseconds, as ``2026-01-31T08:00:00.000Z``."""
State = Annotated[str, Meta(extra_json_schema={"enum": list(CIRCUIT_STATES)})]
AskedMode = Annotated[str, Meta(extra_json_schema={"enum": [*Mode, CONFIGURED]})]


class LatencyPercentiles(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Milliseconds that this share of the calls did not exceed; null without calls."""

    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class CallMetrics(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What came of calls since the workers started."""

    total_requests: Count
    cache_hits: Count
    cache_misses: Count
    total_latency: Annotated[Number, Meta(description="Milliseconds of all calls together.")]
    hit_ratio: Annotated[Share, Meta(description="Hits of all lookups, 0 to 1.")]
    avg_latency_ms: Number
    errors: Annotated[
        dict[str, Count],
        Meta(description="Calls that failed, by `code`; `cancelled`: the caller hung up."),
    ]
    latency: LatencyPercentiles


class ServiceMetrics(CallMetrics, frozen=True, kw_only=True, rename="camel"):
    """What came of all calls since the workers started, and of those of each operation."""

    operations: dict[str, CallMetrics]


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who touched which key in which interaction, and what came of it."""

    timestamp: Time
    request_id: str
    client: str | None
    flow_id: str | None
    interaction_id: str | None
    operation: str | None
    key: str | None
    outcome: Annotated[
        str,
        Meta(
            description="`ok`, a failure's code, `cancelled`; `intended` for a write whose "
            "outcome was not recorded."
        ),
    ]
    success: bool
    hit: bool | None
    hit_ratio: Annotated[bool, Meta(description="Whether it was a hit.")]
    latency_ms: Number
    address: Annotated[str | None, Meta(description="The caller's address.")]
    shard: Annotated[str | None, Meta(description="The shard that the command was sent to.")]
    stale: Annotated[bool, Meta(description="Whether a replica answered instead.")]
    kind: Annotated[
        str,
        Meta(
            description="`call`; `intent` and `outcome` of a write that was recorded before it "
            "was done, too; `correction` of what an earlier record of the request says; `refused` "
            "for more refusals of an address; `lost`."
        ),
    ]
    detail: Annotated[
        str | None,
        Meta(
            description="JSON: why a JWT was refused; for a record that is not a call, more about "
            "what was done."
        ),
    ]


class Circuit(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A shard's circuit for one kind of access."""

    worker: Count
    shard: str
    access: Access
    mode: Mode
    state: State
    consecutive_failures: Count
    calls: Annotated[Count, Meta(description="What the two rates are taken of.")]
    failure_rate: Annotated[Share | None, Meta(description="Null without calls.")]
    slow_rate: Annotated[Share | None, Meta(description="Null without calls.")]
    retry_after_seconds: Number
    reopened: Annotated[Count, Meta(description="How often, since it was last closed.")]
    refused: Count
    would_refuse: Annotated[Count, Meta(description="Calls that mode `observe` let through.")]
    transitions: Count


class Override(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What an operator set for circuits."""

    mode: AskedMode
    shard: str | None
    access: Access | None
    by: Annotated[str, Meta(description="The client whose credential it was.")]
    at: Time


class Circuits(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The circuits of all workers, and the overrides."""

    configured: Annotated[Mode, Meta(description="`breaker.mode`.")]
    overrides: Annotated[
        list[Override],
        Meta(description="In force; of two for one circuit the later counts."),
    ]
    circuits: list[Circuit]


class CircuitsSwitched(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What an override changed."""

    mode: AskedMode
    shard: str | None
    access: Access | None
    circuits: Annotated[Count, Meta(description="How many have another mode now.")]
    workers: Annotated[Count, Meta(description="How many workers have followed.")]
    silent: Annotated[Count, Meta(description="How many did not answer; they follow later.")]


class RetriesAndHedges(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Commands that were retried, hedged or answered by a fallback, since the workers started."""

    hedges: Count
    hedges_refused: Count
    late_hedges: Count
    fallback_reads: Count
    retries: Count
    retries_refused: Count


class JournalState(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How a worker's writing to the audit journal does."""

    worker: Count
    writer: Annotated[str, Meta(description="Its name in the journal.")]
    path: str
    mode: Annotated[str, Meta(extra_json_schema={"enum": ["relaxed", "strict"]})]
    fault: str | None
    queued: Count
    written: Count
    lost: Count
    tampering: Annotated[
        str | None, Meta(description="What is in the journal and is not what was written there.")
    ]
    pruned: Annotated[Count, Meta(description="Records that retention removed.")]
    pruned_early: Annotated[
        Count, Meta(description="Of these, those younger than `audit.keep_days`.")
    ]


class DeliveryState(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How the audit is delivered to a destination."""

    destination: Annotated[
        str, Meta(extra_json_schema={"enum": ["stream", "file", "http", "cxone"]})
    ]
    delivered: Count
    failures: Annotated[Count, Meta(description="Attempts to deliver a batch that failed.")]
    missed: Annotated[Count, Meta(description="Records that retention removed before it had them.")]
    behind: Annotated[Count, Meta(description="Records that it has not had yet.")]
    behind_seconds: Annotated[Number, Meta(description="How long the oldest of them has waited.")]
    last_delivered: Time | None
    fault: Annotated[str | None, Meta(description="Why the last attempt failed, if it did.")]
    last_failed: Time | None
    stopped: Annotated[bool, Meta(description="It refused; nothing is tried any more.")]


class TlsState(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What TLS a worker speaks."""

    worker: Count
    certificate_expires: Time


class StoreState(StoreStatus, frozen=True, kw_only=True, rename="camel"):
    """How a worker's connections to Redis do."""

    worker: Count


class EventLoop(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How late a worker's event loop was."""

    lag_ms: Annotated[Number, Meta(description="A moment ago.")]
    longest_lag_ms: Annotated[Number, Meta(description="The most since the worker started.")]
    lost_seconds: Annotated[
        Number, Meta(description="Time in which it did not turn; Redis is not judged by it.")
    ]


class WorkerState(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A process that serves."""

    pid: Count
    started_at: Time
    in_flight: Count
    audit_records: Count
    event_loop: EventLoop | None


class Inspector(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the service knows of itself."""

    metrics: ServiceMetrics
    audit_logs: Annotated[list[AuditEntry], Meta(description="Newest last.")]
    circuit_state: Annotated[State, Meta(description="The worst of all circuits.")]
    redis_cluster_status: Annotated[str, Meta(description="`ready`, or the first that is not.")]
    circuits: list[Circuit]
    retries_and_hedges: RetriesAndHedges
    journal: Annotated[list[JournalState], Meta(description="Empty without a journal.")]
    deliveries: list[DeliveryState]
    tls: Annotated[list[TlsState], Meta(description="Empty where plain HTTP is spoken.")]
    encryption: Annotated[
        EncryptionStatus | None,
        Meta(description="Encryption at rest, by the id of each key; null where there is none."),
    ]
    redis: list[StoreState]
    workers: list[WorkerState]
    configuration: Annotated[dict[str, Any], Meta(description="Secrets are masked.")]
    version: str
