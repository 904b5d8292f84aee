"""What of the journal a destination has not had yet, one batch after the other.

Writers take turns, so that a busy one does not hold back the others. Within a writer the order is
that of its chain. The journal is only read: delivery takes no turn from those who write it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flowcache.audit import database
from flowcache.audit.chain import Kind, writer_name
from flowcache.audit.database import JournalFault
from flowcache.audit.reading import Reader
from flowcache.delivery.batch import Batch, batch_of
from flowcache.delivery.progress import Place
from flowcache.outbound.judging import NotNow

__all__ = ["Feed"]

_TRIES = 3
"""How often a chain is read while retention may be at it: once more than it takes."""


class Feed:
    """Cut what comes behind ``place`` into batches of at most ``size`` records."""

    def __init__(self, journal: Path, place: Place, size: int) -> None:
        self._path = journal
        self._cursors = dict(place.cursors)
        self._since = place.since
        self._size = size
        self._reader: Reader | None = None
        self._identity: tuple[int, int] | None = None
        self._ended: set[int] = set()
        """Writers whose closing record was delivered: they are not looked at again."""
        self._met: set[int] = set()
        """Writers that had nothing to deliver when they were met, and have not ended."""
        self._round: list[int] = []
        """The writers whose turn is still to come, the next one last."""
        self._seen: int | None = None
        """The version of the journal in which there was nothing to deliver."""
        self._until: dict[int, int] | None = None
        """The last records that are due, by writer; None: all are."""
        self._left_behind = 0

    def next(self) -> Batch | None:
        """Return what comes next, None when everything was delivered.

        Raises:
            NotNow: the journal can't be read.
        """
        if not self._path.exists():  # nobody has written yet; if it was moved, its writers say so
            return None
        with self._told():
            reader = self._open()
            version = reader.version()
            if version == self._seen:
                return None
            batch = self._turn(reader)
            if batch is None:  # others may have come since this round began
                version = reader.version()
                self._round = sorted(set(reader.writers()) - self._ended, reverse=True)
                batch = self._turn(reader)
            if batch is None:
                self._seen = version
            return batch

    def delivered(self, batch: Batch) -> None:
        """Go on behind ``batch``, with the next writer."""
        self._cursors[batch.writer] = batch.last
        if batch.ends:
            self._ended.add(int(batch.writer, 16))
        if self._round:
            self._round.pop()

    @contextmanager
    def up_to_now(self) -> Iterator[None]:
        """Give nothing, for a while, that is not in the journal yet: with a busy service more
        comes for ever.

        Raises:
            NotNow: the journal can't be read.
        """
        self._until, self._round = {}, []
        if self._path.exists():
            with self._told():
                reader = self._open()
                self._until = {each: reader.head(each).seq for each in reader.writers()}
        try:
            yield
        finally:
            self._until = self._seen = None

    def left_behind(self) -> int:
        """Return how many records went with a journal that was moved away, and forget of it."""
        left, self._left_behind = self._left_behind, 0
        return left

    def close(self) -> None:
        """Close the journal; the next use opens it again."""
        self._round = []
        if self._reader is not None:
            self._reader.close()
            self._reader = self._seen = None

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except JournalFault as fault:
            self.close()
            raise NotNow(str(fault)) from None

    def _open(self) -> Reader:
        """Return the journal at its path, which may have been moved aside, and a new one begun."""
        identity = database.identity(self._path)
        if self._reader is not None and identity != self._identity:
            with suppress(JournalFault):  # what can't be read any more can't be counted
                self._left_behind += self._due(self._reader)
            self.close()
        if self._reader is None:
            self._reader, self._identity = Reader(self._path), identity
        return self._reader

    def _due(self, reader: Reader) -> int:
        """Return how many records of a journal were not delivered."""
        return sum(
            max(0, reader.head(writer).seq - self._cursors.get(writer_name(writer), -1))
            for writer in set(reader.writers()) - self._ended
        )

    def _turn(self, reader: Reader) -> Batch | None:
        """Return the batch of the next writer of this round that has any."""
        while self._round:
            batch = self._batch(reader, self._round[-1])
            if batch is not None:
                return batch
            self._round.pop()
        return None

    def _batch(self, reader: Reader, writer: int) -> Batch | None:
        name = writer_name(writer)
        expected = self._cursors.get(name, -1) + 1
        size = self._size
        if self._until is not None:
            size = min(size, self._until.get(writer, -1) + 1 - expected)
            if size < 1:
                return None
        for _ in range(_TRIES):
            links = reader.links(writer, expected, size)
            if not links:
                self._meet(reader, writer, expected)
                return None
            cut = reader.cut(writer)
            if cut is None or cut.seq <= links[0].entry.seq:
                break  # otherwise they were pruned just now: read again
        else:
            cut = None  # not pruned: somebody edited the cut, which `verify` reports
        batch = batch_of(links, expected, cut)
        if cut is not None and expected == 0 and cut.at < self._since:
            return batch._replace(missed=0)  # they were gone before anybody asked for them
        return batch

    def _meet(self, reader: Reader, writer: int, expected: int) -> None:
        """Look, once, whether a writer with nothing to deliver ended before this process began."""
        if writer not in self._met:
            self._met.add(writer)
            if any(each.entry.kind == Kind.CLOSE for each in reader.links(writer, expected - 1, 1)):
                self._ended.add(writer)
