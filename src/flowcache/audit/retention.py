"""What the journal lets go of: whatever is too old, and the oldest when it is too much.

Records leave from the front of a chain, in steps of a bounded size, each in one transaction with
the `Cut` that says where the chain goes on. A chain's last record is never removed: it is what
shows that the chain was there. So each life of a worker leaves one record for good.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from flowcache.audit import database
from flowcache.audit.chain import Cut, cut_seal

__all__ = ["Retention"]

_STEP = 1000
"""The most records that one transaction removes: some milliseconds in which nobody else writes."""
_DAY = 86_400.0


class Retention:
    """Keep at most ``max_mb`` mebibytes of records, none older than ``keep_days``."""

    def __init__(self, keep_days: int, max_mb: int, key: bytes | None, step: int = _STEP) -> None:
        self._keep_seconds = keep_days * _DAY
        self._max_bytes = max_mb << 20
        self._key = key
        self._step = step

    def step(self, connection: sqlite3.Connection, now: float) -> bool:
        """Remove up to a step of records; tell whether any were. Have the turn while you do.

        Raises:
            sqlite3.Error: it can't be done now.
        """
        found = self._find(connection, now)
        if found is None:
            return False
        connection.execute("BEGIN IMMEDIATE")
        self._cut(connection, *found, now)
        connection.execute("COMMIT")
        return True

    def _find(self, connection: sqlite3.Connection, now: float) -> tuple[int, int] | None:
        """Return the next writer to cut, and the number of the last record to remove."""
        fronts = list(_fronts(connection))
        expired = [writer for at, writer in fronts if at < now - self._keep_seconds]
        if expired:
            writer, oldest_kept = expired[0], now - self._keep_seconds
        elif fronts and _bytes(connection) > self._max_bytes:
            writer, oldest_kept = min(fronts)[1], float("inf")
        else:
            return None
        rows = connection.execute(
            "SELECT seq, at FROM records WHERE writer = ?1 AND seq < "
            "(SELECT max(seq) FROM records WHERE writer = ?1) ORDER BY seq LIMIT ?2",
            (writer, self._step),
        )
        last = -1
        for seq, at in rows:
            if at >= oldest_kept:
                break
            last = seq
        return writer, last

    def _cut(self, connection: sqlite3.Connection, writer: int, last: int, now: float) -> None:
        (hash_,) = connection.execute(
            "SELECT hash FROM records WHERE writer = ? AND seq = ?", (writer, last)
        ).fetchone()
        cut = Cut(writer, last + 1, hash_, now, None)
        seal = None if self._key is None else cut_seal(self._key, cut)
        connection.execute(
            "INSERT OR REPLACE INTO cuts (writer, seq, hash, at, seal) VALUES (?, ?, ?, ?, ?)",
            (*cut[:4], seal),
        )
        connection.execute("DELETE FROM records WHERE writer = ? AND seq <= ?", (writer, last))


def _fronts(connection: sqlite3.Connection) -> Iterator[tuple[float, int]]:
    """Yield time and writer of the first record of each chain that has more than one."""
    for writer in database.writers(connection):
        first = connection.execute(
            "SELECT at FROM records WHERE writer = ? ORDER BY seq LIMIT 2", (writer,)
        ).fetchall()
        if len(first) == 2:
            yield first[0][0], writer


def _bytes(connection: sqlite3.Connection) -> int:
    """Return how many bytes of the file are in use."""
    return (
        database.number(connection, "PRAGMA page_count")
        - database.number(connection, "PRAGMA freelist_count")
    ) * database.number(connection, "PRAGMA page_size")
