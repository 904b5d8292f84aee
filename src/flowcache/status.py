"""What a worker says of itself, as plain records: the inspector's and the metrics' material.

They travel between the workers of one service, so every field is a plain value. What is a metric
says so at its field (`measures`).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from flowcache.measures import Counter, Gauge, Histogram, Timings
from flowcache.ports import AuditRecord, Order

__all__ = [
    "CIRCUIT_STATES",
    "CircuitOverride",
    "CircuitStatus",
    "DeliveryStatus",
    "EncryptionKeyStatus",
    "EncryptionStatus",
    "JournalStatus",
    "LinkStatus",
    "LoopStatus",
    "OperationStats",
    "ReadStats",
    "ShardStatus",
    "StoreStatus",
    "WorkerStatus",
]


CIRCUIT_STATES = ("closed", "half-open", "open")
"""As the breaker names them, from well to worst."""


class LinkStatus(msgspec.Struct, frozen=True):
    """How a link does. ``fault`` says why it was lost or can't connect; None while it is well."""

    address: str
    state: str
    pending: int
    connects: int
    losses: int
    fault: str | None


class ShardStatus(msgspec.Struct, frozen=True):
    """A shard, the slots it holds as inclusive ranges, and its links."""

    name: str
    slots: tuple[tuple[int, int], ...]
    primary: LinkStatus
    replicas: tuple[LinkStatus, ...]
    writer: LinkStatus | None = None
    """To the primary, too, for writes that wait for replicas; None where they don't."""


class StoreStatus(msgspec.Struct, frozen=True, rename="camel"):
    """How the store does. ``status`` speaks as ioredis does: ready, connecting, reconnecting."""

    status: str
    topology: str | None
    fault: str | None
    shards: tuple[ShardStatus, ...]
    retries: Annotated[
        int, Counter("flowcache_retries", "Commands retried because a server failed.")
    ] = 0
    retries_refused: Annotated[
        int,
        Counter(
            "flowcache_retries_refused",
            "Commands that the retry budget did not allow to retry.",
        ),
    ] = 0


class CircuitStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A shard's circuit for one kind of access.

    ``failures`` are those in a row. ``failure_rate`` and ``slow_rate`` are shares of ``calls``,
    None while there are none. ``retry_after`` is in seconds, 0 when calls are let through.
    ``reopened`` counts since the circuit was last closed; ``refused``, ``would_refuse`` (in mode
    observe) and ``transitions`` (by the state that was entered) since it was made.
    """

    shard: str
    access: str
    mode: str
    state: str
    failures: int
    calls: int
    failure_rate: float | None
    slow_rate: float | None
    retry_after: float
    reopened: int
    refused: int
    would_refuse: int
    transitions: dict[str, int]


class ReadStats(msgspec.Struct, frozen=True):
    """How many reads were hedged or answered by a fallback since the worker started."""

    hedges: Annotated[
        int,
        Counter(
            "flowcache_hedges",
            "Slow reads that were also sent to the fallback, within the hedge budget.",
        ),
    ] = 0
    hedges_refused: Annotated[
        int,
        Counter(
            "flowcache_hedges_refused",
            "Slow reads that the hedge budget did not allow to hedge.",
        ),
    ] = 0
    late_hedges: Annotated[
        int,
        Counter(
            "flowcache_late_hedges",
            "Reads without a reply at half of their deadline, sent to the fallback.",
        ),
    ] = 0
    fallback: Annotated[
        int, Counter("flowcache_fallback_reads", "Reads that the fallback answered.")
    ] = 0


class CircuitOverride(msgspec.Struct, frozen=True):
    """An order in force. ``by`` is the principal who gave it, ``at`` when, in Unix seconds."""

    order: Order
    by: str
    at: float


class JournalStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker's writing to the audit journal does. ``fault`` is None while it is well.

    ``tampering`` says which written records were found altered.
    """

    path: str
    mode: str
    writer: str
    fault: Annotated[
        str | None,
        Gauge("flowcache_audit_broken", "Workers that can't write the audit journal."),
    ]
    queued: Annotated[
        int, Gauge("flowcache_audit_queued", "Audit records that wait to be written.")
    ]
    written: Annotated[int, Counter("flowcache_audit_written", "Audit records that are on disk.")]
    lost: Annotated[int, Counter("flowcache_audit_lost", "Audit records that could not be kept.")]
    commits: Annotated[
        Timings,
        Histogram(
            "flowcache_audit_commit_seconds",
            "From a batch of audit records to its being on disk.",
        ),
    ]
    tampering: Annotated[
        str | None,
        Gauge(
            "flowcache_audit_tampered",
            "Workers that found what is in the journal to be other than what was written.",
        ),
    ] = None
    pruned: Annotated[
        int, Counter("flowcache_audit_pruned", "Audit records that retention removed.")
    ] = 0
    pruned_early: Annotated[
        int,
        Counter(
            "flowcache_audit_pruned_early",
            "Of these, younger than audit.keep_days: the journal was larger than audit.max_mb.",
        ),
    ] = 0


