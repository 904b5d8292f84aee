"""A worker's own chains in the journal: one life, from opening records to closing ones.

All of it blocks and belongs to one thread. A commit holds all of a batch or nothing of it. When one
fails, whether it reached the disk is not known until the file is opened again: then the batch is
either there, and is not written a second time, or it is not.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from flowcache.audit import database
from flowcache.audit.chain import (
    GENESIS,
    UNAUTHENTICATED,
    Entry,
    Head,
    Kind,
    Link,
    digest,
    seal,
    weight,
    writer_name,
)
from flowcache.audit.database import ADVICE, COLUMNS, Damaged, JournalFault, Turns
from flowcache.audit.recognising import recognise
from flowcache.audit.redaction import Redaction, redaction
from flowcache.audit.retention import Pruned, Retention, Tampered
from flowcache.audit.settings import AuditSettings
from flowcache.audit.witness import look
from flowcache.ports import AuditRecord, Now

__all__ = ["ChainWriter", "Note"]

_INSERT = (
    f"INSERT INTO records ({COLUMNS}, hash, seal) "  # noqa: S608 - names of ours
    f"VALUES ({', '.join('?' * (len(Entry.__struct_fields__) + 2))})"
)


class Note(NamedTuple):
    """A record that is about no call: ``detail`` becomes JSON."""

    kind: Kind
    detail: object


class _Place(NamedTuple):
    """A record that is the last of its chain, and the offset of the next one."""

    seq: int
    hash: bytes
    offset: int


_START = _Place(-1, GENESIS, 0)


class _Chain:
    """Where a chain of ours goes on."""

    __slots__ = ("head", "uncertain", "writer")

    def __init__(self, unauthenticated: bool) -> None:
        self.writer = int.from_bytes(os.urandom(6), "big") >> 1 | (
            UNAUTHENTICATED if unauthenticated else 0
        )
        self.head: _Place | None = None
        """The newest record that is known to be on disk; None before the opening one."""
        self.uncertain: _Place | None = None
        """The end of a batch of which it is not known whether it is on disk."""


class ChainWriter:
    """Write records to chains of their own in the journal at ``settings.journal``.

    Clients' records go to one, unauthenticated requests to another, begun with the first of them; a
    batch is on disk in both or in none. Nothing is opened before it is needed. After a
    `JournalFault`, `append` may be called again with the very same batch.
    """

    def __init__(self, settings: AuditSettings, now: Now) -> None:
        assert settings.journal is not None
        self.tampering: str | None = None
        """What was found wrong with what is in the file already, if anything was."""
        self._path: Path = settings.journal
        self._now = now
        self._redact = redaction(settings.keys, settings.hmac_secret)
        signing = settings.signing_key
        self._key = None if signing is None else signing.reveal().encode()
        self._retention = Retention(settings.keep_days, settings.max_mb, self._key)
        self._turns: Turns | None = None
        self._connection: sqlite3.Connection | None = None
        self._files: tuple[tuple[int, int] | None, ...] = (None,)
        """What the open journal consists of; see `database.files`."""
        self._own, self._unauthenticated = _Chain(False), _Chain(True)
        self._promised: Mapping[int, Head] = {}
        self._owed: dict[int, Head] = {}
        """What is promised of earlier chains of ours that were found shortened."""
        self._tried: Sequence[AuditRecord | Note] | None = None
        """The batch whose commit did not return."""
        self._landed: Sequence[AuditRecord | Note] | None = None
        """That batch, when it was found on disk after all."""

    @property
    def name(self) -> str:
        """The writer's name in the journal."""
        return writer_name(self._own.writer)

    def promised(self) -> Mapping[int, Head]:
        """Return the newest record of each chain of ours that is on disk, by writer.

        Any thread may ask.
        """
        return self._promised

    def open(self) -> None:
        """Open the file and the chain, unless they are.

        Raises:
            JournalFault: it can't be done.
        """
        with self._faults():
            self._open()

    def newest_before(self, at: float) -> float | None:
        """Return the time of the newest record that is older than ``at``; None if there is none.

        Raises:
            JournalFault: it can't be read.
        """
        with self._faults():
            query = "SELECT max(at) FROM records WHERE at < ?"
            found = self._open().execute(query, (at,)).fetchone()[0]
            return float(found) if found is not None else None

    def append(self, records: Sequence[AuditRecord | Note]) -> None:
        """Put ``records`` on disk.

        Raises:
            JournalFault: they are not there, or nobody knows.
        """
        with self._faults():
            connection = self._open()
            landed, self._landed = self._landed, None
            if landed is records:
                return
            self._tried = records
            with self._turn():
                self._commit(connection, records)
            self._tried = None

    def retain(self, now: float) -> Pruned | None:
        """Remove some of what is too old or too much at ``now``, and return what it was.

        Where that was tampered with, nothing goes, and `tampering` says what is wrong.

        Raises:
            JournalFault: it can't be done now.
        """
        with self._faults():
            connection = self._open()
            with self._turn():
                try:
                    found = self._retention.find(connection, now)
                except Tampered as fault:
                    self.tampering = f"{fault}; nothing is removed."
                    return None
                if found is not None:
                    self._commit(connection, [Note(Kind.CUT, found.told)], found.apply)
                return found

    def close(self) -> None:
        """End the chains with their closing records, and close the file.

        Raises:
            JournalFault: they stay without an end.
        """
        try:
            if self._own.head is not None:
                with self._faults():
                    connection = self._open()
                    with self._turn():
                        self._end(connection)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is, so that the next use opens it anew."""
        if self.displaced() is not None:
            return  # never to be closed, see there
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()
        if self._turns is not None:
            self._turns.close()
            self._turns = None

    def displaced(self) -> str | None:
        """Tell whether files that are open are no longer those at their path; None if they are.

        SQLite knows the journal's -wal and -shm files by name only. So such a journal
        must not be closed, which could remove those of the one in its place, and none may be opened
        there while other workers still have this one. Any thread may ask: it takes three stats.
        """
        if self._connection is None:
            return None
        found = database.files(self._path)
        if found == self._files:
            return None
        if found[0] != self._files[0]:
            return (
                f"{self._path}: was moved or removed while in use; put it back, or stop "
                "flowcache, move its -wal and -shm to the same place, and start it again."
            )
        pairs = zip(database.COMPANIONS, found[1:], self._files[1:], strict=True)
        gone = " and ".join(f"{self._path}{suffix}" for suffix, is_, was in pairs if is_ != was)
        return (
            f"{gone}: moved or removed while in use; put back what was moved, or stop flowcache "
            "and start it again: records of the last minutes may be missing then."
        )

    # -- opening ----------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            displaced = self.displaced()
            if displaced is not None:
                raise JournalFault(displaced)
            return self._connection
        with self._turn():
            connection = database.connect(self._path)
            try:
                self._resume(connection)
            except BaseException:
                connection.close()
                raise
        self._files = database.files(self._path)  # before others can see the connection
        self._connection = connection
        return connection

    def _resume(self, connection: sqlite3.Connection) -> None:
        """Go on with our chains where the file has them as we left them; else begin anew.

        They are missing from another file, which somebody put in the place of ours. From ours they
        can't be: what it lacks of them was removed, and the new chain bears witness to it.
        """
        begun = [each for each in (self._own, self._unauthenticated) if each.head or each.uncertain]
        tried, self._tried, self._landed = self._tried, None, None
        missing: dict[str, tuple[int, str]] = {}
        is_ours = self._files[0] == database.identity(self._path)
        for chain in begun:
            last = database.ends(connection, chain.writer)
            on_disk = (last[0].entry.seq, last[0].hash) if last else None
            is_ours = is_ours or on_disk is not None
            if chain.uncertain is not None and on_disk == chain.uncertain[:2]:
                chain.head, self._landed = chain.uncertain, tried
            elif chain.head is not None and on_disk != chain.head[:2]:
                missing[writer_name(chain.writer)] = (chain.head.seq, chain.head.hash.hex())
            chain.uncertain = None
        self._promise()
        if self._own.head is not None and not missing:
            return
        if not is_ours:
            recognise(connection, self._path, self._key)
        if missing and is_ours:
            self.tampering = (
                f"{', '.join(f'writer {name}, record {seq}' for name, (seq, _) in missing.items())}"
                ": was written and is not there any more."
            )
        if not is_ours:
            self._owed = {}
        for name, (seq, hash_) in missing.items() if is_ours else ():
            self._owed[int(name, 16)] = Head(seq, bytes.fromhex(hash_))
        own = _Chain(False)  # ours once it is on disk: until then what is missing is not forgotten
        witness = look(connection, (own.writer,), missing if is_ours else {})
        self._put(connection, [(own, [Note(Kind.OPEN, witness)])])
        self._own, self._unauthenticated, self._landed = own, _Chain(True), None
        self._promise()

    # -- writing ----------------------------------------------------------------------------------

    def _end(self, connection: sqlite3.Connection) -> None:
        ours = [each for each in (self._own, self._unauthenticated) if each.head is not None]
        witness = look(connection, [each.writer for each in ours])
        self._put(connection, [(each, [Note(Kind.CLOSE, witness)]) for each in ours])

    def _commit(
        self,
        connection: sqlite3.Connection,
        items: Sequence[AuditRecord | Note],
        also: Callable[[sqlite3.Connection], None] = lambda _: None,
    ) -> None:
        """Write each item to the chain where it belongs."""
        unauthenticated: list[AuditRecord | Note] = []
        own: list[AuditRecord | Note] = []
        for item in items:
            is_unauthenticated = isinstance(item, AuditRecord) and item.client is None
            (unauthenticated if is_unauthenticated else own).append(item)
        if unauthenticated and self._unauthenticated.head is None:
            witness = look(connection, (self._unauthenticated.writer,))
            unauthenticated.insert(0, Note(Kind.OPEN, witness))
        parts = [(self._own, own), (self._unauthenticated, unauthenticated)]
        self._put(connection, [part for part in parts if part[1]], also)

    def _put(
        self,
        connection: sqlite3.Connection,
        parts: Sequence[tuple[_Chain, Sequence[AuditRecord | Note]]],
        also: Callable[[sqlite3.Connection], None] = lambda _: None,
    ) -> None:
        """Write behind the heads of chains, all or nothing; when this returns it is on disk."""
        chains = [(chain, self._chained(chain, items)) for chain, items in parts]
        connection.execute("BEGIN IMMEDIATE")
        also(connection)
        for _, links in chains:
            connection.executemany(
                _INSERT,
                ((*msgspec.structs.astuple(entry), hash_, seal_) for entry, hash_, seal_ in links),
            )
        for chain, links in chains:
            last = links[-1]
            chain.uncertain = _Place(
                last.entry.seq, last.hash, last.entry.offset + weight(last.entry)
            )
        connection.execute("COMMIT")
        for chain, _ in chains:
            chain.head, chain.uncertain = chain.uncertain, None
        self._promise()

    def _promise(self) -> None:
        found = (self._own, self._unauthenticated)
        self._promised = self._owed | {
            each.writer: Head(each.head.seq, each.head.hash) for each in found if each.head
        }

    def _chained(self, chain: _Chain, items: Sequence[AuditRecord | Note]) -> list[Link]:
        """Return the items as records behind the head of a chain; the last one has the seal."""
        seq, before, offset = chain.head or _START
        links: list[Link] = []
        for item in items:
            seq += 1
            entry = (
                self._note(chain.writer, seq, item, offset)
                if isinstance(item, Note)
                else _entry(chain.writer, seq, item, self._redact, offset)
            )
            before = digest(before, entry)
            links.append(Link(entry, before, None))
            offset += weight(entry)
        if self._key is not None:
            links[-1] = links[-1]._replace(seal=seal(self._key, before))
        return links

    def _note(self, writer: int, seq: int, note: Note, offset: int) -> Entry:
        text = msgspec.json.encode(note.detail).decode()
        return Entry(writer, seq, note.kind.value, self._now(), detail=text, offset=offset)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._turns is None:
            self._turns = Turns(self._path)
        with self._turns.turn():
            yield

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn what SQLite and the system raise into a fault, and close the file then."""
        try:
            yield
        except (sqlite3.Error, OSError) as fault:
            self.abandon()
            is_damaged = isinstance(database.unreadable(self._path, fault), Damaged)
            advice = f" {ADVICE}" if is_damaged else ""
            raise JournalFault(f"{self._path}: can't be written: {fault}.{advice}") from None
        except JournalFault:
            self.abandon()
            raise


def _entry(writer: int, seq: int, record: AuditRecord, redact: Redaction, offset: int) -> Entry:
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
        offset,
    )
