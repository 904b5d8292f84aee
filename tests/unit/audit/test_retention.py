"""What is let go of, and that a chain can be verified all the same."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from flowcache.audit.chain import UNAUTHENTICATED, Kind, digest
from flowcache.audit.database import JournalFault
from flowcache.audit.reading import Query, Reader
from flowcache.audit.retention import Pruned, SteadyTime
from flowcache.audit.settings import AuditSettings
from flowcache.audit.writing import ChainWriter
from tests.unit.audit.journals import by_hand, chain, checked, pruned, record, settings

DAY = 86_400.0
BEGAN = 1_700_000_000.0


class Keeper:
    """A chain writer with a clock that is set by hand."""

    def __init__(self, kept: AuditSettings, began: float = BEGAN) -> None:
        self.now = began
        self.writer = ChainWriter(kept, lambda: self.now)
        self.writer.open()

    def write(self, count: int, client: str | None = "somebody") -> None:
        self.writer.append([record(i, at=self.now, client=client) for i in range(count)])

    def retain(self) -> list[Pruned]:
        steps: list[Pruned] = []
        while (gone := self.writer.retain(self.now)) is not None:
            steps.append(gone)
            if not gone.is_full:
                break
        return steps


def calls(path: Path) -> list[int]:
    """Return the numbers of the records that are about calls."""
    with Reader(path) as reader:
        return sorted(e.seq for e in reader.records(Query()) if e.kind == Kind.CALL)


def of(path: Path, client: str | None) -> int:
    """Return how many records there are of a client."""
    with Reader(path) as reader:
        return sum(e.client == client and e.kind == Kind.CALL for e in reader.records(Query()))


def held(path: Path) -> int:
    """Return the bytes of all chains, as they tell themselves."""
    with Reader(path) as reader:
        chains = [reader.links(writer, 0, 10_000) for writer in reader.writers()]
    return sum(links[-1].entry.offset - links[0].entry.offset for links in chains)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


# -- by age ----------------------------------------------------------------------------------------


def test_what_is_too_old_goes(path: Path) -> None:
    """Records older than ``keep_days`` are gone, younger ones are there, and the chain is whole."""
    keeper = Keeper(settings(path, keep_days=2))
    keeper.write(3)
    keeper.now += DAY
    keeper.write(3)
    assert keeper.retain() == []
    assert calls(path) == list(range(1, 7))
    keeper.now += 1.5 * DAY
    (gone,) = keeper.retain()
    assert (gone.records, gone.early, gone.why) == (4, 0, "age")
    assert calls(path) == [4, 5, 6]
    assert checked(path).is_well
    keeper.writer.close()
    assert checked(path).is_well


def test_the_last_record_of_a_chain_stays(path: Path) -> None:
    """However old: it shows that the chain was there, and what later witnesses saw."""
    chain(path)
    keeper = Keeper(settings(path, keep_days=1))
    keeper.now += 1000 * DAY
    keeper.retain()
    with Reader(path) as reader:
        kinds = [entry.kind for entry in reader.records(Query())]
    assert kinds == ["open", "close", "cut"]
    keeper.writer.close()
    report = checked(path)
    assert report.is_well
    assert report.chains == 2


def test_it_takes_small_steps(path: Path) -> None:
    """No step removes more than it may, so that nobody waits long for the turn; all verify."""
    chain(path, [10])
    gone = []
    while removed := pruned(path, BEGAN + 1e9, step=3):
        gone.append(removed)
        assert checked(path).is_well
    assert gone == [3, 3, 3, 2]


def test_a_step_is_as_small_over_several_chains(path: Path) -> None:
    """What one chain leaves of a step is what the next one may have of it."""
    for _ in range(2):
        chain(path, [10])
    gone = []
    while removed := pruned(path, BEGAN + 1e9, step=15):
        gone.append(removed)
        assert checked(path).is_well
    assert gone == [15, 7]


def test_an_old_record_behind_a_young_one_waits(path: Path) -> None:
    """A clock that was set back makes no hole in a chain."""
    keeper = Keeper(settings(path, keep_days=1))
    keeper.write(1)
    keeper.now -= 3 * DAY
    keeper.write(1)
    keeper.now += 3.5 * DAY
    assert keeper.retain() == []
    assert calls(path) == [1, 2]
    assert checked(path).is_well


def test_a_young_record_between_old_ones_ends_a_step(path: Path) -> None:
    """What is behind it waits for it: a step never goes over a record that is to be kept."""
    keeper = Keeper(settings(path, keep_days=1), BEGAN - 3 * DAY)
    for at in (BEGAN, BEGAN - 3 * DAY, BEGAN):
        keeper.now = at
        keeper.write(1)
    (gone,) = keeper.retain()
    assert (gone.records, gone.early) == (1, 0)
    assert calls(path) == [1, 2, 3]


@pytest.mark.parametrize("sealed", [True, False])
def test_a_chain_that_was_cut_goes_on(path: Path, sealed: bool) -> None:
    """Cut, written, cut again, closed: whole at each moment, with a key and without."""
    keeper = Keeper(settings(path, sealed=sealed, keep_days=1))
    for _ in range(5):
        keeper.write(3)
        keeper.now += 0.7 * DAY
        keeper.retain()
        assert checked(path, sealed=sealed).is_well
    keeper.writer.close()
    report = checked(path, sealed=sealed)
    assert report.is_well
    assert report.records < 15


def test_what_is_just_as_old_as_it_may_be_stays(path: Path) -> None:
    """A record is kept for all of ``keep_days``, and not less by an instant."""
    keeper = Keeper(settings(path, keep_days=2))
    keeper.now += 1
    keeper.write(2)
    keeper.now += 2 * DAY
    keeper.retain()
    assert calls(path) == [1, 2]


def test_the_newest_that_is_gone_is_not_the_last(path: Path) -> None:
    """A clock that was set back, in one step or between two: what is told is the latest time."""
    writer = ChainWriter(settings(path), lambda: BEGAN)
    writer.append([record(at=BEGAN + later) for later in (9, 5, 3, 2, 1)])
    writer.close()
    for taken in (3, 2):  # the opening record is the first
        assert pruned(path, BEGAN + 9 * DAY, step=taken) == taken
        assert checked(path).gone.newest == BEGAN + 9


def test_a_clock_that_was_set_ahead_ages_nothing() -> None:
    """What is too old is told by how time went on, not by what a clock was set to."""
    wall, steady = [BEGAN], [50.0]
    time = SteadyTime(lambda: wall[0], lambda: steady[0], None)
    wall[0] += 400 * DAY
    steady[0] += 60
    assert time() == BEGAN + 60
    wall[0] = BEGAN + 30  # set back, it counts
    assert time() == BEGAN + 30


def test_a_clock_that_is_ahead_at_the_start_ages_nothing() -> None:
    """The newest record says how late it was, at least."""
    time = SteadyTime(lambda: BEGAN + 400 * DAY, lambda: 0.0, BEGAN)
    assert time() == BEGAN
    assert SteadyTime(lambda: BEGAN, lambda: 0.0, BEGAN + 5)() == BEGAN


# -- by size ---------------------------------------------------------------------------------------


def test_the_oldest_go_when_there_is_too_much(path: Path) -> None:
    """The file's content stays below ``max_mb``; what remains are the newest records."""
    keeper = Keeper(settings(path, max_mb=1))
    for _ in range(10):
        keeper.now += 1
        keeper.write(1000)
    steps = keeper.retain()
    assert {gone.why for gone in steps} == {"size"}
    assert all(gone.early == gone.records for gone in steps)
    left = calls(path)
    assert left == list(range(left[0], 10_001))
    assert 2000 < len(left) < 9000
    assert checked(path).is_well


