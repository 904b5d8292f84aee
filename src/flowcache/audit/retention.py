"""What is pruned: records that are too old, and the oldest if the journal is too large.

Records leave from the front of chains, in steps of a bounded size, each in one transaction with the
`Cut` that says where a chain goes on, and with a record of the step in the chain of who took it. A
chain's last record is never removed: it is what shows that the chain was there. So each life of a
worker leaves one or two records for good.

Four rules keep others from using it:

- Unauthenticated requests have a tenth of the space: they can't push out clients' records.
- What is removed was verified, up to a record behind it that carries a seal. On a fault nothing is
  removed: a cut, which flowcache seals itself, would make a changed record look as if it had gone
  in good order.
- How much there is, chains tell themselves by what is in their hashes (`Entry.offset`); what else
  somebody put into the file counts for nothing.
- What is too old, a clock says that goes as the monotonic one does (`SteadyTime`): one that was set
  wrong removes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, NamedTuple

from flowcache.audit import database
from flowcache.audit.chain import (
    UNAUTHENTICATED,
    Cut,
    Entry,
    Link,
    Walk,
    cut_seal,
    digest,
    writer_name,
)
from flowcache.audit.chain import seal as seal_of
from flowcache.ports import Clock, Now

__all__ = ["Pruned", "Retention", "SteadyTime", "Tampered"]

_STEP = 1000
"""The most records that one transaction removes: some milliseconds in which nobody else writes."""
_CHAINS = 100
"""The most chains that one transaction cuts."""
_DAY = 86_400.0
_UNAUTHENTICATED_SHARE = 10
"""Unauthenticated requests have one part in so many of the space, as in the ring."""


class Tampered(Exception):
    """What was to be removed is not what was written. The message says what, and where."""


class Pruned(NamedTuple):
    """What one step removes: the new cuts, and how much it is.

    ``early`` of the ``records`` are younger than they had to be kept. ``is_full``: there may be
    more to remove.
    """

    cuts: list[Cut]
    records: int
    early: int
    why: str
    is_full: bool

    @property
    def told(self) -> dict[str, Any]:
        """What the record of the step says of it."""
        return {
            "why": self.why,
            "records": self.records,
            "early": self.early,
            "chains": {writer_name(cut.writer): (cut.seq, cut.hash.hex()) for cut in self.cuts},
        }

    def apply(self, connection: sqlite3.Connection) -> None:
        """Remove it, within a transaction.

        Raises:
            sqlite3.Error: it can't be done now.
        """
        connection.executemany(
            "INSERT OR REPLACE INTO cuts (writer, seq, hash, at, newest, early, seal) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            self.cuts,
        )
        connection.executemany(
            "DELETE FROM records WHERE writer = ? AND seq < ?", [cut[:2] for cut in self.cuts]
        )


class SteadyTime:
    """Unix time that does not jump ahead: at most as far as the monotonic ``clock`` went on.

    It begins with ``newest``, the time of a journal's newest record, or ``now`` where that is less:
    a wrong clock at the start does not count either. After a pause it is late by as much.
    """

    def __init__(self, now: Now, clock: Clock, newest: float | None) -> None:
        self._now = now
        self._clock = clock
        began = now() if newest is None else min(now(), newest)
        self._ahead = began - clock()

    def __call__(self) -> float:
        """Return Unix seconds."""
        return min(self._now(), self._clock() + self._ahead)


class _Extent(NamedTuple):
    """A chain from its first record to the beginning of its last one."""

    at: float
    """The time of the first."""
    writer: int
    seq: int
    offset: int
    end: int

    @property
    def bytes(self) -> int:
        return self.end - self.offset


class Retention:
    """Keep at most ``max_mb`` mebibytes of records, none older than ``keep_days``."""

    def __init__(self, keep_days: int, max_mb: int, key: bytes | None, step: int = _STEP) -> None:
        self._keep_seconds = keep_days * _DAY
        limit = (max_mb << 20) // _UNAUTHENTICATED_SHARE
        self._room = {True: limit, False: (max_mb << 20) - limit}
        """The bytes allowed, by whether a chain is unauthenticated."""
        self._key = key
        self._step = step

    def find(self, connection: sqlite3.Connection, now: float) -> Pruned | None:
        """Return up to a step of what has to go; None when nothing has. Have the turn while you do.

        Raises:
            Tampered: it is not what was written.
            sqlite3.Error: it can't be read now.
        """
        horizon = now - self._keep_seconds
        extents = sorted(_extents(connection))
        expired = [each for each in extents if each.at < horizon]
        if expired:
            return self._gather(connection, expired, "age", horizon, now)
        for unauthenticated, room in self._room.items():
            these = [
                each for each in extents if bool(each.writer & UNAUTHENTICATED) is unauthenticated
            ]
            excess = sum(each.bytes for each in these) - room
            if excess > 0:
                for each in these:
                    self._believe(connection, each.writer)
                return self._gather(connection, these, "size", horizon, now, excess)
        return None

    def _gather(
        self,
        connection: sqlite3.Connection,
        extents: list[_Extent],
        why: str,
        horizon: float,
        now: float,
        excess: int | None = None,
    ) -> Pruned | None:
        """Take records from the fronts of ``extents`` until it is a step.

        Those before the ``horizon`` go; with an ``excess``, the first of any age until so many
        bytes are gone.
        """
        found: list[Cut] = []
        records = early = 0
        for extent in extents[:_CHAINS]:
            chain = _Front(connection, extent, self._key)
            for entry in chain.removable(self._step - records):
                if excess is None and entry.at >= horizon:
                    break
                if excess is not None and entry.offset - extent.offset >= excess:
                    break
                chain.take(entry, horizon)
            if not chain.taken:
                continue
            cut = chain.cut(now)
            found.append(cut)
            records += chain.taken
            early += chain.early
            if excess is not None:
                excess -= chain.bytes
            if records >= self._step or (excess is not None and excess <= 0):
                break
        if not found:
            return None
        is_full = records >= self._step or len(found) == _CHAINS
        return Pruned(found, records, early, why, is_full)

    def _believe(self, connection: sqlite3.Connection, writer: int) -> None:
        """See that the last record of a chain is sealed: how far the chain goes is in its hash."""
        if self._key is None:
            return
        last, before = database.ends(connection, writer)
        whole = digest(before.hash, last.entry) == last.hash and last.seal == seal_of(
            self._key, last.hash
        )
        if not whole:
            raise Tampered(_told(writer, last.entry.seq, "not what was written here"))


class _Front:
    """The front of a chain, of which some is taken."""

    def __init__(self, connection: sqlite3.Connection, extent: _Extent, key: bytes | None) -> None:
        self._connection = connection
        self._extent = extent
        self._key = key
        self._before = database.cut(connection, extent.writer)
        self._links: list[Link] = []
        self.taken = 0
        self.early = 0
        self._newest = float("-inf")

    def removable(self, limit: int) -> Iterator[Entry]:
        """Yield up to ``limit`` records, the last one of the chain not among them."""
        self._links = database.links(
            self._connection, self._extent.writer, self._extent.seq, limit + 1
        )
        yield from (_sound(link.entry) for link in self._links[:-1])

    def take(self, entry: Entry, horizon: float) -> None:
        self.taken += 1
        self.early += entry.at >= horizon
        self._newest = max(self._newest, entry.at)

    @property
    def bytes(self) -> int:
        """How many were taken."""
        return self._links[self.taken].entry.offset - self._extent.offset

    def cut(self, now: float) -> Cut:
        """Return the cut behind what was taken.

        Raises:
            Tampered: it is not what was written.
        """
        self._verify()
        before = self._before
        last = self._links[self.taken - 1]
        cut = Cut(
            self._extent.writer,
            last.entry.seq + 1,
            last.hash,
            now,
            self._newest if before is None else max(before.newest, self._newest),
            self.early if before is None else before.early + self.early,
        )
        return cut if self._key is None else cut._replace(seal=cut_seal(self._key, cut))

    def _verify(self) -> None:
        """Walk over what was taken, and on to the next seal; without a key, to the next record."""
        walk = Walk(self._extent.writer, self._key)
        if self._before is not None:
            walk.resume(self._before)
        links = self._links
        is_proved = False
        while links and not is_proved:
            for link in links:
                self._pass(walk, link)
                proof = link.seal is not None or self._key is None
                is_proved = proof and link.entry.seq > self._links[self.taken - 1].entry.seq
                if is_proved:
                    break
            links = database.links(self._connection, self._extent.writer, walk.next, _STEP)
        for fault in walk.end():
            raise Tampered(_told(fault.writer, fault.seq, fault.what))

    def _pass(self, walk: Walk, link: Link) -> None:
        for fault in walk.follow([link]):
            raise Tampered(_told(fault.writer, fault.seq, fault.what))


def _told(writer: int, seq: int | None, what: str) -> str:
    place = "" if seq is None else f", record {seq}"
    return f"writer {writer_name(writer)}{place}: {what}"


def _extents(connection: sqlite3.Connection) -> Iterator[_Extent]:
    """Yield the extent of each chain that has more than one record."""
    for head in database.heads(connection):
        last = _sound(head.entry)
        for link in database.links(connection, last.writer, 0, 1):
            first = _sound(link.entry)
            if first.seq < last.seq:
                yield _Extent(first.at, first.writer, first.seq, first.offset, last.offset)


def _sound(entry: Entry) -> Entry:
    """Return an entry whose fields can be reckoned with: SQLite keeps any type in any column.

    Raises:
        Tampered: no writer of ours wrote it.
    """
    if not (isinstance(entry.at, float) and isinstance(entry.offset, int)):
        raise Tampered(_told(entry.writer, entry.seq, "no writer writes such a record"))
    return entry
