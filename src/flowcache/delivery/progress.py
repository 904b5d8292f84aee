"""The position of each destination: a file next to the journal, written by the delivery process.

It is not in the journal itself, which nobody but the writers of chains writes: a commit there would
take a turn from them, and delivery would need the right to alter what it is to bear witness of.
What is lost of this file, in a power cut or by removing it, is delivered again.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import structlog

from flowcache.audit.database import make_private
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

_BROKEN = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


class State(NamedTuple):
    """How a destination does. Counts are since it was first configured; times are Unix seconds.

    ``missed`` records were pruned before it had them, or moved away with the journal.
    ``fault`` is why the last attempt failed, None after one that went well; ``stopped`` says that
    there will be no other.
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
    must not keep records from being delivered. Without a file that can be written this goes on in
    memory, from what can be read of the file, until the file can be written again.
    """

    def __init__(self, journal: Path, now: Callable[[], float]) -> None:
        self._path = progress_path(journal)
        self._now = now
        self._is_in_memory = False
        try:
            self._connection = _open(self._path)
        except (sqlite3.Error, OSError) as fault:
            self._go_on_in_memory(fault)

    def begin(self, name: str) -> Place:
        """Enrol a destination, or let it try again; return where it is."""
        try:
            return self._enrol(name)
        except sqlite3.Error as fault:
            self._connection.close()
            self._go_on_in_memory(fault)
            return self._enrol(name)

    def _enrol(self, name: str) -> Place:
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

    def left_behind(self, name: str, records: int) -> None:
        """Keep that records will never be delivered, with nothing in their place."""
        self._write(("UPDATE destinations SET missed = missed + ? WHERE name = ?", (records, name)))

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
        if self._is_in_memory:
            self._return_to_file()
        try:
            with self._connection:  # commits, or rolls back
                self._connection.execute("BEGIN")
                for statement, values in statements:
                    self._connection.execute(statement, values)
        except sqlite3.Error as fault:
            _log.error("audit_delivery_progress_unwritable", fault=str(fault))

    def _go_on_in_memory(self, fault: Exception) -> None:
        _log.error(
            "audit_delivery_progress_unwritable",
            file=str(self._path),
            fault=str(fault),
        )
        self._connection, self._is_in_memory = _in_memory(self._path), True

    def _return_to_file(self) -> None:
        with suppress(sqlite3.Error, OSError):  # it was told
            file = _open(self._path)
            try:
                _copy(self._connection, file)
            except BaseException:
                file.close()
                raise
            self._connection.close()
            self._connection, self._is_in_memory = file, False
            _log.warning("audit_delivery_progress_written_again", file=str(self._path))


def _open(path: Path) -> sqlite3.Connection:
    """Open the file for writing; make it where there is none, or one that is no database."""
    try:
        return _connect(path)
    except sqlite3.DatabaseError as fault:
        if getattr(fault, "sqlite_errorcode", None) not in _BROKEN:
            raise
        aside = f"{path}.broken"
        _log.error(
            "audit_delivery_progress_broken",
            moved_to=aside,
            fault=str(fault),
        )
    os.replace(path, aside)
    for each in ("-wal", "-shm"):
        Path(f"{path}{each}").unlink(missing_ok=True)
    return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    make_private(path)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # What a power cut takes is delivered again. A process that dies loses nothing.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def _in_memory(path: Path) -> sqlite3.Connection:
    """Return a progress in memory, with what can be read of the file."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(_SCHEMA)
    # Where there is no room for the -shm file only what was folded back can be read: it is older.
    for how in ("mode=ro", "immutable=1"):
        with suppress(sqlite3.Error, OSError):
            location = f"{path.resolve().as_uri()}?{how}"
            with closing(sqlite3.connect(location, uri=True)) as file:
                _copy(file, connection)
            break
    return connection


def _copy(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Put the rows of one progress into another, all or none."""
    with target:
        target.execute("BEGIN")
        for table, columns in (("destinations", 9), ("cursors", 3)):
            marks = ", ".join("?" * columns)
            target.executemany(
                f"INSERT OR REPLACE INTO {table} VALUES ({marks})",  # noqa: S608 - words of ours
                source.execute(f"SELECT * FROM {table}"),  # noqa: S608
            )


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
