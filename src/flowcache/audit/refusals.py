"""Unauthenticated requests above their limit: counted by address, recorded once a minute.

Whoever shows wrong credentials too often is refused unseen (`authn.gate`). If each such call had a
record, anybody could cause as many records as they can send calls: the disk would be
theirs, and in strict mode its commits. So of each address the first is recorded as it comes, and
how many more there were is one record an interval.
"""

from __future__ import annotations

import msgspec
from msgspec import structs

from flowcache.audit.chain import Kind
from flowcache.ports import AuditRecord
from flowcache.ratelimit.buckets import owner

__all__ = ["INTERVAL_SECONDS", "Refusals"]

INTERVAL_SECONDS = 60.0
"""How long refusals are counted before they are told."""
_CAPACITY = 1000
"""The most addresses that are told apart in an interval; the others are counted together."""
_OTHERS = "others"


class _Count:
    __slots__ = ("first", "more")

    def __init__(self, first: AuditRecord) -> None:
        self.first = first
        self.more = 0


class Refusals:
    """Count refusals by who was refused, and tell them as records."""

    __slots__ = ("_capacity", "_counts")

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._counts: dict[str, _Count] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def count(self, record: AuditRecord) -> bool:
        """Count a refusal; tell whether it is the first of its address, to be kept as it is."""
        name = owner(record.address)
        if name not in self._counts and len(self._counts) >= self._capacity:
            name = _OTHERS
        known = self._counts.get(name)
        if known is None:
            self._counts[name] = _Count(record)
            return True
        known.more += 1
        return False

    def told(self, now: float) -> list[AuditRecord]:
        """Return a record for each address that was refused more than once, and count anew."""
        counts, self._counts = self._counts, {}
        return [
            structs.replace(
                each.first,
                at=now,
                address=name,
                latency_ms=0.0,
                kind=Kind.REFUSED.value,
                detail=msgspec.json.encode({"more": each.more, "since": each.first.at}).decode(),
            )
            for name, each in counts.items()
            if each.more
        ]
