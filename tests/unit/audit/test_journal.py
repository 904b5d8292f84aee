"""The queue, the thread, the two modes, and what happens when the disk does not play along."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic, time
from typing import Any

import pytest
from structlog.testing import capture_logs

from flowcache.audit.database import Turns
from flowcache.audit.journal import STALLED_SECONDS, Journal
from flowcache.audit.reading import Query, Reader
from flowcache.audit.refusals import Refusals
from flowcache.audit.settings import Mode
from flowcache.audit.vouching import Voucher
from flowcache.errors import Unrecorded
from flowcache.secret import Secret
from tests.servers import eventually
from tests.unit.audit.journals import by_hand, checked, record, settings


@asynccontextmanager
async def journal(
    path: Path,
    mode: Mode = Mode.RELAXED,
    capacity: int = 1000,
    now: Callable[[], float] = time,
    clock: Callable[[], float] = monotonic,
    **fields: Any,
) -> AsyncIterator[Journal]:
    made = Journal(settings(path, mode=mode, **fields), clock, now, capacity)
    await made.start()
    try:
        yield made
    finally:
        await made.close(5.0)


def kept(path: Path) -> list[str | None]:
    with Reader(path) as reader:
        return [e.request_id for e in reader.records(Query()) if e.request_id is not None]


async def until(predicate: Any, what: str) -> None:
    await asyncio.to_thread(eventually, predicate, what=what)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            pass


def enlarge(disk: Path) -> None:
    """Make room."""
    subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)


def spoil(path: Path) -> None:
    """Put something there that is no journal."""
    path.write_bytes(b"these are not the records" * 500)


@pytest.mark.parametrize("mode", Mode)
async def test_what_was_recorded_is_there_at_the_end(path: Path, mode: Mode) -> None:
    """A worker that ends in good order loses nothing, and closes its chain."""
    async with journal(path, mode) as made:
        for number in range(100):
            made.record(record(number))
    assert kept(path) == [f"id-{number}" for number in range(100)]
    report = checked(path)
    assert report.is_well
    assert report.unfinished == []


async def test_relaxed_makes_nobody_wait(path: Path) -> None:
    """There is nothing to wait for, and the record is there soon."""
    async with journal(path) as made:
        assert made.record(record(1)) is None
        assert not made.wants_intents
        await until(lambda: kept(path) == ["id-1"], "the record to be written")
        assert made.status().written == 1


async def test_strict_waits_for_the_disk(path: Path) -> None:
    """When the wait is over, the record can be read by anybody."""
    async with journal(path, Mode.STRICT) as made:
        assert made.wants_intents
        for number in range(10):
            waiting = made.record(record(number))
            assert waiting is not None
            assert await waiting
            assert kept(path)[-1] == f"id-{number}"


async def test_calls_share_a_commit(path: Path) -> None:
    """Calls that come while a commit is under way wait for the next one together."""
    async with journal(path, Mode.STRICT) as made:
        gate = Turns(path)
        with gate.turn():
            first = made.record(record(0))
            await until(lambda: not made._queue, "the thread to take the first")
            rest = [made.record(record(number)) for number in range(1, 200)]
        gate.close()
        assert all([await waiting for waiting in (first, *rest) if waiting is not None])
        assert sum(made.status().commits.counts) <= 2


async def test_a_full_queue_loses_and_says_so(path: Path) -> None:
    """Relaxed: the queue is bounded; what is lost is counted, and the chain says where."""
    async with journal(path, capacity=10) as made:
        gate = Turns(path)
        with gate.turn():
            made.record(record(0))
            await until(lambda: not made._queue, "the thread to take the first")
            for number in range(1, 16):
                made.record(record(number))
            assert made.status().lost == 5
        gate.close()
        await until(lambda: made.status().queued == 0, "the queue to be written")
        made.record(record(99))
    assert kept(path) == [*(f"id-{number}" for number in range(11)), "id-99"]
    with Reader(path) as reader:
        kinds = [(e.seq, e.detail) for e in reader.records(Query()) if e.kind == "lost"]
    assert kinds == [(12, '{"records":5}')]
    assert checked(path).is_well


async def test_a_full_queue_refuses_in_strict_mode(path: Path) -> None:
    """Nothing is admitted that could not be recorded."""
    async with journal(path, Mode.STRICT, capacity=10) as made:
        gate = Turns(path)
        with gate.turn():
            made.record(record(0))
            await until(lambda: not made._queue, "the thread to take the first")
            for number in range(1, 11):
                made.record(record(number))
            with pytest.raises(Unrecorded):
                made.admit()
            refused = made.record(record(11))
            assert refused is not None
            assert not await refused
        gate.close()
        await until(lambda: made.status().queued == 0, "the queue to be written")
        made.admit()


async def test_a_full_disk_is_survived(small_disk: Path) -> None:
    """Relaxed: it goes on, says what is wrong, and writes all that waited when there is room."""
    path = small_disk / "audit.db"
    async with journal(path, capacity=10_000) as made:
        made.record(record(0))
        await until(lambda: made.status().written == 1, "the first record")
        fill(small_disk)
        for number in range(1, 2001):
            made.record(record(number))
            made.admit()
        await until(lambda: made.status().fault is not None, "the fault to be told")
        assert "full" in str(made.status().fault)
        enlarge(small_disk)
        await until(lambda: made.status().fault is None, "the fault to be over")
        await until(lambda: made.status().queued == 0, "the queue to be written")
        assert made.status().lost == 0
    assert kept(path) == [f"id-{number}" for number in range(2001)]
    assert checked(path).is_well


async def test_a_full_disk_refuses_in_strict_mode(small_disk: Path) -> None:
    """Strict: no record is said to be kept that is not; calls are refused until there is room."""
    path = small_disk / "audit.db"
    told: list[str] = []
    async with journal(path, Mode.STRICT) as made:
        fill(small_disk)
        for number in range(3000):
            waiting = made.record(record(number))
            assert waiting is not None
            if not await waiting:
                break
            told.append(f"id-{number}")
        assert set(told) <= set(kept(path))  # now, not when there is room again
        assert made.status().fault is not None
        with pytest.raises(Unrecorded):
            made.admit()
        refused = made.record(record(5000))
        assert refused is not None
        assert not await refused
        enlarge(small_disk)
        await until(lambda: made.status().fault is None, "the fault to be over")
        made.admit()
        waiting = made.record(record(6000))
        assert waiting is not None
        assert await waiting
    assert set(told) | {"id-6000"} <= set(kept(path))
    assert checked(path).is_well


async def test_a_corrupted_file_at_the_start(path: Path) -> None:
    """The worker starts; the fault is told; when the file is moved away, a new one is begun."""
    spoil(path)
    async with journal(path, Mode.STRICT) as made:
        fault = made.status().fault
        assert fault is not None
        assert "not a database" in fault
        with pytest.raises(Unrecorded):
            made.admit()
        os.rename(path, path.with_name("broken"))
        await until(lambda: made.status().fault is None, "the journal to be written again")
        waiting = made.record(record(1))
        assert waiting is not None
        assert await waiting
    assert kept(path) == ["id-1"]


async def test_what_is_left_at_the_end_is_counted_as_lost(path: Path) -> None:
    """A journal that stays broken until the end says how much it takes along."""
    spoil(path)
    async with journal(path) as made:
        for number in range(3):
            made.record(record(number))
    assert made.status().lost == 3


async def test_a_journal_that_stays_broken_is_not_said_to_be_written_again(path: Path) -> None:
    """What the log says at the end agrees: the fault, and what it took along."""
    async with journal(path) as before:
        before.record(record(0))
    with capture_logs() as said:
        async with journal(path, signing_key=Secret("another key, not that of before")) as made:
            made.record(record(1))
    assert [each["event"] for each in said] == [
        "audit_journal_unwritable",
        "audit_records_lost_at_end",
    ]
    assert "another audit.signing_key" in said[1]["fault"]
    assert (said[1]["records"], made.status().lost) == (1, 1)


async def test_a_journal_that_breaks_and_stays_so_is_not_ended(path: Path) -> None:
    """A chain whose last records are missing has no closing record, and the log says why."""
    with capture_logs() as said:
        async with journal(path) as made:
            await until(lambda: path.exists(), "the journal")
            os.rename(path, path.with_name("aside"))
            made.record(record(1))
    assert [each["event"] for each in said] == [
        "audit_journal_unwritable",
        "audit_records_lost_at_end",
    ]
    assert "moved or removed while in use" in said[1]["fault"]


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_who_looks_finds_what_is_gone_before_a_call_does(
    path: Path, mode: Mode, suffix: str
) -> None:
    """Nothing has been recorded since the file went, and it is told; put back, all is well."""
    async with journal(path, mode) as made:
        made.look()
        there, aside = Path(f"{path}{suffix}"), path.with_name("aside")
        os.rename(there, aside)
        made.admit()
        if mode is Mode.STRICT:
            with pytest.raises(Unrecorded):
                made.look()
        else:
            made.look()
        assert "moved or removed while in use" in (made.status().fault or "")
        os.rename(aside, there)
        made.look()
        assert made.status().fault is None
    assert checked(path).is_well


async def test_a_stuck_neighbour_holds_nobody_up_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing ends in time though somebody else keeps the turn; what is left is counted."""
    monkeypatch.setattr("flowcache.audit.database._TRIES", 1000)
    neighbour = Turns(path)
    made = Journal(settings(path), monotonic, time)
    with neighbour.turn():
        await made.start()
        made.record(record(1))
        await made.close(0.1)
        assert made.status().lost == 1
        await asyncio.to_thread(made._thread.join, 20)
        assert not made._thread.is_alive()
        assert made.status().lost == 1
    neighbour.close()


