"""What is let go of, and that a chain can be verified all the same."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from flowcache.audit.database import connect
from flowcache.audit.reading import Query, Reader
from flowcache.audit.retention import Retention
from flowcache.audit.settings import AuditSettings
from flowcache.audit.writing import ChainWriter
from tests.unit.audit.journals import SIGNING_KEY, chain, checked, record, settings

DAY = 86_400.0
BEGAN = 1_700_000_000.0


class Keeper:
    """A chain writer with a clock that is set by hand."""

    def __init__(self, kept: AuditSettings) -> None:
        self.now = BEGAN
        self.writer = ChainWriter(kept, lambda: self.now)
        self.writer.open()

    def write(self, count: int) -> None:
        self.writer.append([record(i, at=self.now) for i in range(count)])

    def retain(self) -> None:
        while self.writer.retain():
            pass


def seqs(path: Path) -> list[int]:
    with Reader(path) as reader:
        return sorted(entry.seq for entry in reader.records(Query()))


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    """Records older than ``keep_days`` are gone, younger ones are there, and the chain is whole."""
    path = tmp_path / "audit.db"
    keeper = Keeper(settings(path, keep_days=2))
    keeper.write(3)
    keeper.now += DAY
    keeper.write(3)
    keeper.retain()
    assert seqs(path) == list(range(7))
    keeper.now += 1.5 * DAY
    keeper.retain()
    assert seqs(path) == [4, 5, 6]
    assert checked(path).is_well
    keeper.writer.close()
    assert checked(path).is_well


def test_the_last_record_of_a_chain_stays(tmp_path: Path) -> None:
    """However old: it shows that the chain was there, and what later witnesses saw."""
    path = tmp_path / "audit.db"
    chain(path)
    keeper = Keeper(settings(path, keep_days=1))
    keeper.now += 1000 * DAY
    keeper.retain()
    with Reader(path) as reader:
        assert [entry.kind for entry in reader.records(Query())] == ["open", "close"]
    keeper.writer.close()
    report = checked(path)
    assert report.is_well
    assert report.chains == 2


def test_the_oldest_go_when_there_is_too_much(tmp_path: Path) -> None:
    """The file's content stays below ``max_mb``; what remains are the newest records."""
    path = tmp_path / "audit.db"
    keeper = Keeper(settings(path, max_mb=1))
    for _ in range(10):
        keeper.now += 1
        keeper.write(1000)
    keeper.retain()
    left = seqs(path)
    assert left == list(range(left[0], 10_001))
    assert 2000 < len(left) < 9000
    assert checked(path).is_well


def test_it_takes_small_steps(tmp_path: Path) -> None:
    """No step removes more than it may, so that nobody waits long for the turn; all verify."""
    path = tmp_path / "audit.db"
    chain(path, [10], sealed=True)
    retention = Retention(1, 1000, SIGNING_KEY.encode(), step=3)
    left = [12]
    with closing(connect(path)) as connection:
        while retention.step(connection, BEGAN + 1e9):
            left.append(len(seqs(path)))
            assert checked(path).is_well
    assert left == [12, 9, 6, 3, 1]


def test_an_old_record_behind_a_young_one_waits(tmp_path: Path) -> None:
    """A clock that was set back makes no hole in a chain."""
    path = tmp_path / "audit.db"
    keeper = Keeper(settings(path, keep_days=1))
    keeper.write(1)
    keeper.now -= 3 * DAY
    keeper.write(1)
    keeper.now += 3.5 * DAY
    keeper.retain()
    assert seqs(path) == [0, 1, 2]
    assert checked(path).is_well


@pytest.mark.parametrize("sealed", [True, False])
def test_a_chain_that_was_cut_goes_on(tmp_path: Path, sealed: bool) -> None:
    """Cut, written, cut again, closed: whole at each moment, with a key and without."""
    path = tmp_path / "audit.db"
    keeper = Keeper(settings(path, sealed=sealed, keep_days=1))
    for _ in range(5):
        keeper.write(3)
        keeper.now += 0.7 * DAY
        keeper.retain()
        assert checked(path, sealed=sealed).is_well
    keeper.writer.close()
    report = checked(path, sealed=sealed)
    assert report.is_well
    assert report.records < 10
