"""What the inspector shows of the journal: its newest calls, as records like those in memory."""

from __future__ import annotations

from pathlib import Path

import structlog

from flowcache.audit.chain import Entry
from flowcache.audit.database import JournalFault
from flowcache.audit.reading import Query, Reader
from flowcache.ports import AuditRecord

__all__ = ["newest_calls"]

_log = structlog.get_logger(__name__)

_SEARCHED = 20_000
"""How many of the newest records are looked through; the command line has no such end."""


def newest_calls(journal: Path, query: Query) -> list[AuditRecord]:
    """Return what fits ``query``, newest last. It blocks; a journal that can't be read has nothing.

    A key is as the journal keeps it.
    """
    try:
        with Reader(journal) as reader:
            found = [
                _record(e) for e in reader.newest(query, _SEARCHED) if e.request_id is not None
            ]
    except JournalFault as fault:
        _log.warning("audit_journal_unreadable", fault=str(fault))
        return []
    return found[::-1]


def _record(entry: Entry) -> AuditRecord:
    return AuditRecord(
        entry.at,
        entry.request_id or "",
        entry.client,
        entry.flow,
        entry.interaction,
        entry.operation,
        None if entry.key is None else entry.key.encode(),
        entry.outcome or "",
        None if entry.hit is None else bool(entry.hit),
        entry.latency_ms or 0.0,
        entry.address,
        entry.shard,
        bool(entry.stale),
        entry.kind,
        entry.detail,
    )
