"""Reading the journal while others write it.

Nothing here keeps the file busy: each part of a long answer is a short query of its own, because
SQLite can't fold the -wal file back while a reader looks at an old state.

Of a file that is damaged, all is read that can be: where a part can't be read, its records are
asked for one by one, and those on pages that are none any more are passed over and counted.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import Any, Self

import msgspec

from flowcache.audit import database
from flowcache.audit.chain import Cut, Entry, Head, Kind, Link
from flowcache.audit.database import COLUMNS, Damaged, JournalFault
from flowcache.ports import FAILED, has_failed

__all__ = ["Query", "Reader"]

_PART = 5000
_FARTHEST = 1 << 40
"""The most records of a chain that can't be read."""
_WITHOUT_CALL = (Kind.OPEN, Kind.CLOSE, Kind.CUT)
_LONGEST_CALL = 100_000
"""The most records of a chain between an intent and its outcome: far more than wait for Redis."""


_Place = tuple[float, int, int]
"""Where a record is in the order of time: its time, its writer and its number."""


class Query(msgspec.Struct, frozen=True):
    """Which records are wanted. Times are Unix seconds; ``until`` is the first not wanted.

    ``key`` is as the journal keeps it. ``outcome`` is ``ok``, a code, or ``failed`` for any code.
    """

    limit: int | None = None
    flow: str | None = None
    interaction: str | None = None
    client: str | None = None
    address: str | None = None
    request: str | None = None
    key: str | None = None
    operation: str | None = None
    outcome: str | None = None
    since: float | None = None
    until: float | None = None


_CONDITIONS = {
    "flow": "flow = ?",
    "interaction": "interaction = ?",
    "client": "client = ?",
    "address": "address = ?",
    "request": "request_id = ?",
    "key": "key = ?",
    "operation": "operation = ?",
    "since": "at >= ?",
    "until": "at < ?",
}
"""What in a `Query` SQLite looks after; outcomes come later, when intents have met theirs."""