@pytest.mark.parametrize("mode", Mode)
async def test_a_journal_that_stalls_is_broken(path: Path, mode: Mode) -> None:
    """A disk that hangs raises nothing: how long a record has waited is judged from outside."""
    ahead = [0.0]
    async with journal(path, mode, clock=lambda: monotonic() + ahead[0]) as made:
        neighbour = Turns(path)
        with neighbour.turn():
            first = made.record(record(1))
            assert made.status().fault is None
            ahead[0] += STALLED_SECONDS
            assert "has waited" in str(made.status().fault)
            if mode is Mode.STRICT:
                with pytest.raises(Unrecorded):
                    made.admit()
                second = made.record(record(2))
                assert second is not None
                assert not await second
        neighbour.close()
        if first is not None:
            await first
        await until(lambda: made.status().written >= 1, "the record to be written")
        await until(lambda: made.status().fault is None, "the fault to be over")
        made.admit()


async def test_who_has_the_turn_for_too_long_is_told_of(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was stopped with the turn is no end of the thread; then all is written."""
    monkeypatch.setattr("flowcache.audit.database._TRIES", 50)
    async with journal(path) as made:
        neighbour = Turns(path)
        with neighbour.turn():
            made.record(record(1))
            await until(lambda: "its turn" in str(made.status().fault), "the fault to be told")
        neighbour.close()
        await until(lambda: made.status().written == 1, "the record to be written")
    assert kept(path) == ["id-1"]


async def test_retention_runs_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old records leave while the service runs."""
    monkeypatch.setattr("flowcache.audit.journal._TIDY_SECONDS", 0.05)
    passed = [0.0]
    began = 1_700_000_000.0
    async with journal(
        path,
        now=lambda: began + passed[0],
        clock=lambda: monotonic() + passed[0],
        keep_days=1,
    ) as made:
        for number in range(50):
            made.record(record(number))
        await until(lambda: made.status().written == 50, "the records to be written")
        await until(lambda: made._time is not None, "retention to have begun")
        passed[0] += 2 * 86_400
        made.record(record(50, at=began + passed[0]))
        await until(lambda: kept(path) == ["id-50"], "the old records to be gone")
        assert made.status().pruned > 50
        assert made.status().pruned_early == 0
    assert checked(path).is_well


@pytest.mark.parametrize("mode", Mode)
async def test_retention_is_looked_after_under_steady_load(
    path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though there is always something to write."""
    monkeypatch.setattr("flowcache.audit.journal._TIDY_SECONDS", 0.0)
    async with journal(path, mode, max_mb=1, capacity=100_000) as made:
        batch = [record(number) for number in range(1000)]
        append = made._writer.append

        def never_empty(records: Any) -> None:
            append(records)
            if made.status().pruned == 0:
                for each in batch:
                    made._queue.append((each, None))

        monkeypatch.setattr(made._writer, "append", never_empty)
        made.record(record(1))
        await until(lambda: made.status().pruned_early > 0, "something to be pruned")


async def test_relaxed_gathers_under_steady_load(path: Path) -> None:
    """What came while a batch was written waits for the next flush, unless it is a full one."""
    async with journal(path) as made:
        append = made._writer.append
        pauses = made._pause
        waited: list[int] = []

        def more_comes(records: Any) -> None:
            append(records)
            if made.status().written < 3:
                made._queue.append((record(9), None))

        def count() -> float:
            waited.append(made.status().written)
            return pauses()

        made._writer.append = more_comes  # type: ignore[method-assign]
        made._pause = count  # type: ignore[method-assign]
        made.record(record(1))
        await until(lambda: made.status().written >= 4, "all to be written")
    assert {1, 2, 3} <= set(waited)


async def test_a_loss_is_told_where_it_was(path: Path) -> None:
    """The record of what is missing stands between what came before and what came after."""
    async with journal(path, capacity=5) as made:
        neighbour = Turns(path)
        with neighbour.turn():
            made.record(record(0))
            await until(lambda: not made._queue, "the thread to take the first")
            for number in range(1, 9):
                made.record(record(number))
        neighbour.close()
        await until(lambda: made.status().queued == 0, "the queue to be written")
        made.record(record(99))
    with Reader(path) as reader:
        links = reader.links(reader.writers()[0], 1)
    story = [link.entry.request_id or link.entry.detail for link in links[:-1]]
    assert story == [*(f"id-{n}" for n in range(6)), '{"records":3}', "id-99"]


async def test_refusals_of_strangers_past_the_limit_are_summed_up(path: Path) -> None:
    """However often an address knocks: its first refusal, and how many there were."""
    async with journal(path, Mode.STRICT) as made:
        for number in range(500):
            knock = record(number, client=None, outcome="rate_limited", address="10.1.1.1")
            waiting = made.record(knock)
            assert (waiting is None) is (number > 0)
        made.record(record(900, client=None, outcome="rate_limited", address="10.1.1.2"))
        made.record(record(901, client="a client", outcome="rate_limited"))
        made.record(record(902, client=None, outcome="unauthorized"))
        assert made.total == 503
    with Reader(path) as reader:
        told = [e for e in reader.records(Query()) if e.outcome is not None]
    assert sorted(str(e.request_id) for e in told if e.kind == "call") == [
        "id-0",
        "id-900",
        "id-901",
        "id-902",
    ]
    (summary,) = [e for e in told if e.kind == "refused"]
    assert (summary.address, summary.request_id) == ("10.1.1.1", "id-0")
    assert str(summary.detail).startswith('{"more":499,"since":')
    assert checked(path).is_well


def test_addresses_that_are_told_apart_are_bounded() -> None:
    """Whoever has many addresses fills no memory: the others are counted together."""
    refusals = Refusals(capacity=2)
    firsts = [
        refusals.count(record(client=None, outcome="rate_limited", address=f"10.0.0.{n}"))
        for n in range(10)
    ]
    assert firsts == [True, True, True, *[False] * 7]
    (others,) = refusals.told(5.0)
    assert (others.address, others.at, others.kind) == ("others", 5.0, "refused")
    assert str(others.detail).startswith('{"more":7,')
    assert not refusals


def test_a_network_of_one_owner_is_one_address() -> None:
    """Who owns 2^64 addresses has one count for all of them."""
    refusals = Refusals()
    firsts = [
        refusals.count(record(client=None, outcome="rate_limited", address=f"2001:db8::{n}"))
        for n in range(5)
    ]
    assert firsts == [True, *[False] * 4]
    assert [each.address for each in refusals.told(1.0)] == ["2001:db8::/64"]


async def test_tampering_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What retention would have let go of and finds changed is an alarm, and stops no writing."""
    monkeypatch.setattr("flowcache.audit.journal._TIDY_SECONDS", 0.05)
    async with journal(path) as made:
        made.record(record(1))
        await until(lambda: made.status().written == 1, "the record to be written")
        with by_hand(path) as hand:
            hand.execute("UPDATE records SET at = 0.0 WHERE seq = 0")
        await until(lambda: made.status().tampering is not None, "the alarm")
        assert made.status().fault is None
        assert made.status().pruned == 0
        made.record(record(2))
        await until(lambda: made.status().written == 2, "the next record to be written")
    assert kept(path) == ["id-1", "id-2"]


async def test_a_record_that_cannot_be_written_holds_up_no_other(path: Path) -> None:
    """A bug in one batch costs that batch, is counted, and no more."""
    async with journal(path) as made:
        made.record(record(1, client="\ud800"))
        await until(lambda: made.status().lost == 1, "the loss to be counted")
        made.record(record(2))
        await until(lambda: made.status().written == 1, "the next to be written")
    assert kept(path) == ["id-2"]
    with Reader(path) as reader:
        assert [e.seq for e in reader.records(Query()) if e.kind == "lost"] == [1]
    assert checked(path).is_well


async def test_a_disk_that_hangs_does_not_hold_up_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that never comes back is left behind when the time is over; records are written."""
    looks, goes_on = threading.Event(), threading.Event()

    def hang(_: Voucher) -> None:
        looks.set()
        goes_on.wait()

    monkeypatch.setattr(Voucher, "look", hang)
    made = Journal(settings(path, mode=Mode.RELAXED), monotonic, time)
    await made.start()
    try:
        assert await asyncio.to_thread(looks.wait, 20)
        made.record(record(1))
        async with asyncio.timeout(20):
            await made.close(1.0)
        assert len(kept(path)) == 1
    finally:
        goes_on.set()
        made._voucher.join(20)
        made._voucher.release()
