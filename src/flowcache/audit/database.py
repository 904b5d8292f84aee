"""The journal's file: its tables, how it is opened, and whose turn it is to write.

SQLite in WAL mode: one process writes at a time while any number read. Among writers SQLite only
knows to try again later, and of two busy ones one may wait for a second; so each takes its turn at
a lock file next to the journal (`Turns`), and meets SQLite's own lock open.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from time import sleep
from typing import Any, Self

from flowcache.audit.chain import Cut, Entry, Link

__all__ = [
    "ADVICE",
    "COLUMNS",
    "COMPANIONS",
    "Damaged",
    "JournalFault",
    "Turns",
    "connect",
    "connect_read_only",
    "cut",
    "cuts",
    "ends",
    "files",
    "heads",
    "identity",
    "links",
    "make_private",
    "number",
    "unreadable",
    "writers",
]

_APPLICATION = 0x666C6175
"""``flau``: what `file` and we know the journal by."""
_VERSION = 1
_BUSY_SECONDS = 5.0
_PAUSE = 0.0002
_TRIES = 10_000

COMPANIONS = ("-wal", "-shm")
"""What the names of SQLite's own files end with: what was committed of late, and its index."""

COLUMNS = ", ".join(Entry.__struct_fields__)
"""The columns of a record, in the order of `Entry`; ``hash`` and ``seal`` follow."""

_SCHEMA = (
    """CREATE TABLE records (
        writer INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        kind TEXT NOT NULL,
        at REAL NOT NULL,
        client TEXT,
        address TEXT,
        request_id TEXT,
        flow TEXT,
        interaction TEXT,
        operation TEXT,
        key TEXT,
        outcome TEXT,
        hit INTEGER,
        latency_ms REAL,
        shard TEXT,
        stale INTEGER NOT NULL,
        detail TEXT,
        offset INTEGER NOT NULL,
        hash BLOB NOT NULL,
        seal BLOB,
        PRIMARY KEY (writer, seq)
    ) WITHOUT ROWID""",
    "CREATE INDEX records_at ON records (at)",
    """CREATE TABLE cuts (
        writer INTEGER PRIMARY KEY,
        seq INTEGER NOT NULL,
        hash BLOB NOT NULL,
        at REAL NOT NULL,
        newest REAL NOT NULL,
        early INTEGER NOT NULL,
        seal BLOB
    )""",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_VERSION}",
)


class JournalFault(Exception):
    """The journal can't be opened, read or written. The message is fit for an operator."""


class Damaged(JournalFault):
    """What is in the file is not what SQLite, or a writer of ours, put there."""


ADVICE = (
    "Stop flowcache; `flowcache audit verify` says what is lost, `flowcache audit export` writes "
    "what can be read. Move the file with its -wal and -shm away, and start flowcache again."
)
"""What to do with a damaged journal."""


def unreadable(path: Path, fault: Exception) -> JournalFault:
    """Return what SQLite or the system raised as a fault; only some mean that the file is damaged.

    ``OperationalError`` is all that may pass, as a lock or a lack of file descriptors.
    """
    is_damaged = isinstance(fault, sqlite3.DatabaseError) and not isinstance(
        fault, sqlite3.OperationalError
    )
    return (Damaged if is_damaged else JournalFault)(f"{path}: can't be read: {fault}")


