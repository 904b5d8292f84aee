"""A worker's chain in the file: what it promises when things break, and beside other writers."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from threading import Barrier, Thread
from time import time

import pytest

from flowcache.audit.chain import Kind
from flowcache.audit.database import JournalFault, Turns, connect
from flowcache.audit.reading import Query, Reader
from flowcache.audit.witness import look
from flowcache.audit.writing import ChainWriter, Note
from flowcache.secret import Secret
from tests.unit.audit.journals import by_hand, chain, checked, record, settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


def ids(path: Path) -> list[str | None]:
    with Reader(path) as reader:
        return [e.request_id for e in reader.records(Query()) if e.kind == "call"]


def test_only_its_user_can_read_it(path: Path) -> None:
    """Who called for which key is nobody else's business."""
    chain(path, closed=False)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_records_are_kept_in_the_order_they_came(path: Path) -> None:
    """Across commits and chains, what was written is what is read."""
    chain(path, [3, 1, 2])
    assert ids(path) == [f"id-{number}" for number in range(6)]


def test_what_a_call_did_not_have_is_not_made_up(path: Path) -> None:
    """A refusal has no key and no hit: that is another thing than an empty key, and a miss."""
    writer = ChainWriter(settings(path), time)
    writer.append([record(1, key=None, hit=None), record(2, key=b"", hit=False)])
    writer.close()
    with Reader(path) as reader:
        calls = {entry.request_id: entry for entry in reader.records(Query())}
    without, empty = calls["id-1"], calls["id-2"]
    assert (without.key, without.hit) == (None, None)
    assert (empty.key is not None, empty.hit) == (True, 0)


def test_a_commit_that_failed_is_all_or_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a fault the same batch is handed in again, and is in the chain once."""
    writer = ChainWriter(settings(path), time)
    writer.append([record(1)])
    batch = [record(2), record(3)]
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr("flowcache.audit.database._BUSY_SECONDS", 0.01)
        writer.abandon()  # so that the impatience counts
        with pytest.raises(JournalFault, match="locked"):
            writer.append(batch)
        other.execute("ROLLBACK")
    writer.append(batch)
    writer.close()
    assert ids(path) == ["id-1", "id-2", "id-3"]
    assert checked(path).is_well


def test_a_commit_whose_answer_was_lost_is_not_repeated(path: Path) -> None:
    """When the disk had the batch after all, handing it in again adds nothing."""
    writer = ChainWriter(settings(path), time)
    writer.append([record(1)])
    mine = writer._own
    before = mine.head
    batch = [record(2), record(3)]
    writer.append(batch)
    mine.uncertain, mine.head = mine.head, before  # as after a COMMIT that raised
    writer._tried = batch
    writer.abandon()
    writer.append(batch)
    writer.append([record(4)])
    writer.close()
    assert ids(path) == ["id-1", "id-2", "id-3", "id-4"]
    assert checked(path).is_well


def test_another_batch_than_the_one_that_was_lost_is_written(path: Path) -> None:
    """Only the very same batch is taken for what is on disk already."""
    writer = ChainWriter(settings(path), time)
    writer.append([record(1)])
    mine = writer._own
    before = mine.head
    batch = [record(2)]
    writer.append(batch)
    mine.uncertain, mine.head = mine.head, before  # as after a COMMIT that raised
    writer._tried = batch
    writer.abandon()
    writer.append([record(3)])
    writer.close()
    assert ids(path) == ["id-1", "id-2", "id-3"]
    assert checked(path).is_well


def test_a_writer_whose_file_was_replaced_begins_a_new_chain(path: Path) -> None:
    """Where its own chain is not, a writer does not pretend to go on with it."""
    writer = ChainWriter(settings(path), time)
    writer.append([record(1)])
    first = writer.name
    writer.abandon()
    path.rename(path.with_name("aside"))
    writer.append([record(2)])
    writer.close()
    assert writer.name != first
    assert writer.tampering is None
    assert ids(path) == ["id-2"]
    assert checked(path).is_well


def test_a_writer_whose_file_went_back_in_time_bears_witness(path: Path) -> None:
    """Where an older state of the file was put back, it says what it had written."""
    writer = ChainWriter(settings(path), time)
    writer.append([record(1)])
    first = writer.name
    writer.abandon()
    older = path.read_bytes()
    writer.append([record(2)])
    writer.abandon()
    path.write_bytes(older)
    writer.append([record(3)])
    writer.close()
    assert writer.name != first
    assert ids(path) == ["id-1", "id-3"]
    assert f"writer {first}, record 2" in str(writer.tampering)
    assert [fault.what for fault in checked(path).faults] == [
        f"missing, though writer {writer.name} saw it"
    ]


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("client", ["somebody", None])
def test_a_tail_that_was_cut_off_a_living_chain_is_witnessed(
    path: Path, client: str | None, sealed: bool
) -> None:
    """The writer knows what it had written; after a fault it says so in its new chain."""
    writer = ChainWriter(settings(path, sealed=sealed), time)
    for number in range(5):
        writer.append([record(number, client=client)])
    writer.abandon()
    with by_hand(path) as hand:
        hand.execute("DELETE FROM records WHERE seq > 2")
    writer.append([record(9)])
    writer.close()
    assert "is not there any more" in str(writer.tampering)
    (fault,) = checked(path, sealed=sealed).faults
    assert fault.what.startswith("missing, though writer")


def test_what_is_missing_is_not_forgotten_while_nothing_can_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever cuts off a tail and keeps the file busy gains nothing by it."""
    monkeypatch.setattr("flowcache.audit.database._BUSY_SECONDS", 0.01)
    writer = ChainWriter(settings(path), time)
    for number in range(5):
        writer.append([record(number)])
    writer.abandon()
    with by_hand(path) as hand:
        hand.execute("DELETE FROM records WHERE seq > 2")
        hand.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            with pytest.raises(JournalFault, match="locked"):
                writer.append([record(9)])
        hand.execute("ROLLBACK")
    writer.append([record(9)])
    writer.close()
    (fault,) = checked(path).faults
    assert (fault.seq, fault.what) == (5, f"missing, though writer {writer.name} saw it")