def test_clients_have_the_room_that_is_not_strangers(path: Path) -> None:
    """Nine parts of ten, so that both together are not more than was said."""
    keeper = Keeper(settings(path, max_mb=1))
    for _ in range(5):
        keeper.now += 1
        keeper.write(1000)
    keeper.retain()
    with Reader(path) as reader:
        first, *_, last = reader.links(reader.writers()[0], 0, 10_000)
    assert 0.85 < (last.entry.offset - first.entry.offset) / 2**20 < 0.91


def test_what_is_kept_takes_as_much_of_the_disk_as_was_said(path: Path) -> None:
    """Bytes are reckoned, not measured: the file agrees within a quarter."""
    keeper = Keeper(settings(path, max_mb=4))
    for _ in range(40):
        keeper.now += 1
        keeper.write(1000)
    keeper.retain()
    keeper.writer.close()
    with by_hand(path) as hand:
        hand.execute("VACUUM")
    assert 0.75 < path.stat().st_size / (0.9 * 4 * 2**20) < 1.25


def test_no_more_goes_than_is_too_much(path: Path) -> None:
    """What one chain gave, the next one need not."""
    for _ in range(40):
        chain(path, [20])
    keeper = Keeper(settings(path, max_mb=1), BEGAN + DAY)
    while held(path) < 960_000:
        keeper.write(100)
    keeper.retain()
    assert 0.89 < held(path) / 2**20 < 0.91


def test_what_goes_early_is_counted_over_all_chains(path: Path) -> None:
    """One step takes from several chains, and says of how many records it was too soon."""
    for _ in range(3):
        chain(path, [100])
    keeper = Keeper(settings(path, keep_days=1000, max_mb=1), BEGAN + DAY)
    for _ in range(5):
        keeper.write(1000)
    gone, *_ = keeper.retain()
    assert len(gone.cuts) > 2
    assert gone.early == gone.records == sum(cut.seq for cut in gone.cuts)
    report = checked(path).gone
    assert report.early == report.records


