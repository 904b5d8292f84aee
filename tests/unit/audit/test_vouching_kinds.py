"""Each look of the voucher finds what it is there for, by itself and at once."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.audit.journals import by_hand
from tests.unit.audit.test_vouching import PAGE, Watched, watched

__all__ = ["watched"]  # a fixture

FRAME = 24 + PAGE
HEADER = 32


def found_in_one(watched: Watched) -> str:
    watched.clock.now += 6.0
    watched.voucher.look()
    return str(watched.voucher.fault)


def change(path: Path, at: int, how: Callable[[int], int] = lambda byte: byte ^ 1) -> None:
    """Change a byte of a file behind everybody's back: neither time nor size tell of it."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        (before,) = file.read(1)
        file.seek(at)
        file.write(bytes([how(before)]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_the_newest_record_has_the_hash_that_was_promised(watched: Watched) -> None:
    """A record with its number is not enough."""
    with by_hand(watched.path) as hand:
        hand.execute(
            "UPDATE records SET hash = zeroblob(32) WHERE seq = (SELECT max(seq) FROM records)"
        )
    assert "is not there" in found_in_one(watched)


def test_a_gap_is_found_by_counting(watched: Watched) -> None:
    """Long before the walk over the hashes comes there."""
    with by_hand(watched.path) as hand:
        hand.execute("DELETE FROM records WHERE seq = 1500")
    assert "are missing between" in found_in_one(watched)


@pytest.mark.parametrize("cut", [None, 10, 498])
def test_a_front_that_no_cut_explains_is_missed(watched: Watched, cut: int | None) -> None:
    """Retention says up to where it went; what is missing beyond that was taken by another."""
    with by_hand(watched.path) as hand:
        (writer,) = hand.execute("SELECT DISTINCT writer FROM records").fetchone()
        hand.execute("DELETE FROM records WHERE seq < 500")
        if cut is not None:
            hand.execute(
                "INSERT INTO cuts VALUES (?, ?, zeroblob(32), 1, 1, 0, NULL)", (writer, cut)
            )
    assert "are missing before 500" in found_in_one(watched)


@pytest.mark.parametrize("frame", [0, 3])
@pytest.mark.parametrize("at", [8, 24 + 100])
def test_a_change_of_what_was_appended(watched: Watched, frame: int, at: int) -> None:
    """Of a frame's head or its page, in the -wal, after it was seen."""
    watched.write(300)
    assert watched.look() is None
    change(Path(f"{watched.path}-wal"), HEADER + frame * FRAME + at)
    assert "-wal was changed" in found_in_one(watched)


def test_what_is_appended_are_frames(watched: Watched) -> None:
    """Also what no look has seen before: each begins with the salts of this -wal."""
    watched.write(300)
    assert watched.look() is None
    assert watched.voucher._wal is not None
    _, seen, _ = watched.voucher._wal
    watched.write(300)
    change(Path(f"{watched.path}-wal"), seen + 8)
    assert "-wal was changed" in found_in_one(watched)


def test_a_fault_stays_until_a_whole_pass_is_over(watched: Watched) -> None:
    """However many looks that takes."""
    clock = watched.clock

    def passing() -> float:
        clock.now += 1.0  # each look has time for one slice
        return clock.now

    watched.voucher._clock = passing
    os.utime(watched.path)
    watched.voucher.look()
    assert watched.voucher.fault is not None
    looks = 0
    while watched.voucher.fault is not None:
        watched.voucher.look()
        looks += 1
    assert looks > 1


def test_each_time_it_is_unreadable_is_one_of_its_own(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two moments without a file descriptor, an hour apart, are no two seconds."""

    def refuse(path: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    for _ in range(2):
        with monkeypatch.context() as refusing:
            refusing.setattr("flowcache.audit.database.connect_read_only", refuse)
            assert found_in_one(watched) == "None"
        watched.clock.now += 3600
        assert found_in_one(watched) == "None"


def test_damage_of_the_index_is_damage(watched: Watched) -> None:
    """Records are found by their time, too: the index of it is read to its end."""
    with by_hand(watched.path) as hand:
        (root,) = hand.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'records_at'"
        ).fetchone()
    watched.checkpoint()
    watched.write(1)
    watched.look()
    change(watched.path, (root - 1) * PAGE, lambda byte: 0xFF)
    for _ in range(5):
        assert watched.look() is not None
