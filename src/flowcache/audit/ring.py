"""The newest audit records, in memory, bounded."""

from __future__ import annotations

from collections import deque

from msgspec import structs

from flowcache.audit.redaction import Redaction
from flowcache.ports import AuditRecord

__all__ = ["AuditRing"]


class AuditRing:
    """Keep the newest ``capacity`` records; the oldest make room. An `AuditSink`.

    Attempts without a known client have a ring of their own, a tenth of that: else anybody
    could wash out what clients did by knocking often enough.
    """

    __slots__ = ("_records", "_redact", "_unauthenticated", "total")

    wants_intents = False

    def __init__(self, capacity: int, redact: Redaction | None = None) -> None:
        self._redact = redact
        self._records: deque[AuditRecord] = deque(maxlen=capacity)
        self._unauthenticated: deque[AuditRecord] = deque(maxlen=-(-capacity // 10))
        self.total = 0
        """How many were ever recorded."""

    def admit(self) -> None:
        """Pass: memory is always there."""

    def record(self, record: AuditRecord) -> None:
        """Keep one record."""
        self.total += 1
        (self._unauthenticated if record.client is None else self._records).append(record)

    def newest(self, limit: int) -> list[AuditRecord]:
        """Return up to ``limit`` records, newest last."""
        if limit <= 0:
            return []
        newest = sorted((*self._records, *self._unauthenticated), key=_at)[-limit:]
        return newest if self._redact is None else [_redacted(r, self._redact) for r in newest]


def _redacted(record: AuditRecord, redact: Redaction) -> AuditRecord:
    return (
        record if record.key is None else structs.replace(record, key=redact(record.key).encode())
    )


def _at(record: AuditRecord) -> float:
    return record.at
