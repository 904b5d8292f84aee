"""How far a destination is: its progress compared with the journal."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from flowcache.admin.inspector.view import AuditFilter, view
from flowcache.audit.database import JournalFault
from flowcache.audit.writing import ChainWriter
from flowcache.delivery.feed import Feed
from flowcache.delivery.loop import Loop
from flowcache.delivery.overview import overview, unknown
from flowcache.delivery.process import deliver
from flowcache.delivery.progress import Place, Progress, progress_path
from flowcache.delivery.settings import DeliverySettings
from flowcache.delivery.watch import Watch
from flowcache.metrics.exposition import exposition
from flowcache.outbound.judging import NotNow
from flowcache.status import DeliveryStatus
from flowcache.store.settings import StoreSettings
from tests.delivery.loops import Memory, looping, room_for, verified
from tests.unit.audit.journals import by_hand, chain, pruned, settings
from tests.unit.telemetry.statuses import worker

WRITTEN_AT = 1_700_000_000.0
"""The time of the first record of `journals.chain`."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


def look(path: Path, name: str = "memory", now: float = WRITTEN_AT + 100) -> DeliveryStatus:
    (status,) = overview(path, [name], now)
    return status


def once(path: Path, memory: Memory) -> str | None:
    """Deliver what is due to a memory; return why not all of it was taken."""

    async def work() -> str | None:
        async with looping(path, memory, batch=4) as loop:
            return await loop.catch_up()

    with capture_logs():
        return asyncio.run(work())


def shown(deliveries: Sequence[DeliveryStatus]) -> list[dict[str, Any]]:
    """Return what the inspector shows of deliveries."""
    document = view([worker(1)], AuditFilter(), {}, "1", None, deliveries)
    found: list[dict[str, Any]] = msgspec.to_builtins(document.deliveries)
    return found


def test_before_anything_was_written(path: Path) -> None:
    """Neither journal nor progress: nothing is due, and nothing is wrong."""
    assert look(path) == DeliveryStatus("memory", 0, 0, 0, {}, 0.0, None, None, None, False)


def test_what_is_due(path: Path) -> None:
    """How many records, of which writer, and how long the oldest has waited."""
    names = [chain(path, [3]), chain(path, [1])]
    status = look(path)
    assert status.behind == dict(zip(names, [5, 3], strict=True))
    assert status.behind_seconds == 100.0
    once(path, Memory())
    status = look(path)
    assert (status.delivered, status.behind, status.behind_seconds) == (8, {}, 0.0)
    for at in (90.0, 70.0, 80.0):
        writer = ChainWriter(settings(path), lambda at=at: WRITTEN_AT + at)  # type: ignore[misc]
        writer.open()
        writer.abandon()
    assert look(path).behind_seconds == 30.0


def test_a_clock_that_went_back(path: Path) -> None:
    """No record has waited for less than no time."""
    chain(path)
    assert look(path, now=0.0).behind_seconds == 0.0


def test_destinations_know_nothing_of_each_other(path: Path) -> None:
    """Each has a place of its own."""
    chain(path)
    once(path, Memory())
    well, other = overview(path, ["memory", "other"], 0.0)
    assert (well.behind, sum(other.behind.values())) == ({}, 5)
    progress = Progress(path, lambda: 1.0)
    assert list(progress.begin("memory").cursors.values()) == [4]
    assert progress.begin("other").cursors == {}
    progress.close()
    assert sum(overview(path, ["other"], 0.0)[0].behind.values()) == 5


def test_a_failure_is_told_until_it_went_well(path: Path) -> None:
    """The reason and when; counts stay."""
    chain(path)
    memory = Memory(NotNow("away"))
    assert once(path, memory) == "away"
    status = look(path)
    assert (status.failures, status.fault, status.stopped) == (1, "away", False)
    assert status.fault_at is not None
    assert once(path, memory) is None
    status = look(path)
    assert (status.failures, status.fault, status.delivered) == (1, None, 5)


def test_a_progress_that_is_broken_is_said_so(path: Path) -> None:
    """It is no reason to say that all is well."""
    chain(path)
    progress_path(path).write_bytes(b"no database " * 500)
    with pytest.raises(JournalFault, match="the progress of its delivery: "):
        look(path)


def break_(path: Path) -> None:
    path.write_bytes(b"no database " * 500)