class Turns:
    """Whose turn it is to write, among all processes that share a journal.

    Two locks, as a turnstile: who waits for the second holds the first, so that a writer that has
    just ended its turn can't be the next while another waits. The kernel releases the locks of a
    process that died, but not of one that was stopped: so nobody waits without end.
    """

    def __init__(self, journal: Path) -> None:
        with ExitStack() as opened:
            self._gate, self._desk = (
                opened.enter_context(_Lock(Path(f"{journal}-{name}"))) for name in ("gate", "turn")
            )
            self._opened = opened.pop_all()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn, and have it for a while.

        Raises:
            JournalFault: somebody else has it for too long.
        """
        with ExitStack() as at_desk:
            with self._gate.held():
                at_desk.enter_context(self._desk.held())
            yield

    def close(self) -> None:
        """Release the locks."""
        self._opened.close()


class _Lock:
    """A lock of the whole system, at a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    @contextmanager
    def held(self) -> Iterator[None]:
        # The kernel knows no limit for this wait; the pauses are short compared to a commit.
        for _ in range(_TRIES):
            with suppress(BlockingIOError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            sleep(_PAUSE)
        else:
            raise JournalFault(
                f"{self._path}: another process has its turn to write for more than "
                f"{_TRIES * _PAUSE:g} s; was it stopped, or does the disk hang?"
            )
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


def make_private(path: Path) -> None:
    """Create an empty file that only its owner may read, unless there is one.

    SQLite would leave the mode to the umask; its -wal and -shm take the mode of the file. A file
    that exists is not opened: SQLite may have it open in this process, and closing it here would
    release SQLite's locks (fcntl(2)).
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def connect(path: Path) -> sqlite3.Connection:
    """Open the journal for writing; make it where there is none. Have the turn while you do.

    Raises:
        JournalFault: it is of another kind or version.
        sqlite3.Error, OSError: it can't be opened.
    """
    make_private(path)
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    connection.text_factory = _text
    try:
        if not number(connection, "PRAGMA schema_version"):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("COMMIT")
        _recognise(connection, path)
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise JournalFault(f"{path}: can't be put into WAL mode; is it on a network drive?")
        # FULL: a commit is on disk when it returns. NORMAL would lose some to a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open the journal for reading while others write.

    Raises:
        JournalFault: there is none, or it can't be read.
    """
    if not path.is_file():
        raise JournalFault(f"{path}: there is no journal.")
    location = f"{path.resolve().as_uri()}?mode=ro"
    # A directory that can't be written to has no room for the -shm file that WAL needs; without a
    # -wal nobody writes, and none is needed.
    quiet = not os.path.exists(f"{path}-wal") and not os.access(path.parent, os.W_OK)
    try:
        connection = sqlite3.connect(
            location + "&immutable=1" * quiet, uri=True, timeout=_BUSY_SECONDS, isolation_level=None
        )
        connection.text_factory = _text
        try:
            _recognise(connection, path)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as fault:
        raise unreadable(path, fault) from None
    return connection


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells the file from another one of the same name; None when there is none."""
    with suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def files(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Return the identities of all that the open journal consists of: the file first, then what
    SQLite keeps next to it. They are the same for as long as anybody has it open."""
    return tuple(identity(Path(f"{path}{suffix}")) for suffix in ("", *COMPANIONS))


def _text(kept: bytes) -> str:
    """Return a text as it was kept. One that somebody broke must not hide the rest."""
    try:
        return kept.decode()
    except UnicodeDecodeError:
        return f"\0no UTF-8: {kept.hex()}"


def _recognise(connection: sqlite3.Connection, path: Path) -> None:
    if number(connection, "PRAGMA application_id") != _APPLICATION:
        raise JournalFault(f"{path}: is not an audit journal of flowcache.")
    version = number(connection, "PRAGMA user_version")
    if version != _VERSION:
        raise JournalFault(f"{path}: is a journal of version {version}; this is for {_VERSION}.")


def writers(connection: sqlite3.Connection) -> list[int]:
    """Return the writers that have records. It takes a look-up each, however long their chains."""
    found: list[int] = []
    query = "SELECT writer FROM records WHERE writer > ? ORDER BY writer LIMIT 1"
    row = (-(1 << 63),)
    while (row := connection.execute(query, row).fetchone()) and isinstance(row[0], int | float):
        if isinstance(row[0], int):  # another type is no writer of ours; `verifying` tells of it
            found.append(row[0])
    return found


def number(connection: sqlite3.Connection, query: str) -> int:
    """Return the one number that ``query`` gives."""
    return int(connection.execute(query).fetchone()[0])


def links(connection: sqlite3.Connection, writer: int, start: int, limit: int) -> list[Link]:
    """Return the next records of a chain, from number ``start`` on; none when it has ended.

    Raises:
        sqlite3.DatabaseError: SQLite finds records where others should be. A file in which a bit
            was flipped may be such a one: whoever walks on by these numbers would never end.
    """
    found = _links(connection, "writer = ? AND seq >= ? ORDER BY seq LIMIT ?", writer, start, limit)
    numbers = [start - 1, *(link.entry.seq for link in found)]
    if any(after <= before for before, after in pairwise(numbers)):
        raise sqlite3.DatabaseError(f"records of writer {writer} are not in order")
    return found


def ends(connection: sqlite3.Connection, writer: int) -> list[Link]:
    """Return the last two records of a chain, or the only one, the last one first."""
    return _links(connection, "writer = ? ORDER BY seq DESC LIMIT 2", writer)


def heads(connection: sqlite3.Connection) -> list[Link]:
    """Return the last record of each chain. It takes two look-ups each."""
    found = (ends(connection, writer)[:1] for writer in writers(connection))
    return [link for links in found for link in links]


def _links(connection: sqlite3.Connection, which: str, *arguments: int) -> list[Link]:
    query = (
        f"SELECT {COLUMNS}, hash, seal FROM records "  # noqa: S608 - words of ours
        f"WHERE typeof(seq) = 'integer' AND {which}"
    )
    with closing(connection.execute(query, arguments)) as rows:
        return [Link(Entry(*row[:-2]), _bytes(row[-2]), _bytes_or_none(row[-1])) for row in rows]


def cuts(connection: sqlite3.Connection) -> dict[int, Cut]:
    """Return where chains go on after retention, by writer."""
    with closing(connection.execute(f"{_CUTS} WHERE typeof(seq) = 'integer'")) as rows:
        return {row[0]: _cut(row) for row in rows}


def cut(connection: sqlite3.Connection, writer: int) -> Cut | None:
    """Return where a chain goes on after retention."""
    query = f"{_CUTS} WHERE writer = ? AND typeof(seq) = 'integer'"
    with closing(connection.execute(query, (writer,))) as rows:
        return next(map(_cut, rows), None)


_CUTS = f"SELECT {', '.join(Cut._fields)} FROM cuts"  # noqa: S608 - names of ours


def _cut(row: tuple[Any, ...]) -> Cut:
    cut = Cut(*row)
    return cut._replace(
        hash=_bytes(cut.hash),
        at=_number(cut.at),
        newest=_number(cut.newest),
        early=cut.early if isinstance(cut.early, int) else 0,
        seal=_bytes_or_none(cut.seal),
    )


def _number(value: float) -> float:
    """Return a number as it was kept; in place of what is none, one that no seal fits."""
    return float(value) if isinstance(value, int | float) else 0.0


def _bytes(value: object) -> bytes:
    """Return a hash as it was kept; what is none, since somebody changed it, fits nothing."""
    return value if isinstance(value, bytes) else b""


def _bytes_or_none(value: object) -> bytes | None:
    return None if value is None else _bytes(value)
