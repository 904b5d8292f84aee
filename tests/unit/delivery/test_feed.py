"""What comes next: everything, once, in order per writer, a gap where records are gone."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flowcache.audit.chain import Link
from flowcache.audit.reading import Reader
from flowcache.audit.received import Received
from flowcache.audit.verifying import verify
from flowcache.audit.writing import ChainWriter
from flowcache.delivery.batch import Batch
from flowcache.delivery.feed import Feed
from flowcache.delivery.progress import Place
from flowcache.outbound.judging import NotNow
from tests.unit.audit.journals import SIGNING_KEY, by_hand, chain, pruned, record, settings

NEW = Place(0.0, {})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


def drained(feed: Feed) -> list[Batch]:
    """Take all there is, as a destination that never fails."""
    batches = []
    while (batch := feed.next()) is not None:
        feed.delivered(batch)
        batches.append(batch)
    return batches


def numbers(batches: list[Batch], writer: str) -> list[int]:
    lines = [json.loads(line) for batch in batches for line in batch.lines]
    return [line["seq"] for line in lines if line["writer"] == writer]


def cut(path: Path, records: int, at: float = 5e9) -> None:
    """Let go of the first records of the journal, as retention does."""
    assert pruned(path, at, records) == records


def test_everything_in_order_per_writer(path: Path) -> None:
    """Each chain comes whole and in order, in batches of no more than was asked for."""
    names = [chain(path, sizes) for sizes in ([3, 4], [1], [8])]
    batches = drained(Feed(path, NEW, 3))
    assert [numbers(batches, name) for name in names] == [
        list(range(9)),
        list(range(3)),
        list(range(10)),
    ]
    assert max(batch.records for batch in batches) == 3
    assert all(batch.key == f"{batch.writer}:{batch.first}-{batch.last}" for batch in batches)


def test_writers_take_turns(path: Path) -> None:
    """A writer with much to tell does not hold back the others."""
    for _ in range(3):
        chain(path, [20])
    first = [batch.writer for batch in drained(Feed(path, NEW, 5))[:6]]
    assert sorted(first[:3]) == sorted(first[3:])
    assert len(set(first[:3])) == 3


def test_a_batch_comes_again_until_it_was_delivered(path: Path) -> None:
    """Asking twice moves nothing."""
    chain(path)
    feed = Feed(path, NEW, 2)
    first = feed.next()
    assert first is not None
    assert feed.next() == first
    feed.delivered(first)
    assert feed.next() != first


def test_going_on_where_another_was(path: Path) -> None:
    """What was delivered is not sent again; what came since is."""
    name = chain(path, [5])
    batches = drained(Feed(path, Place(0.0, {name: 3}), 100))
    assert numbers(batches, name) == [4, 5, 6]


def test_what_is_written_later_comes_later(path: Path) -> None:
    """A feed that has run dry hears of what others write, and of new chains."""
    writer = ChainWriter(settings(path), lambda: 1.7e9)
    feed = Feed(path, NEW, 100)
    assert drained(feed) == []
    writer.append([record(1)])
    assert numbers(drained(feed), writer.name) == [0, 1]
    assert drained(feed) == []
    writer.append([record(2)])
    assert numbers(drained(feed), writer.name) == [2]
    other = chain(path)
    assert numbers(drained(feed), other) == [0, 1, 2, 3, 4]
    writer.close()
    assert numbers(drained(feed), writer.name) == [3]
    feed.close()


def test_what_a_moved_journal_took_along_is_counted(path: Path) -> None:
    """Nobody will deliver it: how much it is can be told once, by who had the journal open."""
    chain(path, [10])
    feed = Feed(path, NEW, 5)
    batch = feed.next()
    assert batch is not None
    feed.delivered(batch)
    for suffix in ("", "-wal", "-shm"):
        if Path(f"{path}{suffix}").exists():
            shutil.move(f"{path}{suffix}", f"{path}.old{suffix}")
    name = chain(path)
    assert numbers(drained(feed), name) == [0, 1, 2, 3, 4]
    assert [feed.left_behind(), feed.left_behind()] == [7, 0]
    feed.close()


def test_what_is_due_now_has_an_end(path: Path) -> None:
    """Beside a service that writes on, a pass ends with what was there when it began."""
    writer = ChainWriter(settings(path), lambda: 1.7e9)
    writer.append([record(each) for each in range(5)])
    feed, got = Feed(path, NEW, 4), []
    with feed.up_to_now():
        while (batch := feed.next()) is not None:
            feed.delivered(batch)
            got.append(batch)
            writer.append([record(9)])
            chain(path)
    assert numbers(got, writer.name) == list(range(6))
    assert {batch.writer for batch in got} == {writer.name}
    assert numbers(drained(feed), writer.name) == [6, 7]
    feed.close()
    writer.close()


def test_a_round_asks_each_writer_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a batch costs does not grow with the chains; one that has ended costs nothing more."""
    names = [chain(path, [10]) for _ in range(20)]
    feed = Feed(path, Place(0.0, dict.fromkeys(names[5:], 11)), 4)
    asked: Counter[str] = Counter()

    def count(what: str) -> None:
        ask = getattr(Reader, what)

        def counted(*arguments: Any) -> Any:
            asked[what] += 1
            return ask(*arguments)

        monkeypatch.setattr(Reader, what, counted)

    count("writers")
    count("links")
    assert len(drained(feed)) == 15
    assert asked["writers"] == 4  # three rounds, and one that finds nothing
    assert asked["links"] == 15 + 2 * 15  # those that have ended are met once
    asked.clear()
    chain(path, [1])
    assert len(drained(feed)) == 1
    assert asked["links"] == 1
    feed.close()


