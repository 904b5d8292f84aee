"""Whether the journal still is what was written: a look at the file from outside, while it is used.

SQLite never looks again at what it wrote. Its writers have the newest pages in memory, append to
the ``-wal`` file, and copy that into the journal now and then (a checkpoint); so damage in the
middle of the file disturbs nobody until somebody reads there. A thread of each worker looks:

- every `WATCH_SECONDS`: the journal may only change by a checkpoint, of
  which the ``-shm`` file tells. Another change of its time or size was made by another program;
- every `LOOK_SECONDS`, by a connection that remembers nothing: the header, the schema, and the
  newest record of each chain of this worker, whose hash is known;
- likewise the ``-wal``: what was appended may not change until it is begun anew. (Its own checksums
  take 100 ms of Python for 4 MB; CRC-32 of what was there at the last look takes 3.);
- likewise a slice of all records and of their index, page by page, and of the hashes of this
  worker's own records. Such a pass goes on for `_SLICE_SECONDS` of each look; at the start and when
  something was found it goes through the whole file at once.

What was found stays a fault until a whole pass finds nothing; a record that is not what was written
stays one for good. What is promised, and what is not, is in docs/security.md.

A file that SQLite has open in this process must not be opened and closed a second time: closing it
would take SQLite's locks away (fcntl(2)). So the journal and its ``-shm`` stay open here, too.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zlib import crc32

import structlog

from flowcache.audit import database
from flowcache.audit.chain import Head, Walk, writer_name
from flowcache.audit.database import ADVICE, Damaged, JournalFault
from flowcache.ports import Clock

__all__ = ["LOOK_SECONDS", "WATCH_SECONDS", "Voucher"]

LOOK_SECONDS = 0.5
WATCH_SECONDS = 0.05
_SLICE_SECONDS = 0.01
"""How long a pass over the file goes on in each look: two hundredths of a core."""
_HURRY_SECONDS = 0.4
"""The same while something has to be found out."""
_AGAIN_SECONDS = 5.0
"""When a file that was found damaged is looked through again."""
_RECORDS = 5000
"""Records of one query of a pass: it takes about a millisecond."""
_HASHES = 250
"""Records of our own whose hashes are computed anew in each look."""
_UNREADABLE_SECONDS = 2.0
"""How long a file may be unreadable for a reason that may pass, before that is a fault."""
_PIECE = 1 << 20
_FRAMES = 256

_MAGIC = b"SQLite format 3\0"
_WAL_HEADER = 32
_FRAME_HEADER = 24
_INDEX_COPY = 48
_INDEX = struct.Struct("=14x H I 12x 8s 56x I 28x I")
"""Of the ``-shm`` file (https://sqlite.org/walformat.html): page size, number of frames, salts, how
many frames are copied into the journal, and how many a checkpoint means to copy."""

_log = structlog.get_logger(__name__)


class _Index(NamedTuple):
    """What the ``-shm`` file tells of the ``-wal``."""

    page_size: int
    frames: int
    salts: bytes
    copied: int
    to_copy: int

    @property
    def checkpoint(self) -> tuple[bytes, int]:
        """What is another one after a checkpoint, and when the -wal is begun anew."""
        return self.salts, self.copied


class Voucher:
    """Look at the journal at ``path``. ``promised`` returns the newest record of each chain of ours
    that is on disk by now. ``fault`` says what is wrong, or is None; any thread may read it.
    """

    def __init__(
        self, path: Path, promised: Callable[[], Mapping[int, Head]], clock: Clock
    ) -> None:
        self.fault: str | None = None
        self._path = path
        self._promised = promised
        self._clock = clock
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit look", daemon=True)
        self._identity: tuple[tuple[int, int] | None, ...] = ()
        self._open_files: list[int] = []
        self._main = self._shm = -1
        self._main_is: tuple[int, int] | None = None
        """Which file is open as the journal: its -shm may follow later."""
        self._connection: sqlite3.Connection
        self._unreadable_from: float | None = None
        self._at_rest: tuple[tuple[bytes, int], tuple[int, int]] | None = None
        """The last checkpoint, and time and size of the journal after it."""
        self._wal: tuple[bytes, int, int] | None = None
        """Salts of the -wal, how many bytes of it were seen, and their checksum."""
        self._pass: Iterator[None] | None = None
        self._hurries = True
        """Whether the pass goes on to its end: until one does, nothing is known of the file."""
        self._pass_from = 0.0
        self._walks: dict[int, Walk] = {}
        self._changed: str | None = None
        """The first record of ours that was found to be another one than was written."""

    # -- the thread --------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no other look."""
        self._stopped.set()

    def join(self, seconds: float) -> bool:
        """Wait for the end of the last look; tell whether it came. A disk may hang for ever."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def release(self) -> None:
        """Close the files, once nobody in this process writes to the journal any more."""
        for file in self._open_files:
            os.close(file)
        self._open_files.clear()
        self._identity, self._main_is = (), None

    def _run(self) -> None:
        look_at = 0.0
        while not self._stopped.wait(WATCH_SECONDS):
            now = self._clock()
            try:
                if now >= look_at:
                    look_at = now + LOOK_SECONDS
                    self.look()
                elif self._identity and (found := self._foreign_write()) is not None:
                    self._blame(found)
            except Exception as bug:
                _log.error("audit_journal_check_bug", exc_info=bug)
                look_at = now + _AGAIN_SECONDS

    # -- a look ------------------------------------------------------------------------------------

    def look(self) -> None:
        """Look once, and judge."""
        promised = self._promised()
        if not promised or not self._follow_files():
            return
        try:
            found = self._look(promised)
        except Damaged as fault:
            self._blame(str(fault))
            self._pass_from = self._clock() + _AGAIN_SECONDS
        except (JournalFault, sqlite3.Error, OSError) as fault:
            now = self._clock()
            if self._unreadable_from is None:
                self._unreadable_from = now
            if now - self._unreadable_from >= _UNREADABLE_SECONDS:
                self._blame(f"it can't be read: {fault}")
        else:
            self._unreadable_from = None
            if found is not None:
                self._blame(found)
            elif self.fault is not None and not self._hurries:
                self.fault = None
                _log.warning("audit_journal_recovered", path=str(self._path))

    def _look(self, promised: Mapping[int, Head]) -> str | None:
        found = self._broken_header() or self._foreign_write() or self._changed_wal()
        if found is not None:
            return found
        with closing(database.connect_read_only(self._path)) as self._connection:
            self._connection.execute("PRAGMA cell_size_check = ON")
            try:
                found = self._broken_promise(promised) or self._changed_record(promised)
                if found is None:
                    self._go_through(promised)
            except sqlite3.DatabaseError as fault:
                raise database.unreadable(self._path, fault) from None
        return found

    def _blame(self, found: str) -> None:
        """Tell what was found. To take it back takes a pass that finds nothing."""
        found = found.removeprefix(f"{self._path}: ")
        if self.fault is None:
            _log.error("audit_journal_damaged", path=str(self._path), found=found)
        self.fault = f"{self._path}: is damaged: {found.rstrip('.')}. {ADVICE}"
        self._hurries, self._pass = True, None

    # -- the files ---------------------------------------------------------------------------------

    def _follow_files(self) -> bool:
        """Open what is at the path; tell whether all is there. If not, the writer tells of it."""
        found = database.files(self._path)
        if None in found:
            return False
        if found != self._identity:
            with suppress(OSError):
                if found[0] != self._main_is:
                    self._main, self._main_is = self._open(""), found[0]
                self._shm = self._open("-shm")
                self._identity = found
                self._at_rest = self._wal = None
        return found == self._identity

    def _open(self, suffix: str) -> int:
        file = os.open(f"{self._path}{suffix}", os.O_RDONLY)
        self._open_files.append(file)
        return file

    def _index(self) -> _Index | None:
        """Return what the -shm file tells; None while somebody changes it."""
        kept = os.pread(self._shm, _INDEX.size, 0)
        if len(kept) < _INDEX.size or kept[:_INDEX_COPY] != kept[_INDEX_COPY : 2 * _INDEX_COPY]:
            return None
        return _Index(*_INDEX.unpack(kept))

    def _broken_header(self) -> str | None:
        """Tell of a first page that is none: SQLite has the newest one elsewhere, and goes on."""
        kept = os.pread(self._main, len(_MAGIC), 0)
        return None if kept == _MAGIC else "its header is not that of a database"

    def _foreign_write(self) -> str | None:
        """Tell of a change of the journal that no checkpoint explains."""
        before = self._index()
        status = os.fstat(self._main)
        after = self._index()
        if before is None or after is None or before.checkpoint != after.checkpoint:
            return None
        if after.to_copy > after.copied:
            return None  # a checkpoint is under way
        known, found = self._at_rest, (status.st_mtime_ns, status.st_size)
        self._at_rest = after.checkpoint, found
        if known is None or known[0] != after.checkpoint or known[1] == found:
            return None
        return "another program wrote to the file"

    def _changed_wal(self) -> str | None:
        """Tell of a change of what had been appended to the -wal."""
        index = self._index()
        if index is None or not index.frames:
            self._wal = None
            return None
        size = _WAL_HEADER + index.frames * (_FRAME_HEADER + index.page_size)
        seen, known = 0, None
        if self._wal is not None and self._wal[0] == index.salts and self._wal[1] <= size:
            _, seen, known = self._wal
        with open(f"{self._path}-wal", "rb") as wal:
            begin = _checksum(wal, seen, 0)
            if known is None:
                seen, begin = _WAL_HEADER, _checksum(wal, _WAL_HEADER, begin)
            added = (size - seen) // (_FRAME_HEADER + index.page_size)
            whole, are_frames = _frames(wal, added, index, begin)
        after = self._index()
        if after is None or after.salts != index.salts:
            return None  # it was begun anew meanwhile
        if not are_frames or (known is not None and known != begin):
            return "what was appended to its -wal was changed"
        self._wal = index.salts, size, whole
        return None

    # -- the records -------------------------------------------------------------------------------

    def _broken_promise(self, promised: Mapping[int, Head]) -> str | None:
        """Tell of a newest record of ours that can't be found as it was written."""
        for writer, head in promised.items():
            query = "SELECT hash FROM records WHERE writer = ? AND seq = ?"
            row = self._connection.execute(query, (writer, head.seq)).fetchone()
            if row is None or row[0] != head.hash:
                return f"record {head.seq} of writer {writer_name(writer)} is not there"
        return None

    def _changed_record(self, promised: Mapping[int, Head]) -> str | None:
        """Go on with the walks over our chains; tell of the first record that does not fit."""
        self._walks = {writer: self._walks.get(writer) or Walk(writer, None) for writer in promised}
        for writer, walk in self._walks.items():
            if self._changed is not None:
                break
            links = database.links(self._connection, writer, walk.next, _HASHES)
            if not links:
                self._walks[writer] = Walk(writer, None)  # from the front again
                continue
            if links[0].entry.seq > walk.next:
                cut = database.cut(self._connection, writer)
                if cut is not None and cut.seq > walk.next:
                    walk.resume(cut)
                    links = database.links(self._connection, writer, walk.next, _HASHES)
            fault = next(iter(walk.follow(links)), None)
            if fault is not None:
                self._changed = f"record {fault.seq} of writer {writer_name(writer)}: {fault.what}"
        return self._changed

    def _go_through(self, promised: Mapping[int, Head]) -> None:
        """Go on with the pass over the whole file, for a while.

        Raises:
            sqlite3.Error, Damaged: something can't be read, or is missing.
        """
        now = self._clock()
        if now < self._pass_from:
            return
        until = now + (_HURRY_SECONDS if self._hurries else _SLICE_SECONDS)
        going, self._pass = self._pass or self._slices(set(promised)), None
        for _ in going:
            if self._clock() >= until:
                self._pass = going
                return
        self._hurries = False

    def _slices(self, own: set[int]) -> Iterator[None]:
        """Read every page that holds records or their index, some thousand records at a time."""
        for writer in database.writers(self._connection):
            before: float = -1
            while row := self._slice(_RECORDS_SLICE, (writer, before, _RECORDS)):
                count, first, last = row
                if writer in own:
                    self._require_all(writer, before, count, first, last)
                before = last
                yield
        at = float("-inf")
        while row := self._slice(_INDEX_SLICE, (at, _RECORDS)):
            at = row[2]
            yield
        database.cuts(self._connection)

    def _slice(self, query: str, arguments: tuple[float, ...]) -> tuple[int, float, float] | None:
        count, first, last = self._connection.execute(query, arguments).fetchone()
        if not count or not isinstance(last, int | float):
            return None  # another type is no record of ours: `verify` tells of it
        return count, first, last

    def _require_all(
        self, writer: int, before: float, count: int, first: float, last: float
    ) -> None:
        """Raise `Damaged` if numbers are missing in a chain of ours that retention did not take."""
        if count != last - first + 1:
            missing = f"between {first} and {last}"
        elif first == before + 1:
            return
        else:
            cut = database.cut(self._connection, writer)
            if cut is not None and cut.seq >= first:
                return
            missing = f"before {first}"
        raise Damaged(f"records of writer {writer_name(writer)} are missing {missing}")


_RECORDS_SLICE = (
    "SELECT count(*), min(seq), max(seq) FROM "
    "(SELECT seq FROM records WHERE writer = ? AND seq > ? ORDER BY seq LIMIT ?)"
)
_INDEX_SLICE = (
    "SELECT count(*), min(at), max(at) FROM "
    "(SELECT at FROM records INDEXED BY records_at WHERE at > ? ORDER BY at LIMIT ?)"
)


def _frames(file: BinaryIO, count: int, index: _Index, value: int) -> tuple[int, bool]:
    """Return the checksum with that of the next ``count`` frames, and whether they are such: each
    begins with page, size and the salts."""
    size, are_frames = _FRAME_HEADER + index.page_size, True
    while count > 0 and (piece := file.read(min(count, _FRAMES) * size)):
        value = crc32(piece, value)
        are_frames &= all(
            piece[at + 8 : at + 16] == index.salts for at in range(0, len(piece), size)
        )
        count -= _FRAMES
    return value, are_frames and count <= 0


def _checksum(file: BinaryIO, size: int, value: int) -> int:
    """Return the checksum of the next ``size`` bytes after others with the checksum ``value``."""
    while size > 0 and (piece := file.read(min(_PIECE, size))):
        value = crc32(piece, value)
        size -= len(piece)
    return value if size <= 0 else -1  # it is shorter than it was
