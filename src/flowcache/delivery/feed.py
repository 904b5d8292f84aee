"""What of the journal a destination has not had yet, one batch after the other.

Writers take turns, so that a busy one does not hold back the others. Within a writer the order is
that of its chain. The journal is only read: delivery takes no turn from those who write it.
"""

from __future__ import annotations

from pathlib import Path

from flowcache.audit import database
from flowcache.audit.chain import writer_name
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
        self._ended: set[str] = set()
        """Writers whose closing record was delivered: they are not looked at again."""
        self._last_served = -1
        self._seen: int | None = None
        """The version of the journal in which there was nothing to deliver."""

    def next(self) -> Batch | None:
        """Return what comes next, None when everything was delivered.

        Raises:
            NotNow: the journal can't be read.
        """
        if not self._path.exists():  # nobody has written yet; if it was moved, its writers say so
            return None
        try:
            reader = self._open()
            version = reader.version()
            if version == self._seen:
                return None
            writers = reader.writers()
            later = [each for each in writers if each > self._last_served]
            for writer in later + [each for each in writers if each <= self._last_served]:
                batch = self._batch(reader, writer)
                if batch is not None:
                    self._last_served = writer
                    return batch
            self._seen = version
        except JournalFault as fault:
            self.close()
            raise NotNow(str(fault)) from None
        return None

    def delivered(self, batch: Batch) -> None:
        """Go on behind ``batch``."""
        self._cursors[batch.writer] = batch.last
        if batch.ends:
            self._ended.add(batch.writer)

    def close(self) -> None:
        """Let go of the journal; the next use opens it anew."""
        if self._reader is not None:
            self._reader.close()
            self._reader = self._seen = None

    def _open(self) -> Reader:
        """Return the journal at its path, which may have been moved aside, and a new one begun."""
        identity = database.identity(self._path)
        if self._reader is not None and identity != self._identity:
            self.close()
        if self._reader is None:
            self._reader, self._identity = Reader(self._path), identity
        return self._reader

    def _batch(self, reader: Reader, writer: int) -> Batch | None:
        name = writer_name(writer)
        if name in self._ended:
            return None
        expected = self._cursors.get(name, -1) + 1
        for _ in range(_TRIES):
            links = reader.links(writer, expected, self._size)
            if not links:
                return None
            cut = reader.cut(writer)
            if cut is None or cut.seq <= links[0].entry.seq:
                break  # otherwise they were let go of just now: read again what is there
        else:
            cut = None  # nobody let go of them: somebody edited the cut, of which `verify` tells
        batch = batch_of(links, expected, cut)
        if cut is not None and expected == 0 and cut.at < self._since:
            return batch._replace(missed=0)  # they were gone before anybody asked for them
        return batch