def test_a_new_journal_in_the_place_of_one_that_was_moved(path: Path) -> None:
    """An operator may move a journal aside: the feed goes on with the one that follows."""
    chain(path)
    feed = Feed(path, NEW, 100)
    drained(feed)
    for suffix in ("", "-wal", "-shm"):
        if Path(f"{path}{suffix}").exists():
            shutil.move(f"{path}{suffix}", f"{path}.old{suffix}")
    assert drained(feed) == []
    name = chain(path)
    assert numbers(drained(feed), name) == [0, 1, 2, 3, 4]
    feed.close()


def test_what_is_no_journal_is_not_for_now(path: Path) -> None:
    """A broken file is told of and tried again: it may be mended."""
    path.write_bytes(b"no journal " * 500)
    with pytest.raises(NotNow, match=r"audit\.db"):
        Feed(path, NEW, 100).next()


def test_records_that_were_let_go_of_leave_a_gap(path: Path) -> None:
    """The destination had some: it is told which will never come, and they are counted."""
    name = chain(path, [10])
    had = [batch.lines for batch in drained(Feed(path, NEW, 4))][:1]
    cut(path, 7)
    batches = drained(Feed(path, Place(0.0, {name: 3}), 100))
    (batch,) = batches
    assert (batch.first, batch.last, batch.records, batch.missed) == (4, 11, 5, 3)
    notice = json.loads(batch.lines[0])
    assert (notice["kind"], notice["seq"], notice["until"]) == ("gap", 4, 6)
    received = Received([line for lines in (*had, batch.lines) for line in lines])
    assert verify(received, SIGNING_KEY.encode()).is_well


def test_what_was_gone_before_anybody_asked_is_not_missed(path: Path) -> None:
    """A destination that is new is told where the chain begins, and nothing is counted."""
    chain(path, [10])
    cut(path, 7, at=5e9)
    (batch,) = drained(Feed(path, Place(5e9 + 1, {}), 100))
    assert batch.missed == 0
    assert json.loads(batch.lines[0])["kind"] == "gap"
    assert verify(Received(batch.lines), SIGNING_KEY.encode()).is_well


def test_what_is_gone_since_somebody_asked_is_missed(path: Path) -> None:
    """A destination that has had none yet is owed all there were when it was set up."""
    chain(path, [10])
    cut(path, 7, at=5e9)
    (batch,) = drained(Feed(path, Place(5e9 - 1, {}), 100))
    assert (batch.first, batch.missed) == (0, 7)


