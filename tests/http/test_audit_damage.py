"""A strict journal that is damaged in place, under load: nothing more is acknowledged.

Each damage is done to the real files by another program, as a bad disk or a bad command would. The
seconds within which it is found are a promise of docs/security.md; here is only that it is.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import time

import pytest

from flowcache.audit.writing import ChainWriter
from flowcache.secret import Secret
from tests.cli.test_cli import flowcache
from tests.http.test_audit_journal import KEY, Load, broken, journalled, load
from tests.servers import RedisProcess, eventually
from tests.service import Service, service
from tests.unit.audit.journals import record, settings

PAGE = 4096
RECORDS = 20_000
"""Of an earlier life of the service: enough for two levels of pages above the records."""


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def pages(path: Path, table: str, kind: str) -> list[int]:
    """Return the places of a table's pages of a kind, as SQLite finds them."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as looking:
        rows = looking.execute(
            "SELECT pgoffset FROM dbstat WHERE name = ? AND pagetype = ? ORDER BY path",
            (table, kind),
        )
        return [row[0] for row in rows]


def middle(path: Path) -> None:
    """40,000 random bytes over the middle of the file."""
    overwrite(path, path.stat().st_size // 2, os.urandom(40_000))


def header(path: Path) -> None:
    overwrite(path, 0, os.urandom(100))


def interior(path: Path) -> None:
    """A page above those of the earlier life: no write of now passes it, and would mend it."""
    found = pages(path, "records", "internal")
    overwrite(path, found[len(found) // 2], os.urandom(PAGE))


def leaf(path: Path) -> None:
    found = pages(path, "records", "leaf")
    overwrite(path, found[len(found) // 2], os.urandom(PAGE))


def index(path: Path) -> None:
    overwrite(path, pages(path, "records_at", "leaf")[0], os.urandom(PAGE))


def wal(path: Path) -> None:
    """Random bytes over what was appended since the -wal was last begun anew."""
    overwrite(Path(f"{path}-wal"), 32, os.urandom(40_000))


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // PAGE * PAGE)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


DAMAGES = [middle, interior, leaf, index, cut_off, emptied]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound journal of an earlier life of a service."""
    path = tmp_path_factory.mktemp("earlier") / "audit.db"
    now = time()
    writer = ChainWriter(settings(path, signing_key=Secret(KEY)), time)
    for first in range(0, RECORDS, 1000):
        batch = [record(n % 250, at=now, request_id=f"earlier-{first + n}") for n in range(1000)]
        writer.append(batch)
    writer.close()
    return path


@pytest.fixture
def path(tmp_path: Path, earlier: Path) -> Path:
    """A journal that a service goes on with, to be damaged."""
    path = tmp_path / "audit.db"
    path.write_bytes(earlier.read_bytes())
    return path


def refuses(running: Service, calls: Load) -> None:
    """Check that the service tells of the damage everywhere, and acknowledges nothing any more."""
    eventually(lambda: not running.is_ready(), what="the damage to be found")
    eventually(lambda: broken(running), what="the inspector to tell of it")
    told = running.request("GET", "/readyz")
    assert (told.status, told.json["error"]) == (503, "The audit can't be written.")
    assert b"\nflowcache_audit_broken 1.0\n" in running.request("GET", "/metrics").body
    settled = len(calls)
    refused = running.call(operation="SET", key="k", value=1)
    assert refused.code == "audit_unavailable"
    calls.stop()
    assert len(calls) - settled <= 8  # one for each caller may have been on its way
    assert "audit_journal_damaged" in running.log or "moved or removed" in running.log


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_journal_ends_acknowledgements(
    fresh_standalone: RedisProcess, path: Path, damage: Callable[[Path], None]
) -> None:
    """Strict, under load: calls are refused, and /readyz, /metrics and /inspector say why."""
    environment = journalled(path, fresh_standalone, audit_mode="strict")
    with service(environment) as running, load(running) as calls:
        eventually(lambda: len(calls) > 500, what="load")
        damage(path)
        refuses(running, calls)
        (journal,) = running.inspect()["journal"]
        assert "flowcache audit verify" in journal["fault"]


@pytest.mark.parametrize("damage", [wal, header])
def test_damage_that_a_checkpoint_may_mend_ends_acknowledgements(
    fresh_standalone: RedisProcess, path: Path, damage: Callable[[Path], None]
) -> None:
    """Until then it would be lost at a crash, though SQLite can read all of it now."""
    environment = journalled(path, fresh_standalone, audit_mode="strict")
    with service(environment) as running, load(running) as calls:
        eventually(lambda: len(calls) > 500, what="load")
        calls.stop()  # so that no checkpoint carries it over meanwhile
        for number in range(50):
            assert running.call(operation="SET", key=f"k{number}", value=1).data == "OK"
        damage(path)
        refuses(running, calls)


def test_another_file_in_its_place_ends_acknowledgements(
    fresh_standalone: RedisProcess, path: Path
) -> None:
    """What is written to a file that has no name any more is in no journal."""
    environment = journalled(path, fresh_standalone, audit_mode="strict")
    with service(environment) as running, load(running) as calls:
        eventually(lambda: len(calls) > 500, what="load")
        other = path.with_name("other")
        other.write_bytes(path.read_bytes())
        os.replace(other, path)
        refuses(running, calls)


def test_what_can_be_read_of_a_damaged_journal_is_read(
    fresh_standalone: RedisProcess, path: Path
) -> None:
    """No acknowledged call is missing but for records that are said to be unreadable."""
    environment = journalled(path, fresh_standalone, audit_mode="strict")
    with service(environment) as running, load(running) as calls:
        eventually(lambda: len(calls) > 500, what="load")
        middle(path)
        refuses(running, calls)
        acknowledged = {*calls.writes, *calls.reads}
    exported = flowcache("audit", "export", "-j", str(path))
    assert exported.returncode == 1
    assert "the journal is damaged; " in exported.stderr
    unreadable = int(exported.stderr.partition("damaged; ")[2].split()[0])
    readable = {json.loads(line)["request_id"] for line in exported.stdout.splitlines()}
    earlier = {f"earlier-{number}" for number in range(RECORDS)}
    missing = len(acknowledged - readable) + len(earlier - readable)
    assert 0 < missing <= unreadable < RECORDS // 10
    verified = flowcache(
        "audit", "verify", "-j", str(path), environment={"FLOWCACHE_AUDIT_SIGNING_KEY": KEY}
    )
    assert verified.returncode == 1
    assert "can't be read" in verified.stdout
    assert "records of writer" in verified.stdout


def test_a_restart_on_a_damaged_journal_says_what_to_do(
    fresh_standalone: RedisProcess, path: Path
) -> None:
    """It acknowledges nothing once it has looked; with the file moved away it serves again."""
    middle(path)
    environment = journalled(path, fresh_standalone, audit_mode="strict")
    with service(environment, ready=False) as running:
        eventually(lambda: broken(running), what="the damage to be found", ignoring=(OSError,))
        assert running.call(operation="SET", key="k", value=1).code == "audit_unavailable"
        (journal,) = running.inspect()["journal"]
        assert "Move the file with its -wal and -shm away" in journal["fault"]
    for suffix in ("", "-wal", "-shm"):
        if (beside := Path(f"{path}{suffix}")).exists():
            beside.rename(f"{beside}.damaged")
    with service(environment) as running:
        assert running.call(operation="SET", key="k", value=1).data == "OK"


def test_damage_stops_nothing_in_relaxed_mode(fresh_standalone: RedisProcess, path: Path) -> None:
    """Calls go on; the log, the metric and the inspector tell."""
    with service(journalled(path, fresh_standalone)) as running, load(running) as calls:
        eventually(lambda: len(calls) > 500, what="load")
        middle(path)
        eventually(lambda: broken(running), what="the damage to be found")
        assert running.call(operation="SET", key="k", value=1).data == "OK"
        assert running.is_ready()
        assert b"\nflowcache_audit_broken 1.0\n" in running.request("GET", "/metrics").body
        assert "audit_journal_damaged" in running.log


def test_a_sound_journal_under_load_is_not_blamed(
    fresh_standalone: RedisProcess, path: Path
) -> None:
    """Two workers, checkpoints, readers, a copy and a restart of the -wal: none of it is damage."""
    environment = journalled(path, fresh_standalone, audit_mode="strict", http_workers="2")
    with service(environment) as running, load(running) as calls:
        before = path.stat().st_size
        eventually(lambda: path.stat().st_size > before + 500 * PAGE, within=60, what="checkpoints")
        assert flowcache("audit", "copy", "-j", str(path), str(path) + ".copy").returncode == 0
        assert flowcache("audit", "verify", "-j", str(path)).returncode == 0
        assert not broken(running)
        assert len(calls) > 500
        assert "audit_journal_damaged" not in running.log
