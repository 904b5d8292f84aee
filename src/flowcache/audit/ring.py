"""The newest audit records, in memory, bounded."""

from __future__ import annotations

from collections import deque

from flowcache.ports import AuditRecord

__all__ = ["AuditRing"]


class AuditRing:
    """Keep the newest ``capacity`` records; the oldest make room. An `AuditSink`."""

    __slots__ = ("_records", "total")

    def __init__(self, capacity: int) -> None:
        self._records: deque[AuditRecord] = deque(maxlen=capacity)
        self.total = 0
        """How many were ever recorded."""

    def record(self, record: AuditRecord) -> None:
        self.total += 1
        self._records.append(record)

    def newest(self, limit: int) -> list[AuditRecord]:
        return list(self._records)[-limit:] if limit > 0 else []