@pytest.mark.parametrize("sealed", [True, False])
def test_strangers_wash_out_no_record_of_a_client(path: Path, sealed: bool) -> None:
    """However often strangers knock, theirs go first; clients' are all there."""
    keeper = Keeper(settings(path, sealed=sealed, max_mb=1))
    keeper.write(500)
    for _ in range(10):
        keeper.now += 1
        keeper.write(1000, client=None)
        keeper.retain()
    assert of(path, "somebody") == 500
    assert 100 < of(path, None) < 1000
    keeper.writer.close()
    report = checked(path, sealed=sealed)
    assert report.is_well
    assert report.chains == 2


def test_clients_wash_out_no_record_of_strangers(path: Path) -> None:
    """Attempts to break in don't vanish under the load of the day."""
    keeper = Keeper(settings(path, max_mb=1))
    keeper.write(50, client=None)
    for _ in range(10):
        keeper.now += 1
        keeper.write(1000)
        keeper.retain()
    assert of(path, None) == 50


def test_many_short_lives_are_cut_at_once(path: Path) -> None:
    """A step takes from many chains, and comes to an end though it leaves a record itself."""
    for _ in range(120):
        chain(path, [1])
    keeper = Keeper(settings(path, keep_days=1))
    keeper.now += 10 * DAY
    steps = keeper.retain()
    assert [len(gone.cuts) for gone in steps] == [100, 21]  # its own opening record, too
    assert calls(path) == []
    assert checked(path).is_well


# -- and somebody who would use it -----------------------------------------------------------------


def test_a_record_that_was_made_old_is_not_let_go_of(path: Path) -> None:
    """Retention would put its own seal over it: it verifies first, and raises the alarm."""
    keeper = Keeper(settings(path))
    keeper.write(20)
    with by_hand(path) as hand:
        hand.execute("UPDATE records SET at = 0.0 WHERE seq BETWEEN 0 AND 10")
    assert keeper.retain() == []
    assert keeper.writer.tampering is not None
    assert "record 0: not what was written here" in keeper.writer.tampering
    assert calls(path) == list(range(1, 21))
    assert not checked(path).is_well


def test_a_forged_front_is_not_let_go_of(path: Path) -> None:
    """A hash for each changed record does not help: a seal behind them does not fit."""
    keeper = Keeper(settings(path))
    keeper.write(20)
    before = bytes(32)
    with by_hand(path) as hand, Reader(path) as reader:
        for link in reader.links(reader.writers()[0], 0):
            entry = msgspec.structs.replace(link.entry, at=0.0)
            before = digest(before, entry)
            hand.execute("UPDATE records SET at = 0.0, hash = ? WHERE seq = ?", (before, entry.seq))
    assert keeper.retain() == []
    assert "signature" in str(keeper.writer.tampering)
    assert calls(path) == list(range(1, 21))


def test_what_else_is_in_the_file_counts_for_nothing(path: Path) -> None:
    """Junk makes the file large, and makes no record leave."""
    keeper = Keeper(settings(path, max_mb=1))
    keeper.write(50)
    with by_hand(path) as hand:
        hand.execute("CREATE TABLE junk (x)")
        hand.execute("INSERT INTO junk VALUES (zeroblob(3000000))")
    assert keeper.retain() == []
    assert len(calls(path)) == 50


def test_a_chain_that_says_it_is_long_is_not_believed(path: Path) -> None:
    """How much a chain holds is in the hash of its last record, and that is sealed."""
    keeper = Keeper(settings(path, max_mb=1))
    keeper.write(50)
    with by_hand(path) as hand:
        hand.execute("UPDATE records SET offset = 9000000 WHERE seq = 50")
    assert keeper.retain() == []
    assert "record 50: not what was written here" in str(keeper.writer.tampering)
    assert len(calls(path)) == 50


def test_a_chain_that_says_it_is_long_drives_out_no_other(path: Path) -> None:
    """Nor is it believed to the cost of older chains, that nobody touched."""
    chain(path, [20])
    keeper = Keeper(settings(path, max_mb=1))
    keeper.now += 1000
    keeper.write(50)
    with by_hand(path) as hand:  # so little too much that the older chain would make up for it
        hand.execute("UPDATE records SET offset = 943000 WHERE seq = 50")
    assert keeper.retain() == []
    assert "record 50: not what was written here" in str(keeper.writer.tampering)
    assert len(calls(path)) == 70
    assert not checked(path).gone.records


