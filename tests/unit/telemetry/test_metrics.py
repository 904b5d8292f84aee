"""The counters: what came of the calls, and nothing that a caller could make grow."""

from __future__ import annotations

import msgspec

from flowcache.metrics.counters import OTHER, Counters, merge
from flowcache.metrics.latency import BUCKETS, bucket_of
from flowcache.operations.catalogue import CATALOGUE
from flowcache.status import OperationStats
from tests.unit.telemetry.statuses import counted


def test_a_call_is_counted_under_its_operation() -> None:
    """Outcome, hit, latency: each call adds to all of them, once."""
    stats = counted(
        ("GET", "ok", True, 0.5), ("GET", "ok", False, 1.5), ("GET", "internal", None, 2.0)
    ).stats()["GET"]
    assert stats.outcomes == {"ok": 2, "internal": 1}
    assert (stats.hits, stats.misses, stats.total_ms) == (1, 1, 4.0)
    assert sum(stats.latency) == 3
    assert all(stats.latency[bucket_of(ms)] == 1 for ms in (0.5, 1.5, 2.0))


def test_neither_a_write_nor_a_failure_is_a_hit_or_a_miss() -> None:
    """Where nothing was looked up, nothing was found or missed."""
    stats = counted(("SET", "ok", None, 1.0), ("SET", "deadline_exceeded", None, 1.0)).stats()
    assert (stats["SET"].hits, stats["SET"].misses) == (0, 0)


def test_operations_are_there_before_their_first_call() -> None:
    """A dashboard sees every operation from the start."""
    assert list(Counters(CATALOGUE).stats()) == [*CATALOGUE, OTHER]


def test_no_caller_can_make_the_operations_grow() -> None:
    """Whatever operations are named, unknown ones and unreadable ones are all ``other``."""
    counters = Counters(["GET"])
    for name in (None, "", "INCR", "get", OTHER, *(f"X{number}" for number in range(1000))):
        counters.record(name, "invalid_request", None, 0.1)
    stats = counters.stats()
    assert list(stats) == ["GET", OTHER]
    assert stats[OTHER].outcomes == {"invalid_request": 1005}
    assert stats["GET"].outcomes == {}


def test_what_was_handed_out_stays_as_it_was() -> None:
    """Stats are a copy: counting goes on without them."""
    counters = counted(("GET", "ok", True, 0.5))
    before = counters.stats()["GET"]
    counters.record("GET", "ok", True, 0.5)
    assert before.outcomes == {"ok": 1}
    assert (before.hits, sum(before.latency)) == (1, 1)


def test_workers_add_up() -> None:
    """The counts of two workers together are those of one that took all calls."""
    calls = [("GET", "ok", True, 0.5), ("GET", "ok", False, 7.5), ("GET", "internal", None, 2.0)]
    one, two = counted(*calls[:1]).stats()["GET"], counted(*calls[1:]).stats()["GET"]
    assert merge([one, two]) == counted(*calls).stats()["GET"]
    assert (one.outcomes, two.outcomes) == ({"ok": 1}, {"ok": 1, "internal": 1})


def test_nothing_adds_up_to_nothing() -> None:
    """Without workers there are no calls."""
    assert merge([]) == OperationStats({}, 0, 0, 0.0, [0] * BUCKETS)


def test_stats_travel_between_workers() -> None:
    """What is counted survives the way to a sibling."""
    stats = counted(("GET", "ok", True, 0.5)).stats()["GET"]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(stats), type=OperationStats) == stats