class Reader:
    """A journal, open for reading. A context manager.

    Raises:
        JournalFault: it can't be read; so may each of its methods.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unreadable = 0
        """How many records `records` and `newest` had to pass over."""
        self._connection = database.connect_read_only(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    # -- records, for people ----------------------------------------------------------------------

    def records(self, query: Query) -> Iterator[Entry]:
        """Yield every record that fits ``query`` as it was kept, oldest first."""
        fitting = (e for e in self._through(query, "ASC") if _has_outcome(e, query.outcome))
        return islice(fitting, query.limit)

    def newest(self, query: Query, within: int | None = None) -> Iterator[Entry]:
        """Yield the calls that fit ``query``, newest first.

        Of a write, which has two records in strict mode, the intent is left out when its outcome is
        there. With ``within``, no more than that many of the newest records are looked at.
        """
        fitting = self._calls(self._through(query, "DESC", within), query.outcome)
        return islice(fitting, query.limit)

    def _calls(self, entries: Iterable[Entry], outcome: str | None) -> Iterator[Entry]:
        """Yield what is about calls, of ``entries`` from the newest on."""
        answered: set[tuple[int, str | None]] = set()
        for entry in entries:
            call = (entry.writer, entry.request_id)
            if entry.kind == Kind.OUTCOME:
                answered.add(call)
            elif entry.kind == Kind.INTENT:
                if call in answered:
                    answered.discard(call)
                    continue
                if self._has_ended(entry):
                    continue
            if entry.kind not in _WITHOUT_CALL and _has_outcome(entry, outcome):
                yield entry

    def _has_ended(self, intent: Entry) -> bool:
        """Tell whether an intent's outcome is in its chain: by the time, if a clock was set back,
        it may come first, and by what was asked for it may not come at all."""
        return bool(
            self._all(
                "SELECT 1 FROM records WHERE writer = ? AND seq > ? AND seq < ? "
                "AND request_id = ? AND kind = ? LIMIT 1",
                (
                    intent.writer,
                    intent.seq,
                    intent.seq + _LONGEST_CALL,
                    intent.request_id,
                    Kind.OUTCOME.value,
                ),
            )
        )

    def _through(self, query: Query, order: str, within: int | None = None) -> Iterator[Entry]:
        """Yield what fits all of ``query`` but its outcome, in the order of time."""
        asked = [
            (c, getattr(query, n)) for n, c in _CONDITIONS.items() if getattr(query, n) is not None
        ]
        position: _Place | None = None
        ordered = f"ORDER BY at {order}, writer {order}, seq {order}"
        source = "records"
        if within is not None:
            source = f"(SELECT * FROM records {ordered} LIMIT {within:d})"  # noqa: S608
        while True:
            where = [condition for condition, _ in asked]
            arguments = [value for _, value in asked]
            if position is not None:
                where.append(f"(at, writer, seq) {'<' if order == 'DESC' else '>'} (?, ?, ?)")
                arguments.extend(position)
            filters = f"{'WHERE ' if where else ''}{' AND '.join(where)}"
            try:
                rows = self._all(
                    f"SELECT {COLUMNS} FROM {source} {filters} "  # noqa: S608 - names of ours
                    f"{ordered} LIMIT {_PART}",
                    arguments,
                )
            except Damaged:
                try:
                    places = self._places(position, ordered, order)
                except Damaged:
                    if within is not None:  # somebody waits for a page of the newest
                        raise
                    yield from self._by_chains(position, order, asked)
                    return
                yield from self._one_by_one(places, asked)
                if len(places) < _PART:
                    return
                position = places[-1]
                continue
            yield from (Entry(*row) for row in rows)
            if len(rows) < _PART:
                return
            before, last = position, Entry(*rows[-1])
            position = (last.at, last.writer, last.seq)
            if before is not None:
                ordered_pair = [before, position] if order == "ASC" else [position, before]
                low, high = map(_as_sqlite_sorts, ordered_pair)
                if low >= high:  # a bit was flipped: the walk would never end
                    raise JournalFault(f"{self.path}: can't be read: its records are not in order")

    def _places(self, position: _Place | None, ordered: str, order: str) -> list[_Place]:
        """Return the next places in the order of time, by the index of the records alone."""
        where = f"WHERE (at, writer, seq) {'<' if order == 'DESC' else '>'} (?, ?, ?)"
        return self._all(
            "SELECT at, writer, seq FROM records INDEXED BY records_at "  # noqa: S608 - ours
            f"{where if position else ''} {ordered} LIMIT {_PART}",
            position or (),
        )

    def _one_by_one(
        self, places: Iterable[_Place], asked: Sequence[tuple[str, Any]]
    ) -> Iterator[Entry]:
        """Yield what fits of the records at ``places``; count those that can't be read."""
        where = " AND ".join(["writer = ?", "seq = ?", *(condition for condition, _ in asked)])
        query = f"SELECT {COLUMNS} FROM records WHERE {where}"  # noqa: S608 - names of ours
        for _, writer, seq in places:
            try:
                rows = self._all(query, (writer, seq, *(value for _, value in asked)))
            except Damaged:
                self.unreadable += 1
                continue
            yield from (Entry(*row) for row in rows)

    def _by_chains(
        self, position: _Place | None, order: str, asked: Sequence[tuple[str, Any]]
    ) -> Iterator[Entry]:
        """Yield what fits behind ``position``, where the index of the time can't be read."""
        places: Iterable[_Place] = merge(*map(self._places_of, self.writers()))
        if order == "DESC":
            places = reversed([p for p in places if position is None or p < position])
        elif position is not None:
            places = (p for p in places if p > position)
        yield from self._one_by_one(places, asked)

    def _places_of(self, writer: int) -> Iterator[_Place]:
        start: int | None = 0
        while start is not None:
            try:
                links = self.links(writer, start)
            except Damaged:
                then = self.after_damage(writer, start)
                self.unreadable += 0 if then is None else then - start
                start = then
                continue
            yield from ((link.entry.at, writer, link.entry.seq) for link in links)
            start = links[-1].entry.seq + 1 if links else None

    # -- chains, for the verifier -----------------------------------------------------------------

    def writers(self) -> list[int]:
        """Return all writers that have records."""
        try:
            with self._told():
                return database.writers(self._connection)
        except Damaged:  # the index names them, too
            query = "SELECT DISTINCT writer FROM records INDEXED BY records_at ORDER BY writer"
            return [row[0] for row in self._all(query, ()) if isinstance(row[0], int)]

    def count(self) -> int:
        """Return how many records there are."""
        return int(self._all("SELECT count(*) FROM records", ())[0][0])

    def cuts(self) -> dict[int, Cut]:
        """Return where chains go on after retention, by writer."""
        with self._told():
            return database.cuts(self._connection)

    def cut(self, writer: int, behind: int = -1) -> Cut | None:
        """Return where a chain goes on after retention, if that is behind a number."""
        with self._told():
            cut = database.cut(self._connection, writer)
        return cut if cut is not None and cut.seq > behind else None

    def links(self, writer: int, start: int, limit: int = _PART) -> list[Link]:
        """Return the next records of a chain, from number ``start`` on; none when it has ended."""
        while True:
            try:
                with self._told():
                    return database.links(self._connection, writer, start, limit)
            except Damaged:
                if limit == 1:
                    raise
                limit = max(1, limit // 8)

    def after_damage(self, writer: int, start: int) -> int | None:
        """Return the number of the first record behind ``start``, which can't be read, that can be;
        None if there is none."""
        unread, step = start, 1
        while (found := self._readable(writer, unread + step)) is None:
            unread, step = unread + step, 2 * step
            if step > _FARTHEST:
                return None
        read = unread + step
        while read - unread > 1:
            middle = (unread + read) // 2
            at_middle = self._readable(writer, middle)
            if at_middle is None:
                unread = middle
            else:
                read, found = middle, at_middle
        return found or None

    def _readable(self, writer: int, seq: int) -> int | None:
        """Return the number of the first record from ``seq`` on, 0 if there is none, and None if
        it can't be read."""
        query = (
            f"SELECT {COLUMNS} FROM records "  # noqa: S608 - words of ours
            "WHERE typeof(seq) = 'integer' AND writer = ? AND seq >= ? ORDER BY seq LIMIT 1"
        )
        try:
            rows = self._all(query, (writer, seq))
        except Damaged:
            return None
        if not rows:
            return 0
        found = Entry(*rows[0]).seq
        # In a damaged index SQLite may find a record before the place it was asked for.
        return found if found >= seq else None

    def version(self) -> int:
        """Return a number that is another one when somebody has written since it was asked for."""
        return int(self._all("PRAGMA data_version", ())[0][0])

    def hash_of(self, writer: int, seq: int) -> bytes | None:
        """Return a record's hash; None when there is no such record."""
        try:
            rows = self._all("SELECT hash FROM records WHERE writer = ? AND seq = ?", (writer, seq))
        except Damaged:
            return None
        return rows[0][0] if rows else None

    def head(self, writer: int) -> Head:
        """Return the newest record of a chain that has any."""
        rows = self._all(
            "SELECT seq, hash FROM records WHERE writer = ? ORDER BY seq DESC LIMIT 1", (writer,)
        )
        return Head(*rows[0])

    def copy(self, to: Path) -> None:
        """Write all of the journal, as it is at this moment, to a new file for its user alone.

        Raises:
            OSError: there is such a file, or it can't be made.
        """
        os.close(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            # SQLite's backup starts again with each write: while workers run it never ends.
            self._all("VACUUM INTO ?", (str(to),))
        except BaseException:
            to.unlink()
            raise

    def damage(self) -> list[str]:
        """Return what SQLite finds wrong with the file, and what no writer of ours would write."""
        try:
            found = [str(row[0]) for row in self._all("PRAGMA integrity_check(20)", ())]
        except JournalFault as fault:
            return [str(fault)]
        if found != ["ok"]:
            return found
        strange = self._all(
            "SELECT count(*) FROM records "
            "WHERE typeof(writer) != 'integer' OR typeof(seq) != 'integer' OR seq < 0",
            (),
        )[0][0]
        return [f"{strange} records have no proper writer or number"] if strange else []

    def _all(self, query: str, arguments: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._told(), closing(self._connection.execute(query, arguments)) as cursor:
            return cursor.fetchall()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeError) as fault:
            raise database.unreadable(self.path, fault) from None


def _as_sqlite_sorts(position: Sequence[object]) -> list[tuple[int, Any]]:
    """Return what compares as SQLite does: numbers, texts, bytes; it keeps any in any column."""
    return [(_RANK[type(value)], value) for value in position]


_RANK: dict[type, int] = {int: 0, float: 0, str: 1, bytes: 2}


def _has_outcome(entry: Entry, wanted: str | None) -> bool:
    if wanted == FAILED:
        return has_failed(entry.outcome)
    return wanted is None or entry.outcome == wanted
