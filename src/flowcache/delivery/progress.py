"""How far each destination is: a file beside the journal, written by the one process that delivers.

It is not in the journal itself, which nobody but the writers of chains writes: a commit there would
take a turn from them, and delivery would need the right to alter what it is to bear witness of.
What is lost of this file, in a power cut or by removing it, is delivered again.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import structlog

from flowcache.delivery.batch import Batch

__all__ = ["Place", "Progress", "State", "progress_path", "read_states"]

_log = structlog.get_logger(__name__)

_SCHEMA = """
BEGIN;
CREATE TABLE IF NOT EXISTS destinations (
    name TEXT PRIMARY KEY,
    since REAL NOT NULL,
    delivered INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    missed INTEGER NOT NULL DEFAULT 0,
    delivered_at REAL,
    fault TEXT,
    fault_at REAL,
    stopped INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS cursors (
    destination TEXT NOT NULL,
    writer TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (destination, writer)
) WITHOUT ROWID;
COMMIT;
"""


class State(NamedTuple):
    """How a destination does. Counts are since it was first configured; times are Unix seconds.

    ``missed`` records were let go of by the journal before it had them. ``fault`` is why the last
    attempt failed, None after one that went well; ``stopped`` says that there will be no other.
    """

    name: str
    delivered: int = 0
    failures: int = 0
    missed: int = 0
    delivered_at: float | None = None
    fault: str | None = None
    fault_at: float | None = None
    stopped: bool = False


class Place(NamedTuple):
    """Where a destination is: the last number that it has, by writer. It is one ``since`` then."""

    since: float
    cursors: Mapping[str, int]


def progress_path(journal: Path) -> Path:
    """Return where the progress of a journal's delivery is kept."""
    return Path(f"{journal}-delivery")


class Progress:
    """Keep how far destinations are. ``now`` is Unix time.

    What can't be written is told by the log, and costs what is delivered twice after a restart: it
    must not keep records from being delivered.

    Raises:
        sqlite3.Error, OSError: it can't be opened.
    """

    def __init__(self, journal: Path, now: Callable[[], float]) -> None:
        path = progress_path(journal)
        self._now = now
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        # What a power cut takes is delivered again. A process that dies loses nothing.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(_SCHEMA)

    def begin(self, name: str) -> Place:
        """Enrol a destination, or let it try again; return where it is."""
        ((since,),) = self._connection.execute(
            "INSERT INTO destinations (name, since) VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET stopped = 0 RETURNING since",
            (name, self._now()),
        )
        return Place(since, _cursors(self._connection, name))

    def delivered(self, name: str, batch: Batch) -> None:
        """Keep that ``batch`` was delivered."""
        self._write(
            (
                "INSERT INTO cursors VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET seq = excluded.seq",
                (name, batch.writer, batch.last),
            ),
            (
                "UPDATE destinations SET delivered = delivered + ?, missed = missed + ?, "
                "delivered_at = ?, fault = NULL WHERE name = ?",
                (batch.records, batch.missed, self._now(), name),
            ),
        )

    def failed(self, name: str, reason: str, *, stopped: bool) -> None:
        """Keep that an attempt failed, and whether it was the last."""
        self._write(
            (
                "UPDATE destinations SET failures = failures + 1, fault = ?, fault_at = ?, "
                "stopped = ? WHERE name = ?",
                (reason, self._now(), stopped, name),
            )
        )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _write(self, *statements: tuple[str, tuple[object, ...]]) -> None:
        """Carry out all of ``statements``, or none."""
        try:
            with self._connection:  # commits, or rolls back
                self._connection.execute("BEGIN")
                for statement, values in statements:
                    self._connection.execute(statement, values)
        except sqlite3.Error as fault:
            _log.error("the progress of the delivery can't be written", fault=str(fault))


def read_states(journal: Path) -> dict[str, tuple[State, dict[str, int]]]:
    """Return the state and the cursors of each destination there ever was; none without a file.

    Raises:
        sqlite3.Error: it can't be read.
    """
    path = progress_path(journal)
    if not path.is_file():
        return {}
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            return {}  # it is being made
        rows = connection.execute(f"SELECT {', '.join(State._fields)} FROM destinations")  # noqa: S608 - names of ours
        return {
            row[0]: (State._make((*row[:-1], bool(row[-1]))), _cursors(connection, row[0]))
            for row in rows.fetchall()
        }


def _cursors(connection: sqlite3.Connection, name: str) -> dict[str, int]:
    """Return the last number that a destination has, by writer."""
    rows = connection.execute("SELECT writer, seq FROM cursors WHERE destination = ?", (name,))
    return dict(rows.fetchall())
