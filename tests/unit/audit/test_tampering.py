"""Whatever is done to a journal behind flowcache's back is found, and where it was done is said."""

from __future__ import annotations

import math
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowcache.audit import reading
from flowcache.audit.chain import Cut, Entry, Link, Walk, cut_seal, digest, seal
from flowcache.audit.database import JournalFault
from flowcache.audit.reading import Query, Reader
from flowcache.audit.verifying import Anchor, heads
from flowcache.audit.writing import ChainWriter
from tests.unit.audit.journals import (
    SIGNING_KEY,
    by_hand,
    chain,
    checked,
    pruned,
    record,
    told,
    wrong,
)
from tests.unit.audit.journals import settings as kept_at

BATCHES = (1, 2, 3)
LAST = 7
"""The number of the closing record: one opening record, six of calls."""
COLUMNS = Entry.__struct_fields__
OTHERS: dict[str, Any] = {
    "kind": "intent",
    "at": 1.5,
    "hit": 7,
    "latency_ms": 1e9,
    "stale": 2,
}
"""What a column may be changed to that was never in it; where nothing is said, a text."""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "audit.db"
    chain(path, BATCHES)
    return path


def test_a_journal_that_nobody_touched_is_well(journal: Path) -> None:
    """The verifier has nothing to say of what the writer wrote."""
    report = checked(journal)
    assert report.is_well
    assert (report.records, report.chains, report.unfinished) == (LAST + 1, 1, [])


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("column", [*COLUMNS[3:], "kind"])
@pytest.mark.parametrize("seq", range(LAST + 1))
def test_a_changed_field_is_found(journal: Path, seq: int, column: str, sealed: bool) -> None:
    """Every column of every record: another value in it is found at that very record."""
    with by_hand(journal) as hand:
        hand.execute(
            f"UPDATE records SET {column} = ? WHERE seq = ?", (OTHERS.get(column, "?"), seq)
        )
    assert wrong(journal, sealed=sealed)[0] == seq
    assert any("changed" in what for what in told(journal, sealed=sealed))


@pytest.mark.parametrize("column", [c for c in COLUMNS[4:] if c not in ("stale", "offset")])
@pytest.mark.parametrize("seq", range(1, LAST))
def test_a_field_that_was_emptied_is_found(journal: Path, seq: int, column: str) -> None:
    """A value that was removed is a change like any other, and so is an empty one put there."""
    with by_hand(journal) as hand:
        emptied = f"CASE WHEN {column} IS NULL THEN '' END"
        hand.execute(f"UPDATE records SET {column} = {emptied} WHERE seq = ?", (seq,))
    assert wrong(journal) == [seq]


@pytest.mark.parametrize("seq", range(LAST + 1))
def test_a_changed_hash_is_found(journal: Path, seq: int) -> None:
    """A hash that was changed is told from a record that was, except at the end of the chain."""
    with by_hand(journal) as hand:
        hand.execute("UPDATE records SET hash = zeroblob(32) WHERE seq = ?", (seq,))
    assert wrong(journal, sealed=False) == [seq]
    if seq < LAST:
        assert told(journal, sealed=False) == ["its hash was changed"]


@pytest.mark.parametrize("changed", ["zeroblob(32)", "''", "0", "'text'"])
@pytest.mark.parametrize("seq", [1, 3, 6, LAST])
def test_a_changed_seal_is_found(journal: Path, seq: int, changed: str) -> None:
    """The last record of each commit is sealed; a seal that is not ours is found."""
    with by_hand(journal) as hand:
        hand.execute(f"UPDATE records SET seal = {changed} WHERE seq = ?", (seq,))
    assert wrong(journal) == [seq]
    assert wrong(journal, sealed=False) == []


def test_a_seal_that_was_taken_off_the_end_is_found(journal: Path) -> None:
    """The last record is sealed, or the chain is not what was written."""
    with by_hand(journal) as hand:
        hand.execute("UPDATE records SET seal = NULL WHERE seq = ?", (LAST,))
    assert told(journal) == ["the last record has no signature"]


@pytest.mark.parametrize("seq", range(LAST))
def test_a_removed_record_is_found(journal: Path, seq: int) -> None:
    """A gap in the numbers names the record that is gone."""
    with by_hand(journal) as hand:
        hand.execute("DELETE FROM records WHERE seq = ?", (seq,))
    assert wrong(journal) == [seq]
    assert told(journal) == ["missing"]


