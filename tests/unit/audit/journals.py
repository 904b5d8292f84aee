"""Journals for the tests: made by the real writer, broken by hand, looked at by the verifier."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from flowcache.audit.database import connect
from flowcache.audit.reading import Reader
from flowcache.audit.retention import Retention
from flowcache.audit.settings import AuditSettings
from flowcache.audit.verifying import Anchor, Report, verify
from flowcache.audit.writing import ChainWriter
from flowcache.ports import AuditRecord
from flowcache.secret import Secret

__all__ = [
    "SIGNING_KEY",
    "by_hand",
    "chain",
    "checked",
    "pruned",
    "record",
    "settings",
    "told",
    "wrong",
]

SIGNING_KEY = "the-key-that-the-tests-seal-with-"


def record(number: int = 0, **fields: Any) -> AuditRecord:
    """Return a record that differs from those of other numbers in every field that may."""
    told: dict[str, Any] = {
        "at": 1_700_000_000.0 + number,
        "request_id": f"id-{number}",
        "client": f"client-{number}",
        "flow_id": f"flow-{number}",
        "interaction_id": f"interaction-{number}",
        "operation": "GET",
        "key": f"caller:{number}".encode(),
        "outcome": "ok",
        "hit": number % 2 == 0,
        "latency_ms": 0.25 + number,
        "address": f"10.0.0.{number}",
        "shard": f"redis-{number}:6379",
        "stale": number % 2 == 1,
    }
    return AuditRecord(**(told | fields))


def settings(path: Path, *, sealed: bool = True, **fields: Any) -> AuditSettings:
    """Return the settings of a journal at ``path``."""
    key = Secret(SIGNING_KEY) if sealed else None
    return AuditSettings(**({"journal": path, "signing_key": key} | fields))


def chain(
    path: Path, batches: Sequence[int] = (1, 2), *, closed: bool = True, sealed: bool = True
) -> str:
    """Write a chain of so many records in each commit; return its writer's name."""
    times = count(1_700_000_000)
    numbers = count()
    writer = ChainWriter(settings(path, sealed=sealed), lambda: float(next(times)))
    writer.open()
    for size in batches:
        writer.append([record(next(numbers)) for _ in range(size)])
    if closed:
        writer.close()
    else:
        writer.abandon()
    return writer.name


def pruned(path: Path, now: float, step: int = 1000) -> int:
    """Take one step of retention, a day being long enough; return how many records are gone."""
    with closing(connect(path)) as hand:
        found = Retention(1, 1024, SIGNING_KEY.encode(), step).find(hand, now)
        if found is None:
            return 0
        hand.execute("BEGIN IMMEDIATE")
        found.apply(hand)
        hand.execute("COMMIT")
        return found.records


@contextmanager
def by_hand(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal as somebody would who is up to no good."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def checked(path: Path, *, sealed: bool = True, anchor: Anchor | None = None) -> Report:
    """Verify a journal."""
    with Reader(path) as reader:
        return verify(reader, SIGNING_KEY.encode() if sealed else None, anchor)


def wrong(path: Path, *, sealed: bool = True, anchor: Anchor | None = None) -> list[int | None]:
    """Return the numbers of the records that the verifier finds fault with."""
    report = checked(path, sealed=sealed, anchor=anchor)
    assert report.damage == []
    return [fault.seq for fault in report.faults]


def told(path: Path, *, sealed: bool = True) -> list[str]:
    """Return all that the verifier says."""
    report = checked(path, sealed=sealed)
    return [*report.damage, *(fault.what for fault in report.faults)]
