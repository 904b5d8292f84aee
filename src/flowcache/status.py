"""What a worker says of itself, as plain records: the inspector's and the metrics' material.

They travel between the workers of one service, so every field is a plain value.
"""

from __future__ import annotations

import msgspec

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
    retries: int = 0
    """Commands sent again because a server failed, since the worker started."""
    retries_refused: int = 0
    """Those that the budget did not allow."""


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

    hedges: int = 0
    """Slow reads that were also sent to the fallback, within the hedge budget."""
    hedges_refused: int = 0
    """Slow reads that the budget did not allow to hedge when they became slow."""
    late_hedges: int = 0
    """Of these, the reads sent to the fallback at half of their deadline, without a budget."""
    fallback: int = 0
    """Reads that the fallback answered."""


class CircuitOverride(msgspec.Struct, frozen=True):
    """An order in force. ``by`` is the principal who gave it, ``at`` when, in Unix seconds."""

    order: Order
    by: str
    at: float


class JournalStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker's writing to the audit journal does. ``fault`` is None while it is well.

    ``tampering`` says which written records were found altered. Retention removed ``pruned``
    records, ``pruned_early`` of them younger than ``audit.keep_days``. ``commits`` counts commits
    by bucket of latency, and ``commit_ms`` is the sum of these latencies.
    """

    path: str
    mode: str
    writer: str
    fault: str | None
    queued: int
    written: int
    lost: int
    commits: list[int]
    commit_ms: float
    tampering: str | None = None
    pruned: int = 0
    pruned_early: int = 0


class DeliveryStatus(msgspec.Struct, frozen=True):
    """How a destination of the audit does. Counts are of all time; times are Unix seconds.

    ``behind`` are the records that it has not had yet, by writer, and ``behind_seconds`` how long
    the oldest of them has waited. ``missed`` records were pruned before it had them. ``fault``
    is None when the last attempt went well; ``stopped``: nothing is tried any more. When it is not
    ``known`` how it does, the fault says why, it counts as stopped, and the numbers say nothing.
    """

    destination: str
    delivered: int
    failures: int
    missed: int
    behind: dict[str, int]
    behind_seconds: float
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

    ``lags`` counts how late each beat of its watch was, by bucket, and ``total`` is their sum.
    ``longest`` is the greatest of them, ``last`` the newest. ``lost`` is the time in which the loop
    did not turn, which is left out where Redis is judged.
    """

    lags: list[int]
    total: float
    longest: float
    last: float
    lost: float


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
    in_flight: int
    operations: dict[str, OperationStats]
    audit: list[AuditRecord]
    audit_total: int
    circuits: list[CircuitStatus]
    store: StoreStatus
    reads: ReadStats = ReadStats()
    at_work: int = 0
    """Of the calls in flight, those that wait for Redis: what ``http.max_in_flight`` bounds."""
    overload_refusals: int = 0
    """Calls refused for want of room: Redis was not asked."""
    certificate_expires: float | None = None
    """When the service's own ends, Unix seconds; None where no TLS is spoken."""
    journal: JournalStatus | None = None
    """None where the newest audit records in memory are all there are."""
    encryption: EncryptionStatus | None = None
    """None where nothing is encrypted."""
    loop: LoopStatus | None = None
    """None where nobody watches the event loop."""