@pytest.mark.parametrize("first", range(LAST - 1))
def test_removed_records_are_found(journal: Path, first: int) -> None:
    """Of a longer gap the first and the last are named."""
    with by_hand(journal) as hand:
        hand.execute("DELETE FROM records WHERE seq BETWEEN ? AND ?", (first, first + 1))
    assert told(journal) == [f"missing, as all up to {first + 1}"]


@pytest.mark.parametrize("seq", range(LAST))
def test_a_gap_that_was_closed_is_found(journal: Path, seq: int) -> None:
    """Giving those after a removed record its number does not hide that it is gone."""
    with by_hand(journal) as hand:
        hand.execute("DELETE FROM records WHERE seq = ?", (seq,))
        for later in range(seq + 1, LAST + 1):
            hand.execute("UPDATE records SET seq = ? WHERE seq = ?", (later - 1, later))
    assert wrong(journal, sealed=False)[0] == seq


@pytest.mark.parametrize("seq", range(LAST))
def test_two_records_that_changed_places_are_found(journal: Path, seq: int) -> None:
    """Both are where they were not written."""
    with by_hand(journal) as hand:
        for old, new in ((seq, -1), (seq + 1, seq), (-1, seq + 1)):
            hand.execute("UPDATE records SET seq = ? WHERE seq = ?", (new, old))
    assert {seq, seq + 1} <= set(wrong(journal, sealed=False))


@pytest.mark.parametrize("seq", range(1, LAST + 1))
def test_an_inserted_record_is_found(journal: Path, seq: int) -> None:
    """A record that was pushed in between moves others, and fits nowhere itself."""
    with by_hand(journal) as hand:
        for later in range(LAST, seq - 1, -1):
            hand.execute("UPDATE records SET seq = ? WHERE seq = ?", (later + 1, later))
        copy(hand, seq - 1, seq)
    assert wrong(journal, sealed=False)[0] == seq


def test_a_record_after_the_end_is_found(journal: Path) -> None:
    """Nothing comes after a closing record, however well it fits."""
    with by_hand(journal) as hand:
        copy(hand, LAST, LAST + 1)
        reforge(hand, LAST + 1)
    assert told(journal, sealed=False) == ["comes after the closing record"]


def test_a_record_of_another_chain_is_found(journal: Path) -> None:
    """A record that was put into another writer's chain does not fit there."""
    other = int(chain(journal, BATCHES), 16)
    with by_hand(journal) as hand:
        hand.execute("DELETE FROM records WHERE writer = ? AND seq = 3", (other,))
        hand.execute("UPDATE records SET writer = ? WHERE writer != ? AND seq = 3", (other, other))
    assert wrong(journal, sealed=False).count(3) == 2


@pytest.mark.parametrize("left", range(1, LAST + 1))
def test_a_tail_that_was_cut_off_is_missed_by_a_witness(journal: Path, left: int) -> None:
    """A later writer knows how far this chain had come."""
    chain(journal)
    first = next(name for name, (seq, _) in heads_of(journal).items() if seq == LAST)
    with by_hand(journal) as hand:
        hand.execute("DELETE FROM records WHERE writer = ? AND seq >= ?", (int(first, 16), left))
    assert LAST in wrong(journal, sealed=False)
    assert any(what.startswith("missing, though writer") for what in told(journal, sealed=False))


def test_a_chain_that_was_removed_is_missed_by_a_witness(journal: Path) -> None:
    """A whole chain can't vanish once another was opened. Many witnesses miss it as one fault."""
    chain(journal)
    chain(journal)
    first = next(name for name, (seq, _) in heads_of(journal).items() if seq == LAST)
    with by_hand(journal) as hand:
        hand.execute("DELETE FROM records WHERE writer = ?", (int(first, 16),))
    assert wrong(journal, sealed=False) == [LAST]


def test_a_tail_that_was_cut_off_behind_a_cut_is_missed(journal: Path) -> None:
    """That retention removed the front excuses only what lay before its cut."""
    chain(journal)
    first = int(next(name for name, (seq, _) in heads_of(journal).items() if seq == LAST), 16)
    while pruned(journal, 1_700_000_000.0 + 86_400 + 4, step=2):
        pass
    assert wrong(journal) == []
    with by_hand(journal) as hand:
        hand.execute("DELETE FROM records WHERE writer = ? AND seq = ?", (first, LAST))
    assert wrong(journal, sealed=False) == [LAST]