def test_what_is_gone_of_a_chain_that_it_had_some_of_is_missed(path: Path) -> None:
    """Whatever time the cut tells: the clock of retention may be late."""
    name = chain(path, [10])
    cut(path, 7, at=5e9)
    (batch,) = drained(Feed(path, Place(5e9 + 1, {name: 3}), 100))
    assert (batch.first, batch.missed) == (4, 3)


def test_a_cut_while_the_journal_is_read_leaves_a_gap_that_is_sealed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind one cut records are read, and then there is another: the notice is of what was."""
    chain(path, [10])
    cut(path, 2)
    links = Reader.links
    left = [3]

    def cut_behind_their_back(
        reader: Reader, writer: int, start: int, limit: int = 1000
    ) -> list[Link]:
        found = links(reader, writer, start, limit)
        while left:
            cut(path, left.pop())
        return found

    monkeypatch.setattr(Reader, "links", cut_behind_their_back)
    (batch,) = drained(Feed(path, NEW, 100))
    assert verify(Received(batch.lines), SIGNING_KEY.encode()).is_well


def test_what_is_written_while_nothing_is_found_comes_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain that begins when the journal was just looked through is not overlooked."""
    chain(path)
    feed = Feed(path, NEW, 100)
    drained(feed)
    chain(path)
    writers = Reader.writers
    late: list[str] = []

    def write_behind_their_back(reader: Reader) -> list[int]:
        found = writers(reader)
        late.append(chain(path))
        return found

    first = feed.next()
    assert first is not None
    feed.delivered(first)
    with monkeypatch.context() as patched:
        patched.setattr(Reader, "writers", write_behind_their_back)
        assert feed.next() is None
    (batch,) = drained(feed)
    assert [batch.writer] == late


def test_a_notice_has_no_cut_of_another_gap(path: Path) -> None:
    """What somebody removed further on is not explained by what was let go of before."""
    name = chain(path, [10])
    cut(path, 4)
    with by_hand(path) as hand:
        hand.execute("DELETE FROM records WHERE seq IN (7, 8)")
    (batch,) = drained(Feed(path, Place(0.0, {name: 6}), 100))
    notice = json.loads(batch.lines[0])
    assert (notice["kind"], notice["seq"], notice["until"]) == ("gap", 7, 8)
    assert "hash" not in notice


def test_records_that_somebody_removed_are_missing_at_the_receiver(path: Path) -> None:
    """No cut explains them: the notice can't heal the chain."""
    name = chain(path, [10])
    with by_hand(path) as hand:
        hand.execute("DELETE FROM records WHERE seq < 4")
    (batch,) = drained(Feed(path, NEW, 100))
    report = verify(Received(batch.lines), SIGNING_KEY.encode())
    assert [(fault.seq, fault.what) for fault in report.faults] == [
        (0, "missing, as all up to 3"),
    ]
    assert name == batch.writer


@pytest.mark.parametrize(
    "edited",
    ["1000, zeroblob(32), 1.0, 1.0, 0, NULL", "1, 'text', 'text', 'text', 'text', 'text'"],
)
def test_a_cut_that_somebody_edited_holds_nothing_up(path: Path, edited: str) -> None:
    """The cuts are not sealed for the feed: whatever is there, all records come."""
    name = chain(path, [10])
    with by_hand(path) as hand:
        hand.execute(f"INSERT INTO cuts VALUES (?, {edited})", (int(name, 16),))
    assert numbers(drained(Feed(path, Place(2.0, {}), 5)), name) == list(range(12))
    assert numbers(drained(Feed(path, Place(2.0, {name: 3}), 5)), name) == list(range(4, 12))


def test_a_closed_chain_is_told_as_ended(path: Path) -> None:
    """The last batch of a chain that was closed has its closing record."""
    chain(path, [10])
    ends = [batch.ends for batch in drained(Feed(path, NEW, 5))]
    assert ends == [False, False, True]
    chain(path, [1], closed=False)
    assert [batch.ends for batch in drained(Feed(path, NEW, 100))].count(True) == 1