def test_a_journal_of_another_key_is_not_gone_on_with(path: Path) -> None:
    """Each of its chains would be a fault, now or then: the writer says what to do instead."""
    chain(path)
    for other in (settings(path, signing_key=Secret("another key")), settings(path, sealed=False)):
        with pytest.raises(JournalFault, match="signing_key"):
            ChainWriter(other, time).open()
    path.unlink()
    chain(path, sealed=False)
    with pytest.raises(JournalFault, match="signing_key"):
        ChainWriter(settings(path), time).open()


def test_one_chain_that_is_wrong_is_not_another_key(path: Path) -> None:
    """What was tampered with is for the verifier to tell; nobody is kept from writing by it."""
    chain(path)
    chain(path)
    with by_hand(path) as hand:
        hand.execute(
            "UPDATE records SET seal = zeroblob(32) "
            "WHERE writer = (SELECT min(writer) FROM records)"
        )
    writer = ChainWriter(settings(path), time)
    writer.append([record(1)])
    writer.close()


def test_a_witness_is_bounded(path: Path) -> None:
    """However many lives there were, what each leaves for good is some kilobytes."""
    for _ in range(60):
        chain(path, [1])
    with Reader(path) as reader:
        sizes = [len(str(e.detail)) for e in reader.records(Query()) if e.kind == "close"]
    assert max(sizes) < 3000


def test_a_witness_names_those_that_were_written_to_last(path: Path) -> None:
    """Of many lives the old ones have witnesses already. What has no time is somebody's doing."""
    names = []
    for life in range(40):
        writer = ChainWriter(settings(path), lambda life=life: float(life))  # type: ignore[misc]
        writer.open()
        writer.abandon()
        names.append(writer.name)
    with by_hand(path) as hand:
        hand.execute("UPDATE records SET at = 'long ago' WHERE writer = ?", (int(names[0], 16),))
    with closing(connect(path)) as connection:
        seen = look(connection, [int(names[-1], 16)]).heads
    assert set(seen) == {names[0], *names[8:39]}


def test_a_lock_that_can_not_be_made_leaves_nothing_open(path: Path) -> None:
    """Trying again and again takes no file descriptors."""
    path.with_name("audit.db-turn").mkdir()
    writer = ChainWriter(settings(path), time)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with pytest.raises(JournalFault):
            writer.open()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_file_that_vanished_is_noticed(path: Path, how: str) -> None:
    """Records are not written into a file that nobody can find any more; put back, all goes on."""
    writer = ChainWriter(settings(path), time)
    writer.append([record(1)])
    aside = path.with_name("aside")
    os.link(path, aside)
    path.unlink()
    if how == "replaced":
        path.touch()
    for _ in range(2):
        with pytest.raises(JournalFault, match="moved or removed"):
            writer.append([record(2)])
    os.replace(aside, path)
    writer.append([record(2)])
    writer.close()
    assert ids(path) == ["id-1", "id-2"]
    assert checked(path).is_well


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_file_beside_it_that_vanished_is_noticed(
    path: Path, suffix: str, is_replaced: bool
) -> None:
    """What was committed goes to the -wal first: without it records would go nowhere."""
    writer = ChainWriter(settings(path), time)
    writer.append([record(1)])
    assert writer.displaced() is None
    beside, aside = Path(f"{path}{suffix}"), path.with_name("aside")
    os.rename(beside, aside)
    if is_replaced:
        beside.touch()
    for _ in range(2):
        with pytest.raises(JournalFault, match=f"^{beside}: moved or removed while in use"):
            writer.append([record(2)])
    assert writer.displaced() is not None
    os.replace(aside, beside)
    assert writer.displaced() is None
    writer.append([record(2)])
    writer.close()
    assert ids(path) == ["id-1", "id-2"]
    assert checked(path).is_well