async def test_one_look_is_shared(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask at once, and for two seconds after, the journal is looked at once."""
    looks, seconds = 0, 10.0

    def counted(*arguments: Any) -> list[DeliveryStatus]:
        nonlocal looks
        looks += 1
        return overview(*arguments)

    monkeypatch.setattr("flowcache.delivery.watch.overview", counted)
    watch = Watch(DeliverySettings(path, file="-"), lambda: seconds, lambda: 5.0)
    asked = [asyncio.create_task(watch()) for _ in range(20)]
    await asyncio.sleep(0)
    asked.pop().cancel()
    answers = await asyncio.gather(*asked)
    seconds += 1.9
    assert await watch() == answers[0]
    assert (looks, [each.destination for each in answers[0]]) == (1, ["file"])
    seconds += 0.2
    break_(path)
    with capture_logs() as logs:
        (status,) = await watch()
    assert (looks, status.known, status.stopped) == (2, False, True)
    assert [entry["log_level"] for entry in logs] == ["error"]


def test_what_nobody_knows_is_alarmed_of() -> None:
    """Each destination counts as stopped; no counter falls to nothing, as if it began anew."""
    found = unknown(["file", "http"], "broken")
    lines = exposition([worker(1)], "1", found).decode().splitlines()
    assert [line for line in lines if "{destination=" in line] == [
        'flowcache_audit_delivery_stopped{destination="file"} 1.0',
        'flowcache_audit_delivery_stopped{destination="http"} 1.0',
    ]
    deliveries = shown(found)
    assert [(each["fault"], each["stopped"]) for each in deliveries] == [("broken", True)] * 2


def test_a_progress_that_is_no_database_is_set_aside(path: Path) -> None:
    """Everything is delivered again rather than nothing any more, and somebody is told."""
    chain(path)
    progress_path(path).write_bytes(broken := b"no database " * 500)
    with capture_logs() as logs:
        Progress(path, lambda: 5.0).close()
    memory = Memory()
    assert once(path, memory) is None
    assert (len(memory.lines), look(path).behind) == (5, {})
    assert Path(f"{progress_path(path)}.broken").read_bytes() == broken
    assert logs[0]["event"] == "audit_delivery_progress_broken"


def test_a_progress_that_cant_be_written_is_read(path: Path) -> None:
    """On a full disk delivery goes on from where it was, and writes where it is when it can."""
    chain(path)
    once(path, Memory())
    chain(path)
    kept = progress_path(path).stat().st_size
    with capture_logs() as logs, room_for(kept // 2):
        progress = Progress(path, lambda: 5.0)
        place = progress.begin("memory")
    assert len(place.cursors) == 1
    assert [entry["log_level"] for entry in logs] == ["error"]
    feed = Feed(path, place, 100)
    batch = feed.next()
    assert batch is not None
    with capture_logs() as logs:
        progress.delivered("memory", batch)
    assert [entry["event"] for entry in logs] == ["audit_delivery_progress_written_again"]
    feed.close()
    progress.close()
    assert look(path).behind == {}


def test_a_progress_that_is_being_made(path: Path) -> None:
    """A file without tables is that of a process that has just begun."""
    chain(path)
    progress_path(path).touch()
    assert look(path).delivered == 0


KEPT = ("at", "kind", "stale", "hash")
"""What SQLite lets nobody take away."""
NULLABLE = ("client", "hit", "latency_ms", "seal", "detail")


@pytest.mark.parametrize(
    ("column", "value"),
    [(c, v) for c in (*KEPT, *NULLABLE) for v in ("'text'", "x'ff00'", "-1e400")]
    + [(c, "NULL") for c in NULLABLE],
)
def test_a_journal_that_was_tampered_with(path: Path, column: str, value: str) -> None:
    """It is delivered all the same, nothing stops; what was bent on the way is found there."""
    chain(path, [3])
    true = Memory()
    once(path, true)
    progress_path(path).unlink()
    with by_hand(path) as hand:
        hand.execute(f"UPDATE records SET {column} = {value} WHERE seq = 2")
    assert sum(look(path).behind.values()) == 5
    memory = Memory()
    assert once(path, memory) is None
    assert (len(memory.lines), look(path).behind) == (5, {})
    without_seals = [
        [json.loads(line) | {"seal": None} for line in each.lines] for each in (true, memory)
    ]
    assert without_seals[0] == without_seals[1] or not verified(memory.lines).is_well


def test_retention_goes_on_while_a_destination_is_dead(path: Path) -> None:
    """The journal keeps to its bounds; what was lost to it is counted, told, and leaves a gap."""
    name = chain(path, [20])
    memory = Memory()

    async def work() -> None:
        async with looping(path, memory, batch=4) as loop:
            await _one(loop)
            memory.faults.append(NotNow("dead"))
            assert await loop.catch_up() == "dead"

    with capture_logs():
        asyncio.run(work())
    assert pruned(path, 5e9, 15) == 15
    with by_hand(path) as hand:
        (left,) = hand.execute("SELECT count(*) FROM records").fetchone()
    assert left == 7
    with capture_logs():
        assert once(path, memory) is None
    status = look(path)
    assert (status.delivered, status.missed, status.behind) == (4 + 7, 11, {})
    assert b'"kind":"gap"' in b"".join(memory.lines)
    assert f'"writer":"{name}"'.encode() in memory.lines[4]
    assert verified(memory.lines).is_well


async def _one(loop: Loop) -> None:
    """Deliver one batch."""
    assert await loop._step()


def test_a_destination_is_one_since_it_was_first_set_up(path: Path) -> None:
    """A restart does not write off what was let go of while nobody delivered."""
    times = iter((1.0, 2.0))
    for _ in range(2):
        progress = Progress(path, lambda: next(times))
        assert progress.begin("memory").since == 1.0
        progress.close()


def test_a_place_and_its_counts_are_kept_together_or_not_at_all(path: Path) -> None:
    """Else records would be delivered that no count knows of."""
    chain(path)
    progress = Progress(path, lambda: 1.0)
    progress.begin("memory")
    batch = Feed(path, Place(1.0, {}), 100).next()
    assert batch is not None
    with by_hand(progress_path(path)) as hand:
        hand.execute("ALTER TABLE destinations RENAME COLUMN missed TO lost")
    with capture_logs() as logs:
        progress.delivered("memory", batch)
    assert [entry["event"] for entry in logs] == ["audit_delivery_progress_unwritable"]
    assert progress.begin("memory").cursors == {}
    progress.close()


def test_files_are_for_their_user_only(path: Path) -> None:
    """Progress and lock say who writes and how much."""
    chain(path)
    once(path, Memory())
    assert progress_path(path).stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(progress_path(path)) as kept:
        assert kept.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    kept.close()


STATUS = DeliveryStatus("http", 5, 2, 1, {"a": 3, "b": 4}, 12.5, 1.0, "away", 2.0, True)


def test_it_is_in_the_metrics() -> None:
    """Each number under its name, by destination; without one nothing is said."""
    lines = exposition([worker(1)], "1", [STATUS]).decode().splitlines()
    assert [line for line in lines if '{destination="http"}' in line] == [
        'flowcache_audit_delivered_total{destination="http"} 5.0',
        'flowcache_audit_delivery_failures_total{destination="http"} 2.0',
        'flowcache_audit_delivery_missed_total{destination="http"} 1.0',
        'flowcache_audit_delivery_behind_seconds{destination="http"} 12.5',
        'flowcache_audit_delivery_behind{destination="http"} 7.0',
        'flowcache_audit_delivery_stopped{destination="http"} 1.0',
    ]
    assert b"{destination=" not in exposition([worker(1)], "1")


def test_it_is_in_the_inspector() -> None:
    """The same, for people."""
    assert shown([STATUS]) == [
        {
            "destination": "http",
            "delivered": 5,
            "failures": 2,
            "missed": 1,
            "behind": 7,
            "behindSeconds": 12.5,
            "lastDelivered": "1970-01-01T00:00:01.000Z",
            "fault": "away",
            "lastFailed": "1970-01-01T00:00:02.000Z",
            "stopped": True,
        }
    ]
    assert shown([]) == []


def test_a_worker_carries_no_client() -> None:
    """What only the delivery needs is not loaded where calls are served."""
    code = (
        "import sys, flowcache.bootstrap; print({'httpx2', 'stamina', 'tenacity'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_without_room_beside_the_journal_it_says_so(tmp_path: Path) -> None:
    """A directory that is gone: one line and an exit code, no traceback; it is tried again."""
    settings = DeliverySettings(tmp_path / "gone" / "audit.db", file="-")
    with capture_logs() as logs:
        assert deliver(settings, StoreSettings(nodes=())) == 1
    (entry,) = logs
    assert entry["event"] == "audit_delivery_cannot_start"
    assert "No such file or directory" in entry["fault"]
