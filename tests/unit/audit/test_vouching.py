"""Whether the journal is what was written, as a worker that looks sees it: look by look."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic, time

import pytest

from flowcache.audit.chain import Head
from flowcache.audit.vouching import Voucher
from flowcache.audit.writing import ChainWriter
from tests.unit.audit.journals import by_hand, record, settings

PAGE = 4096


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A writer with some thousand records in the journal, and a voucher that looks at it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.writer = ChainWriter(settings(path), time)
        self.write(2000)
        self.checkpoint()
        self.voucher = Voucher(path, self.writer.promised, self.clock)

    def write(self, count: int) -> None:
        self.writer.append([record(number % 250) for number in range(count)])

    def checkpoint(self) -> None:
        with closing(sqlite3.connect(self.path)) as other:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def look(self) -> str | None:
        """Look as often as it takes for a pass to end, or to be tried again."""
        for _ in range(3):
            self.clock.now += 6.0
            self.voucher.look()
        return self.voucher.fault


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with open_journal(tmp_path / "audit.db") as made:
        assert made.look() is None
        yield made


@contextmanager
def open_journal(path: Path) -> Iterator[Watched]:
    made = Watched(path)
    try:
        yield made
    finally:
        made.writer.abandon()
        made.voucher.release()


def test_a_journal_that_is_written_is_sound(watched: Watched) -> None:
    """Commits, checkpoints and a -wal that is begun anew are no damage."""
    for _ in range(5):
        watched.write(700)
        assert watched.look() is None
        watched.checkpoint()
        assert watched.look() is None


def test_a_page_as_it_was_before_is_damage(watched: Watched) -> None:
    """A disk that lost a write shows a sound page: records of this worker are missing there."""
    before = watched.path.read_bytes()
    watched.write(2000)
    watched.checkpoint()
    watched.write(1)  # what was checkpointed is not read from the -wal any more
    assert watched.look() is None
    after = watched.path.read_bytes()
    changed = [
        at
        for at in range(PAGE, len(before), PAGE)
        if before[at : at + PAGE] != after[at : at + PAGE]
    ]
    assert changed
    with watched.path.open("r+b") as file:
        for at in changed:
            file.seek(at)
            file.write(before[at : at + PAGE])
    assert watched.look() is not None


def test_a_file_that_was_only_touched_is_sound_after_a_whole_look(watched: Watched) -> None:
    """Another program wrote: nothing is vouched for until all of the file has been read."""
    os.utime(watched.path)
    watched.voucher.look()
    assert "another program wrote to the file" in str(watched.voucher.fault)
    assert watched.look() is None


def test_a_record_that_was_changed_stays_a_fault(watched: Watched) -> None:
    """By whatever hand: what this worker wrote is compared with its hash, again and again."""
    with by_hand(watched.path) as hand:
        hand.execute("UPDATE records SET client = 'nobody' WHERE seq = 5")
    for _ in range(10):
        watched.look()
    assert "record 5 of writer" in str(watched.voucher.fault)
    assert watched.look() is not None


def test_records_that_were_removed_are_missed(watched: Watched) -> None:
    """A gap in the numbers of this worker is no retention: that leaves a cut."""
    with by_hand(watched.path) as hand:
        hand.execute("DELETE FROM records WHERE seq BETWEEN 1000 AND 1010")
    for _ in range(3):
        watched.look()
    assert watched.voucher.fault is not None


def test_a_newest_record_that_is_gone_is_missed_at_once(watched: Watched) -> None:
    """What was promised last is looked for in each look."""
    with by_hand(watched.path) as hand:
        hand.execute("DELETE FROM records WHERE seq = (SELECT max(seq) FROM records)")
    watched.clock.now += 1.0
    watched.voucher.look()
    assert "is not there" in str(watched.voucher.fault)


def test_a_file_that_can_not_be_opened_for_a_moment_is_no_fault(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many open files may pass; what lasts for two seconds, as missing rights, is told."""

    def refuse(path: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    with monkeypatch.context() as refusing:
        refusing.setattr("flowcache.audit.database.connect_read_only", refuse)
        watched.voucher.look()
        watched.clock.now += 1.9
        watched.voucher.look()
        assert watched.voucher.fault is None
        watched.clock.now += 0.2
        watched.voucher.look()
        assert "unable to open" in str(watched.voucher.fault)
    assert watched.look() is None


def test_retention_is_no_damage(tmp_path: Path) -> None:
    """Records that left in good order from the front are missed by nobody."""
    writer = ChainWriter(settings(tmp_path / "audit.db", keep_days=1), time)
    voucher = Voucher(tmp_path / "audit.db", writer.promised, clock := Clock())
    writer.append([record(number, at=time() - 10 * 86_400) for number in range(200)])
    for _ in range(3):
        clock.now += 6.0
        voucher.look()
        assert voucher.fault is None
        writer.retain(time() + 2 * 86_400)
    clock.now += 6.0
    voucher.look()
    assert voucher.fault is None
    writer.abandon()
    voucher.release()


def test_a_journal_whose_shm_cannot_be_opened_is_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again at each look, without another descriptor for the journal itself."""
    real, opened = os.open, []

    def without_shm(name: str, *arguments: int) -> int:
        if name.endswith("-shm"):
            raise PermissionError(name)
        opened.append(name)
        return real(name, *arguments)

    with open_journal(tmp_path / "audit.db") as made:
        with monkeypatch.context() as denied:
            denied.setattr("flowcache.audit.vouching.os.open", without_shm)
            for _ in range(5):
                made.look()
            assert opened == [str(made.path)]
        assert made.look() is None
        assert len(made.voucher._open_files) == 2


def test_a_look_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    """Who ends waits as long as it may, and learns that the look has not ended."""
    asked, goes_on = threading.Event(), threading.Event()

    def hangs() -> dict[int, Head]:
        asked.set()
        goes_on.wait()
        return {}

    voucher = Voucher(tmp_path / "audit.db", hangs, monotonic)
    voucher.start()
    assert asked.wait(20)
    voucher.stop()
    assert not voucher.join(0.01)
    goes_on.set()
    assert voucher.join(20)