class DeliveryStatus(msgspec.Struct, frozen=True):
    """How a destination of the audit does. Counts are of all time; times are Unix seconds.

    ``behind`` are the records that it has not had yet, by writer, and ``behind_seconds`` how long
    the oldest of them has waited. ``missed`` records were pruned before it had them. ``fault``
    is None when the last attempt went well; ``stopped``: nothing is tried any more. When it is not
    ``known`` how it does, the fault says why, it counts as stopped, and the numbers say nothing.
    """

    destination: str
    delivered: Annotated[
        int, Counter("flowcache_audit_delivered", "Audit records that a destination has.")
    ]
    failures: Annotated[
        int,
        Counter("flowcache_audit_delivery_failures", "Attempts to deliver a batch that failed."),
    ]
    missed: Annotated[
        int,
        Counter(
            "flowcache_audit_delivery_missed",
            "Audit records that retention removed before a destination had them.",
        ),
    ]
    behind: dict[str, int]
    behind_seconds: Annotated[
        float,
        Gauge(
            "flowcache_audit_delivery_behind_seconds",
            "How long the oldest of the records has waited that a destination has not had.",
        ),
    ]
    delivered_at: float | None
    fault: str | None
    fault_at: float | None
    stopped: bool
    known: bool = True


class EncryptionKeyStatus(msgspec.Struct, frozen=True):
    """A key of encryption at rest: whether it is the active one, and how often it was used."""

    active: bool
    encrypted: int
    decrypted: int


class EncryptionStatus(msgspec.Struct, frozen=True, rename="camel"):
    """What encryption at rest did since the worker started.

    ``keys`` are by id. ``decryption_failures`` counts values by `encryption.DecryptionFailure`.
    Values that are not encrypted count, even if ``encryption.plaintext`` lets them pass.
    """

    keys: dict[str, EncryptionKeyStatus]
    decryption_failures: dict[str, int]


class LoopStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How late the event loop of a worker was, in seconds, since the worker started.

    ``lags`` says how late each beat of its watch was; ``longest`` is the greatest of them, ``last``
    the newest.
    """

    lags: Annotated[
        Timings,
        Histogram(
            "flowcache_event_loop_lag_seconds",
            "How late the timer was that watches the event loop.",
        ),
    ]
    longest: float
    last: float
    lost: Annotated[
        float,
        Counter(
            "flowcache_event_loop_lost_seconds",
            "Time in which the event loop did not turn; Redis is not judged by it.",
        ),
    ]


class OperationStats(msgspec.Struct, frozen=True):
    """What came of the calls of one operation since the worker started.

    ``outcomes`` counts by ``ok`` or a failure's code; ``latency`` counts calls by bucket, see
    `metrics.latency`; ``total_ms`` is the sum of all latencies.
    """

    outcomes: dict[str, int]
    hits: int
    misses: int
    total_ms: float
    latency: list[int]


class WorkerStatus(msgspec.Struct, frozen=True):
    """All that a worker knows of itself. ``started_at`` is Unix seconds."""

    pid: int
    alive: bool
    """Whether it still serves; of one that has ended only its totals count."""
    started_at: float
    in_flight: Annotated[
        int, Gauge("flowcache_requests_in_flight", "Calls that wait for an answer.")
    ]
    operations: dict[str, OperationStats]
    audit: list[AuditRecord]
    audit_total: Annotated[int, Counter("flowcache_audit_records", "Audit records made.")]
    circuits: list[CircuitStatus]
    store: StoreStatus
    reads: ReadStats = ReadStats()
    at_work: Annotated[
        int,
        Gauge(
            "flowcache_requests_at_work",
            "Calls that wait for Redis: what http.max_in_flight bounds in each worker.",
        ),
    ] = 0
    overload_refusals: Annotated[
        int,
        Counter(
            "flowcache_overload_refusals",
            "Calls refused for want of room; Redis was not asked.",
        ),
    ] = 0
    certificate_expires: float | None = None
    """When the service's own ends, Unix seconds; None where no TLS is spoken."""
    journal: JournalStatus | None = None
    """None where the newest audit records in memory are all there are."""
    encryption: EncryptionStatus | None = None
    """None where nothing is encrypted."""
    loop: LoopStatus | None = None
    """None where nobody watches the event loop."""
