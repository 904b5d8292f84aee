"""The newest audit records, and no more of them than there is room for."""

from __future__ import annotations

import pytest

from flowcache.audit.ring import AuditRing
from flowcache.ports import AuditRecord


def record(number: float, client: str | None = "flow") -> AuditRecord:
    return AuditRecord(number, f"id-{number}", client, None, None, "GET", b"k", "ok", True, 0.5)


def filled(capacity: int, count: int, client: str | None = "flow") -> AuditRing:
    ring = AuditRing(capacity)
    for number in range(count):
        ring.record(record(number, client))
    return ring


def numbers(records: list[AuditRecord]) -> list[float]:
    return [kept.at for kept in records]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 1000])
def test_it_keeps_the_newest_and_never_more_than_its_capacity(count: int) -> None:
    """However many calls come, the ring stays as large as it was made, and counts them all."""
    ring = filled(3, count)
    assert numbers(ring.newest(count + 1)) == list(range(max(0, count - 3), count))
    assert ring.total == count


@pytest.mark.parametrize(
    ("limit", "expected"), [(-1, []), (0, []), (1, [9]), (2, [8, 9]), (5, [5, 6, 7, 8, 9])]
)
def test_the_newest_are_last(limit: int, expected: list[int]) -> None:
    """As many as asked for, the newest of them at the end."""
    assert numbers(filled(5, 10).newest(limit)) == expected


def test_a_ring_without_room_keeps_nothing() -> None:
    """A capacity of 0 keeps no records, and still counts them."""
    for client in ("flow", None):
        ring = filled(0, 5, client)
        assert ring.newest(10) == []
        assert ring.total == 5


def test_what_was_handed_out_stays_as_it_was() -> None:
    """A reader of the records is not disturbed by those that come later."""
    ring = filled(3, 2)
    before = ring.newest(3)
    ring.record(record(2))
    assert numbers(before) == [0, 1]


def test_strangers_wash_nothing_out() -> None:
    """However often somebody without a credential knocks, what clients did stays."""
    ring = filled(10, 10)
    for number in range(10, 1000):
        ring.record(record(number, None))
    assert numbers(ring.newest(1000)) == [*range(10), 999]
    assert ring.total == 1000


@pytest.mark.parametrize(("capacity", "kept"), [(1, 1), (10, 1), (11, 2), (1000, 100)])
def test_strangers_have_a_tenth_of_the_room(capacity: int, kept: int) -> None:
    """Attempts without a known client are kept, in a bounded number too."""
    assert len(filled(capacity, 5000, None).newest(5000)) == kept


def test_strangers_and_clients_are_one_story() -> None:
    """Whoever it was: records are in order of time, the newest last, and the limit counts all."""
    ring = AuditRing(100)
    for number in range(10):
        ring.record(record(number, None if number % 3 else "flow"))
    assert numbers(ring.newest(100)) == list(range(10))
    assert numbers(ring.newest(4)) == [6, 7, 8, 9]
