"""The queue, the thread, the two modes, and what happens when the disk does not play along."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic, time
from typing import Any

import pytest

from flowcache.audit.database import Turns
from flowcache.audit.journal import Journal
from flowcache.audit.reading import Query, Reader
from flowcache.audit.settings import Mode
from flowcache.errors import Unrecorded
from tests.servers import eventually
from tests.unit.audit.journals import checked, record, settings


@asynccontextmanager
async def journal(
    path: Path,
    mode: Mode = Mode.RELAXED,
    capacity: int = 1000,
    now: Callable[[], float] = time,
    **fields: Any,
) -> AsyncIterator[Journal]:
    made = Journal(settings(path, mode=mode, **fields), monotonic, now, capacity)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


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
        assert sum(made.status().commits) <= 2


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


async def test_a_stuck_neighbour_holds_nobody_up_for_ever(path: Path) -> None:
    """Closing ends in time though somebody else has the turn and keeps it."""
    gate = Turns(path)
    made = Journal(settings(path), monotonic, time)
    with gate.turn():
        await made.start()
        made.record(record(1))
        await made.close()
        assert made._thread.is_alive()
    gate.close()
    await asyncio.to_thread(made._thread.join, 20)
    assert kept(path) == ["id-1"]


async def test_retention_runs_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old records leave while the service runs."""
    monkeypatch.setattr("flowcache.audit.journal._TIDY_SECONDS", 0.05)
    today = [1_700_000_000.0]
    async with journal(path, now=lambda: today[0], keep_days=1) as made:
        for number in range(50):
            made.record(record(number))
        await until(lambda: made.status().written == 50, "the records to be written")
        today[0] += 2 * 86_400
        made.record(record(50, at=today[0]))
        await until(lambda: kept(path) == ["id-50"], "the old records to be gone")
    assert checked(path).is_well


async def test_a_record_that_cannot_be_written_holds_up_no_other(path: Path) -> None:
    """A bug in one batch costs that batch, is counted, and no more."""
    async with journal(path) as made:
        made.record(record(1, client="\ud800"))
        await until(lambda: made.status().lost == 1, "the loss to be counted")
        made.record(record(2))
        await until(lambda: made.status().written == 1, "the next to be written")
    assert kept(path) == ["id-2"]
    assert checked(path).is_well