def test_what_lost_its_seals_is_not_let_go_of(path: Path) -> None:
    """With a key, what no seal vouches for may be anybody's: a cut would vouch for it."""
    keeper = Keeper(settings(path, keep_days=1))
    keeper.write(20)
    with by_hand(path) as hand:
        hand.execute("UPDATE records SET seal = NULL")
    keeper.now += 9 * DAY
    assert keeper.retain() == []
    assert "record 20: the last record has no signature" in str(keeper.writer.tampering)
    assert len(calls(path)) == 20


@pytest.mark.parametrize("column", ["at", "offset"])
@pytest.mark.parametrize("seq", [0, 3, 50])
def test_a_field_of_another_type_is_an_alarm(path: Path, column: str, seq: int) -> None:
    """SQLite keeps a text where a number was; reckoning with it is no way to stop retention."""
    keeper = Keeper(settings(path, keep_days=1))
    keeper.write(50)
    with by_hand(path) as hand:
        hand.execute(f"UPDATE records SET {column} = 'long ago' WHERE seq = ?", (seq,))
    keeper.now += 9 * DAY
    assert keeper.retain() == []
    assert f"record {seq}: no writer writes such a record" in str(keeper.writer.tampering)


def test_who_cut_what_is_on_record(path: Path) -> None:
    """A record says whose front went, up to where and why; the verifier says how much it was."""
    keeper = Keeper(settings(path, max_mb=1))
    for _ in range(6):
        keeper.now += 1
        keeper.write(1000)
    steps = keeper.retain()
    with Reader(path) as reader:
        (told, *_) = [e for e in reader.records(Query()) if e.kind == Kind.CUT]
    assert told.detail is not None
    said = msgspec.json.decode(told.detail)
    assert (said["why"], said["records"], said["early"]) == ("size", 1000, 1000)
    assert said["chains"] == {keeper.writer.name: [1000, steps[0].cuts[0].hash.hex()]}
    gone = checked(path).gone
    removed = sum(each.records for each in steps)
    assert (gone.records, gone.early, gone.chains, gone.untold) == (removed, removed, 1, 0)
    assert BEGAN + 1 < gone.newest < keeper.now


def test_what_was_not_let_go_of_is_not_on_record(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of a step and the step are one transaction: both are there, or neither is."""

    def failing(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    keeper = Keeper(settings(path, keep_days=1))
    keeper.write(5)
    keeper.now += 9 * DAY
    with monkeypatch.context() as broken:
        broken.setattr(Pruned, "apply", failing)
        with pytest.raises(JournalFault, match="disk I/O error"):
            keeper.retain()
    with Reader(path) as reader:
        assert [e.kind for e in reader.records(Query())] == [Kind.OPEN, *[Kind.CALL] * 5]
    (gone,) = keeper.retain()
    assert gone.records == 5
    assert checked(path).is_well


def test_a_cut_that_nobody_tells_of_is_counted(path: Path) -> None:
    """Without a key a cut may be anybody's; the verifier says how many no record tells of."""
    chain(path, [10], sealed=False)
    with by_hand(path) as hand:
        writer, hash_ = hand.execute("SELECT writer, hash FROM records WHERE seq = 5").fetchone()
        hand.execute("DELETE FROM records WHERE seq <= 5")
        hand.execute("INSERT INTO cuts VALUES (?, 6, ?, 1.0, 1.0, 0, NULL)", (writer, hash_))
    report = checked(path, sealed=False)
    assert report.is_well
    assert (report.gone.records, report.gone.untold) == (6, 1)


def test_a_cut_behind_one_that_was_told_is_another(path: Path) -> None:
    """That retention went over a chain before explains nothing that is gone since."""
    keeper = Keeper(settings(path, sealed=False, keep_days=1))
    keeper.write(5)
    keeper.now += 9 * DAY
    keeper.write(5)
    (gone,) = keeper.retain()
    assert (gone.records, checked(path, sealed=False).gone.untold) == (6, 0)
    keeper.writer.close()
    with by_hand(path) as hand:
        writer, hash_ = hand.execute("SELECT writer, hash FROM records WHERE seq = 7").fetchone()
        hand.execute("DELETE FROM records WHERE seq <= 7")
        hand.execute("REPLACE INTO cuts VALUES (?, 8, ?, 1.0, 1.0, 0, NULL)", (writer, hash_))
    report = checked(path, sealed=False)
    assert (report.gone.records, report.gone.untold) == (8, 1)


def test_strangers_have_chains_of_their_own(path: Path) -> None:
    """Whose a chain is, its number says, and that is in every hash."""
    keeper = Keeper(settings(path))
    keeper.write(2)
    keeper.write(3, client=None)
    keeper.writer.close()
    with Reader(path) as reader:
        by_chain = {
            bool(writer & UNAUTHENTICATED): {link.entry.client for link in reader.links(writer, 1)}
            for writer in reader.writers()
        }
    assert by_chain == {False: {"somebody", None}, True: {None}}
    assert checked(path).unfinished == []