def test_the_files_stay_the_same_while_others_come_and_go(path: Path) -> None:
    """Neither readers nor other writers that open, write much and close look like a removal."""
    writer = ChainWriter(settings(path), time)
    writer.append([record(1)])
    for number in range(2, 5):
        other = ChainWriter(settings(path), time)
        for part in range(10):
            other.append([record(100 * number + 10 * part + each) for each in range(200)])
        assert writer.displaced() is None
        other.close()
        assert checked(path).is_well
        writer.append([record(number)])
    writer.close()
    assert checked(path).is_well


@pytest.mark.parametrize(
    "content", [b"no database at all, by any measure" * 200, b"SQLite format 3\0" + b"x" * 5000]
)
def test_a_file_that_is_no_journal_is_left_alone(path: Path, content: bytes) -> None:
    """What is not ours is neither written to nor mended."""
    path.write_bytes(content)
    with pytest.raises(JournalFault):
        ChainWriter(settings(path), time).open()
    assert path.read_bytes() == content
    with pytest.raises(JournalFault), Reader(path):
        pass


def test_a_database_of_somebody_else_is_left_alone(path: Path) -> None:
    """A sound SQLite file without our mark is no journal."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")
    with pytest.raises(JournalFault, match="not an audit journal"):
        ChainWriter(settings(path), time).open()


def test_a_journal_of_another_version_is_left_alone(path: Path) -> None:
    """A newer flowcache's file is not for us to write to."""
    chain(path)
    with by_hand(path) as hand:
        hand.execute("PRAGMA user_version = 2")
    with pytest.raises(JournalFault, match="version 2"):
        ChainWriter(settings(path), time).open()


def test_lost_records_leave_a_record(path: Path) -> None:
    """The chain itself says that others are missing, how many, and between which."""
    writer = ChainWriter(settings(path), time)
    writer.append([record(1), Note(Kind.LOST, {"records": 17})])
    writer.append([Note(Kind.LOST, {"records": 2})])
    writer.close()
    with Reader(path) as reader:
        kinds = [(e.kind, e.detail) for e in reader.records(Query()) if e.kind == "lost"]
    assert kinds == [("lost", '{"records":17}'), ("lost", '{"records":2}')]
    assert checked(path).is_well


def _write(path: Path, name: str, commits: int) -> None:
    writer = ChainWriter(settings(path), time)
    for number in range(commits):
        writer.append([record(number, request_id=f"{name}-{number}")])
    writer.close()


def test_several_processes_write_at_once(path: Path) -> None:
    """Four writers of one file, none there before: every record is there, every chain is whole."""
    fork = multiprocessing.get_context("spawn")
    names = "abcd"
    processes = [fork.Process(target=_write, args=(path, name, 50)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    report = checked(path)
    assert report.is_well
    assert (report.chains, report.unfinished) == (4, [])
    written = ids(path)
    for name in names:
        own = [each for each in written if each and each.startswith(name)]
        assert own == [f"{name}-{number}" for number in range(50)]


def test_turns_alternate(path: Path) -> None:
    """A writer that has had its turn is not the next while another waits."""
    order: list[str] = []
    first, second = Turns(path), Turns(path)
    ready = Barrier(2)

    def take(turns: Turns, name: str) -> None:
        ready.wait()
        for _ in range(200):
            with turns.turn():
                order.append(name)

    threads = [Thread(target=take, args=each) for each in ((first, "a"), (second, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first.close()
    second.close()
    assert sorted(order) == ["a"] * 200 + ["b"] * 200


def test_two_open_journals_do_not_disturb_each_other(path: Path) -> None:
    """Opening makes what is missing and nothing else."""
    with closing(connect(path)) as one, closing(connect(path)) as two:
        assert one.execute("PRAGMA synchronous").fetchone() == (2,)
        assert two.execute("PRAGMA journal_mode").fetchone() == ("wal",)