def test_a_chain_that_is_another_than_a_witness_saw(journal: Path) -> None:
    """A chain that was forged without a flaw is not the one whose head was noted."""
    chain(journal)
    first = int(next(name for name, (seq, _) in heads_of(journal).items() if seq == LAST), 16)
    with by_hand(journal) as hand:
        hand.execute("UPDATE records SET client = 'nobody' WHERE writer = ? AND seq = 2", (first,))
        for seq in range(2, LAST + 1):
            reforge(hand, seq, first)
    assert wrong(journal, sealed=False) == [LAST]
    assert told(journal, sealed=False)[0].startswith("is another one than writer ")


def test_who_closes_is_a_witness_too(tmp_path: Path) -> None:
    """What another chain got after this one was opened is known to its closing record."""
    path = tmp_path / "audit.db"
    witness = ChainWriter(kept_at(path), lambda: 1.0)
    witness.open()
    name = chain(path, BATCHES, closed=False)
    witness.close()
    with by_hand(path) as hand:
        hand.execute("DELETE FROM records WHERE writer = ? AND seq >= 4", (int(name, 16),))
    assert wrong(path, sealed=False) == [6]


def test_a_chain_that_does_not_begin_is_found() -> None:
    """The first record is an opening one, however well the chain fits otherwise."""
    entry = Entry(1, 0, "call", 0.0)
    walk = Walk(1, None)
    assert [fault.what for fault in walk.follow([Link(entry, digest(bytes(32), entry), None)])] == [
        "the chain does not begin with its opening record"
    ]


def test_a_chain_without_its_end_is_told_of(journal: Path) -> None:
    """What no witness can know is said: the chain has no end, and why that may be."""
    with by_hand(journal) as hand:
        hand.execute("DELETE FROM records WHERE seq = ?", (LAST,))
    report = checked(journal)
    assert report.is_well
    assert len(report.unfinished) == 1
    assert report.origins[report.unfinished[0]].startswith("process ")


@pytest.mark.parametrize("left", range(1, LAST + 1))
def test_a_tail_that_was_cut_off_is_missed_by_an_anchor(journal: Path, left: int) -> None:
    """What was noted elsewhere finds what no witness in the file can."""
    noted = heads_of(journal)
    with by_hand(journal) as hand:
        hand.execute("DELETE FROM records WHERE seq >= ?", (left,))
    assert LAST in wrong(journal, sealed=False, anchor=noted)


def test_a_forged_chain_lacks_the_seal(journal: Path) -> None:
    """Who knows all the rules but not the key can write a chain anew, and is found by the seal."""
    with by_hand(journal) as hand:
        hand.execute("UPDATE records SET client = 'nobody' WHERE seq = 2")
        for seq in range(2, LAST + 1):
            reforge(hand, seq)
    assert wrong(journal, sealed=False) == []  # the admitted weakness
    assert set(wrong(journal)) == {3, 6, LAST}
    with by_hand(journal) as hand:
        hand.execute("UPDATE records SET seal = NULL")
    assert wrong(journal) == [LAST]


def test_records_without_a_proper_number_are_found(journal: Path) -> None:
    """What could hide beside the chains is told."""
    for seq in ("'text'", "1.5", "-3"):
        shutil.copy(journal, other := journal.with_name("other.db"))
        with by_hand(other) as hand:
            copy(hand, 1, 100)
            hand.execute(f"UPDATE records SET seq = {seq} WHERE seq = 100")
        assert "1 records have no proper writer or number" in told(other)
    with by_hand(journal) as hand:
        copy(hand, 1, 100)
        hand.execute("UPDATE records SET writer = 'text' WHERE seq = 100")
    assert "1 records have no proper writer or number" in told(journal)


def test_a_cut_that_nobody_made_is_found(journal: Path) -> None:
    """Removing the front and forging the cut needs the key."""
    with by_hand(journal) as hand:
        writer, hash_ = hand.execute("SELECT writer, hash FROM records WHERE seq = 2").fetchone()
        hand.execute("DELETE FROM records WHERE seq <= 2")
        hand.execute("INSERT INTO cuts VALUES (?, 3, ?, 1.0, 0.5, 0, NULL)", (writer, hash_))
    assert told(journal) == ["the cut before it was not signed with this key"]
    assert told(journal, sealed=False) == []  # the admitted weakness
    cut = Cut(writer, 3, hash_, 1.0, 0.5, 0)
    with by_hand(journal) as hand:
        hand.execute("UPDATE cuts SET seal = ?", (cut_seal(SIGNING_KEY.encode(), cut),))
    assert told(journal) == []
    with by_hand(journal) as hand:
        hand.execute("UPDATE cuts SET at = 2.0")
    assert told(journal) == ["the cut before it was not signed with this key"]


