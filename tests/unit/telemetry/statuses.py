"""What workers say of themselves, made up for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowcache.metrics.counters import Counters
from flowcache.operations.catalogue import CATALOGUE
from flowcache.ports import AuditRecord
from flowcache.status import CircuitStatus, LinkStatus, ShardStatus, StoreStatus, WorkerStatus

__all__ = ["circuit", "counted", "link", "record", "shard", "worker"]

Call = tuple[str | None, str, bool | None, float]


def counted(*calls: Call) -> Counters:
    counters = Counters(CATALOGUE)
    for call in calls:
        counters.record(*call)
    return counters


def circuit(state: str = "closed", shard: str = "a:1", **fields: Any) -> CircuitStatus:
    told: dict[str, Any] = {
        "access": "read",
        "mode": "auto",
        "failures": 0,
        "calls": 0,
        "failure_rate": None,
        "slow_rate": None,
        "retry_after": 0.0,
        "reopened": 0,
        "refused": 0,
        "would_refuse": 0,
        "transitions": {},
    }
    return CircuitStatus(shard=shard, state=state, **(told | fields))


def link(address: str = "a:1", state: str = "ready", pending: int = 0) -> LinkStatus:
    return LinkStatus(address, state, pending, 1, 0, None)


def shard(primary: LinkStatus, *replicas: LinkStatus) -> ShardStatus:
    return ShardStatus(primary.address, ((0, 16383),), primary, replicas)


def record(at: float = 0.0, **fields: Any) -> AuditRecord:
    told = {
        "request_id": f"id-{at:g}",
        "client": "flow",
        "flow_id": None,
        "interaction_id": None,
        "operation": "GET",
        "key": b"k",
        "outcome": "ok",
        "hit": True,
        "latency_ms": 0.5,
    }
    return AuditRecord(at=at, **(told | fields))


def worker(
    pid: int = 1,
    calls: Sequence[Call] = (),
    audit: Sequence[AuditRecord] = (),
    circuits: Sequence[CircuitStatus] = (),
    shards: Sequence[ShardStatus] = (),
    status: str = "ready",
    in_flight: int = 0,
    alive: bool = True,
    **fields: Any,
) -> WorkerStatus:
    store = StoreStatus(status, "standalone", None, tuple(shards))
    operations = counted(*calls).stats()
    return WorkerStatus(
        pid,
        alive,
        0.0,
        in_flight,
        operations,
        list(audit),
        len(audit),
        list(circuits),
        store,
        **fields,
    )
