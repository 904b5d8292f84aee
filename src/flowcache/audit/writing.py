"""A worker's own chain in the journal: one life, from its opening record to its closing one.

All of it blocks and belongs to one thread. A commit holds all of a batch or nothing of it. When one
fails, whether it reached the disk is not known until the file is opened again: then the batch is
either there, and is not written a second time, or it is not.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from flowcache.audit import database
from flowcache.audit.chain import GENESIS, Entry, Head, Kind, Link, digest, seal, writer_name
from flowcache.audit.database import COLUMNS, JournalFault, Turns
from flowcache.audit.redaction import Redaction, redaction
from flowcache.audit.retention import Retention
from flowcache.audit.settings import AuditSettings
from flowcache.ports import AuditRecord

__all__ = ["ChainWriter", "Witness"]

_WITNESSED = 100
"""How many other chains an opening record names: those that were written to last."""

_INSERT = (
    f"INSERT INTO records ({COLUMNS}, hash, seal) "  # noqa: S608 - names of ours
    f"VALUES ({', '.join('?' * (len(Entry.__struct_fields__) + 2))})"
)


class Witness(msgspec.Struct, frozen=True):
    """The detail of a first and a last record: who writes, and how far other chains had come."""

    host: str
    pid: int
    heads: dict[str, tuple[int, str]]
    """By the writer's name: number and hash of the newest record."""


class ChainWriter:
    """Write records to a chain of its own in the journal at ``settings.journal``.

    Nothing is opened before it is needed. After a `JournalFault`, `append` may be called again with
    the very same batch.
    """

    def __init__(self, settings: AuditSettings, clock: Callable[[], float]) -> None:
        assert settings.journal is not None
        self._path: Path = settings.journal
        self._clock = clock
        self._redact = redaction(settings.keys, settings.hmac_secret)
        signing = settings.signing_key
        self._key = None if signing is None else signing.reveal().encode()
        self._retention = Retention(settings.keep_days, settings.max_mb, self._key)
        self._turns: Turns | None = None
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._writer = 0
        self._head: Head | None = None
        """The newest record that is known to be on disk; None before the opening one."""
        self._uncertain: Head | None = None
        """The end of a batch of which it is not known whether it is on disk."""

    @property
    def name(self) -> str:
        """The writer's name in the journal."""
        return writer_name(self._writer)

    def open(self) -> None:
        """Open the file and the chain, unless they are.

        Raises:
            JournalFault: it can't be done.
        """
        with self._faults():
            self._open()

    def append(self, records: Sequence[AuditRecord], lost: int = 0) -> None:
        """Put ``records`` on disk, and after them that so many more were ``lost``.

        Raises:
            JournalFault: they are not there, or nobody knows.
        """
        with self._faults():
            connection = self._open()
            if self._uncertain is not None:  # the last attempt reached the disk after all
                if self._head == self._uncertain:
                    self._uncertain = None
                    return
                self._uncertain = None
            assert self._head is not None
            start = self._head.seq + 1
            entries = [
                _entry(self._writer, seq, record, self._redact)
                for seq, record in enumerate(records, start)
            ]
            if lost:
                entries.append(self._about(Kind.LOST, start + len(records), {"records": lost}))
            with self._turn():
                self._insert(connection, entries)

    def retain(self) -> bool:
        """Let go of some of what is too old or too much; tell whether there is more.

        Raises:
            JournalFault: it can't be done now.
        """
        with self._faults():
            connection = self._open()
            with self._turn():
                return self._retention.step(connection, self._clock())

    def close(self) -> None:
        """End the chain with its closing record, and close the file.

        Raises:
            JournalFault: the chain stays without an end.
        """
        try:
            if self._head is not None:
                with self._faults():
                    connection = self._open()
                    with self._turn():
                        witness = _witness(connection, self._writer)
                        last = self._about(Kind.CLOSE, self._head.seq + 1, witness)
                        self._insert(connection, [last])
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is, so that the next use opens it anew."""
        if self._is_displaced():
            return  # never to be closed, see there
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()
        if self._turns is not None:
            self._turns.close()
            self._turns = None

    # -- opening ----------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            if self._is_displaced():
                raise JournalFault(
                    f"{self._path}: was moved or removed while in use; put it back, or stop "
                    "flowcache, move its -wal and -shm to the same place, and start it again."
                )
            return self._connection
        with self._turn():
            connection = database.connect(self._path)
            try:
                on_disk = self._own_head(connection)
                if on_disk is None or on_disk not in (self._head, self._uncertain):
                    # The beginning of a life; or another file than the one that it began in.
                    self._begin(connection)
                else:
                    self._head = on_disk
            except BaseException:
                connection.close()
                raise
        self._connection, self._identity = connection, database.identity(self._path)
        return connection

    def _own_head(self, connection: sqlite3.Connection) -> Head | None:
        if self._head is None:
            return None
        found = connection.execute(
            "SELECT seq, hash FROM records WHERE writer = ? ORDER BY seq DESC LIMIT 1",
            (self._writer,),
        ).fetchone()
        return None if found is None else Head(*found)

    def _begin(self, connection: sqlite3.Connection) -> None:
        self._writer = int.from_bytes(os.urandom(6), "big") >> 1
        self._head, self._uncertain = None, None
        self._insert(connection, [self._about(Kind.OPEN, 0, _witness(connection, self._writer))])

    def _is_displaced(self) -> bool:
        """Tell whether the file that is open is no longer the one at its path.

        SQLite knows the files beside it, -wal and -shm, by name only. So such a file must not be
        closed, which could remove those of the one in its place, and none may be opened there while
        other workers still have this one.
        """
        return self._connection is not None and database.identity(self._path) != self._identity

    # -- writing ----------------------------------------------------------------------------------

    def _insert(self, connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
        """Write ``entries`` behind the head, all or none; when this returns they are on disk."""
        before = GENESIS if self._head is None else self._head.hash
        links = list(_chained(before, entries, self._key))
        end = Head(links[-1].entry.seq, links[-1].hash)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            _INSERT,
            ((*msgspec.structs.astuple(entry), hash_, seal_) for entry, hash_, seal_ in links),
        )
        self._uncertain = end
        connection.execute("COMMIT")
        self._head, self._uncertain = end, None

    def _about(self, kind: Kind, seq: int, detail: object) -> Entry:
        text = msgspec.json.encode(detail).decode()
        return Entry(self._writer, seq, kind.value, self._clock(), detail=text)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._turns is None:
            self._turns = Turns(self._path)
        with self._turns.turn():
            yield

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn what SQLite and the system raise into a fault, and let go of the file then."""
        try:
            yield
        except (sqlite3.Error, OSError) as fault:
            self.abandon()
            raise JournalFault(f"{self._path}: can't be written: {fault}.") from None
        except JournalFault:
            self.abandon()
            raise