@pytest.mark.parametrize(
    ("column", "value", "newest"),
    [("newest", "long ago", 0.0), ("early", 0.5, 0.5), ("early", math.inf, 0.5)],
)
def test_a_cut_with_a_field_of_another_type_is_found(
    journal: Path, column: str, value: object, newest: float
) -> None:
    """It is a fault like any other, and that field counts as nothing."""
    with by_hand(journal) as hand:
        writer, hash_ = hand.execute("SELECT writer, hash FROM records WHERE seq = 2").fetchone()
        hand.execute("DELETE FROM records WHERE seq <= 2")
        hand.execute("INSERT INTO cuts VALUES (?, 3, ?, 1.0, 0.5, 0, NULL)", (writer, hash_))
        hand.execute(f"UPDATE cuts SET {column} = ?", (value,))
    report = checked(journal)
    assert [fault.what for fault in report.faults] == [
        "the cut before it was not signed with this key"
    ]
    assert (report.gone.records, report.gone.newest, report.gone.early) == (3, newest, 0)


def test_a_cut_that_was_removed_is_found(journal: Path) -> None:
    """Without its cut, the front of a chain is missing."""
    with by_hand(journal) as hand:
        hand.execute("DELETE FROM records WHERE seq <= 2")
    assert told(journal) == ["missing, as all up to 2"]


def test_nothing_is_left_of_a_chain_but_its_cut(journal: Path) -> None:
    """Retention leaves a chain's last record: one without any was removed by somebody else."""
    with by_hand(journal) as hand:
        (writer,) = hand.execute("SELECT DISTINCT writer FROM records").fetchone()
        hand.execute("DELETE FROM records")
        hand.execute("INSERT INTO cuts VALUES (?, 8, zeroblob(32), 1.0, 0.5, 0, NULL)", (writer,))
    assert told(journal, sealed=False) == [
        "no record of it is left; retention never removes the last one"
    ]
    assert checked(journal, sealed=False).unfinished == []


@pytest.mark.parametrize("detail", [7, 0.5, b"\xff", "[" * 5000, None])
def test_a_witness_of_another_type_is_found(journal: Path, detail: object) -> None:
    """What no writer writes is a fault of its record, and ends no walk."""
    with by_hand(journal) as hand:
        hand.execute("UPDATE records SET detail = ? WHERE kind IN ('open', 'close')", (detail,))
    assert {0, LAST} <= set(wrong(journal))


@pytest.mark.parametrize("number", range(LAST))
def test_a_record_that_is_not_where_its_number_belongs_ends_the_walk(
    journal: Path, number: int
) -> None:
    """A bit was flipped in the last number: whoever goes on behind it comes to it again."""
    with by_hand(journal) as hand:
        (writer,) = hand.execute("SELECT DISTINCT writer FROM records").fetchone()
    content = journal.read_bytes()
    before = writer.to_bytes((writer.bit_length() + 8) // 8)
    last, changed = (before + bytes([seq]) + b"close" for seq in (LAST, number))
    assert content.count(last) == 1
    journal.write_bytes(content.replace(last, changed))
    assert not checked(journal).is_well


@pytest.mark.parametrize("read", [Reader.records, Reader.newest])
def test_a_query_that_comes_to_the_same_records_again_ends(
    journal: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[..., Iterator[Entry]]
) -> None:
    """Where an index is bent, SQLite may find again and again what has been read."""
    monkeypatch.setattr(reading, "_PART", 3)
    ask = Reader._all

    def bent(reader: Reader, query: str, arguments: Sequence[object]) -> list[tuple[Any, ...]]:
        for behind in ("(at, writer, seq) > (?, ?, ?)", "(at, writer, seq) < (?, ?, ?)"):
            query = query.replace(behind, "? + ? + ? IS NOT NULL")
        return ask(reader, query, arguments)

    monkeypatch.setattr(Reader, "_all", bent)
    with Reader(journal) as reader, pytest.raises(JournalFault, match="not in order"):
        list(read(reader, Query()))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_or_changes_nothing(journal: Path, place: float, bit: int) -> None:
    """Any bit of the file: the verifier finds it, or every record reads as it did before."""
    before = everything(journal)
    broken = journal.with_name("broken.db")
    content = bytearray(journal.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    for leftover in journal.parent.glob("broken.db*"):
        leftover.unlink()
    broken.write_bytes(content)
    try:
        report = checked(broken)
        is_found = not report.is_well
    except JournalFault:
        is_found = True
    assert is_found or everything(broken) == before


def everything(path: Path) -> list[Entry]:
    with Reader(path) as reader:
        return list(reader.records(Query()))


def heads_of(path: Path) -> Anchor:
    with Reader(path) as reader:
        return heads(reader)


def copy(hand: sqlite3.Connection, seq: int, to: int) -> None:
    """Put a copy of a record at another number."""
    columns = ", ".join(("writer", *COLUMNS[2:], "hash", "seal"))
    hand.execute(
        f"INSERT INTO records (seq, {columns}) SELECT ?, {columns} FROM records WHERE seq = ?",
        (to, seq),
    )


def reforge(hand: sqlite3.Connection, seq: int, writer: int | None = None) -> None:
    """Give a record the hash that it ought to have after the one before it."""
    if writer is None:
        (writer,) = hand.execute("SELECT DISTINCT writer FROM records").fetchone()
    where = "WHERE writer = ? AND seq = ?"
    row = hand.execute(
        f"SELECT {', '.join(COLUMNS)} FROM records {where}", (writer, seq)
    ).fetchone()
    (before,) = hand.execute(f"SELECT hash FROM records {where}", (writer, seq - 1)).fetchone()
    made = digest(before, Entry(*row))
    hand.execute(f"UPDATE records SET hash = ? {where}", (made, writer, seq))


def test_a_witness_that_says_the_impossible_is_a_changed_record(journal: Path) -> None:
    """Numbers beyond any, names of no writer: the verifier says which record was changed."""
    chain(journal)
    for name, number in (("0" * 12, 10**25), ("f" * 40, 3), ("no name", 3), ("0" * 12, -1)):
        shutil.copy(journal, other := journal.with_name("other.db"))
        said = f'{{"host":"h","pid":1,"heads":{{"{name}":[{number},"00"]}}}}'
        with by_hand(other) as hand:
            hand.execute(
                "UPDATE records SET detail = ? WHERE kind = 'open' AND detail LIKE '%[%'", (said,)
            )
        assert told(other) == [
            "not what was written here: it, its place or the record before it was changed"
        ]


def test_retention_meanwhile_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is let go of between the walk and the asking of witnesses was there when it was seen."""
    path = tmp_path / "audit.db"
    times = iter((1e9, 1e9, *[2e9] * 20))
    first = ChainWriter(kept_at(path), lambda: next(times))
    first.append([record(1, at=1e9)])
    second = ChainWriter(kept_at(path), lambda: 2e9)
    second.open()  # and has seen the first's second record
    first.append([record(2, at=2e9)])
    cuts = Reader.cuts

    def cut_behind_their_back(reader: Reader) -> dict[int, Cut]:
        found = cuts(reader)
        pruned(path, 2e9)
        return found

    monkeypatch.setattr(Reader, "cuts", cut_behind_their_back)
    assert wrong(path) == []


# -- the walk itself ------------------------------------------------------------------------------


def links(count: int, key: bytes | None = None) -> list[Link]:
    before, made = bytes(32), []
    for seq in range(count):
        entry = Entry(1, seq, "call" if seq else "open", float(seq))
        before = digest(before, entry)
        made.append(Link(entry, before, None if key is None else seal(key, before)))
    return made


@given(st.integers(1, 12), st.lists(st.integers(0, 12)))
def test_it_makes_no_difference_how_a_chain_is_handed_over(count: int, places: list[int]) -> None:
    """A walk over parts finds what a walk over the whole finds: nothing, or the same."""
    whole = links(count)
    whole[count // 2] = whole[count // 2]._replace(hash=b"x" * 32)
    ends = sorted(min(place, count) for place in places)
    parts = [whole[a:b] for a, b in zip([0, *ends], [*ends, count], strict=True)]
    one, many = Walk(1, None), Walk(1, None)
    found = [*one.follow(whole), *one.end()]
    assert found
    assert [*(fault for part in parts for fault in many.follow(part)), *many.end()] == found


def test_the_encoding_is_what_it_always_was() -> None:
    """The hash of a given record never changes: journals of years ago are still verified."""
    entry = Entry(
        0x0123456789AB, 7, "call", 1.5, "flow", "::1", "id", "f", "i", "GET", "k", "ok", 1, 0.25,
        "a:1", 0, None, 300,
    )  # fmt: skip
    assert digest(bytes(range(32)), entry).hex() == (
        "268bc2ec1a6e98a1e5dae993f23fd7bd767e5297d9623ac7aea3d5835052a729"
    )
    assert seal(b"key", bytes(32)).hex().startswith("1258d1da7120ab44")