def _entry(writer: int, seq: int, record: AuditRecord, redact: Redaction) -> Entry:
    hit = record.hit
    return Entry(
        writer,
        seq,
        record.kind,
        record.at,
        record.client,
        record.address,
        record.request_id,
        record.flow_id,
        record.interaction_id,
        record.operation,
        None if record.key is None else redact(record.key),
        record.outcome,
        None if hit is None else int(hit),
        record.latency_ms,
        record.shard,
        int(record.stale),
        record.detail,
    )


def _chained(before: bytes, entries: Sequence[Entry], key: bytes | None) -> Iterator[Link]:
    """Yield ``entries`` with their hashes; the last one has the seal."""
    final = len(entries) - 1
    for place, entry in enumerate(entries):
        before = digest(before, entry)
        yield Link(entry, before, seal(key, before) if key and place == final else None)


def _witness(connection: sqlite3.Connection, own: int) -> Witness:
    """Look at the other chains, of which those that were written to last are named."""
    newest = "SELECT at, writer, seq, hash FROM records WHERE writer = ? ORDER BY seq DESC LIMIT 1"
    heads = [
        connection.execute(newest, (writer,)).fetchone()
        for writer in database.writers(connection)
        if writer != own
    ]
    heads.sort(reverse=True)
    named = {writer_name(w): (seq, hash_.hex()) for _, w, seq, hash_ in heads[:_WITNESSED]}
    return Witness(socket.gethostname(), os.getpid(), named)
