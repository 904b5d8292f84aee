"""A history in numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from chaos.figures import Share, measure, percentile
from chaos.history import OK, Call, Strike, slot_of

HERE, THERE = "register:plain:{1}:1", "register:plain:{2}:1"
SHARD = (range(slot_of(HERE), slot_of(HERE) + 1),)
BEGAN, ENDED, DEADLINE = 100.0, 110.0, 0.8


def call(at: float, key: str = HERE, outcome: str = OK, *, reads: bool = True, **more: Any) -> Call:
    """Make a call that leaves in time and takes ten milliseconds."""
    times = {"scheduled": at, "woken": at, "answered": at + 0.01} | more
    operation, seq = ("GET", 0) if reads else ("SET", 1)
    return Call(operation, key, seq, 1, False, outcome=outcome, **times)  # type: ignore[arg-type]


def figures(calls: list[Call], *strikes: Strike) -> Any:
    return measure(calls, [], began=BEGAN, ended=ENDED, deadline=DEADLINE, strikes=strikes)


def test_latency_is_the_services_and_lateness_the_generators() -> None:
    """What the generator was late itself is not blamed on the service, and is told."""
    late = call(101, woken=101.5, answered=101.6)
    told = figures([late])
    assert told.worst == pytest.approx(0.1)
    assert told.generator_late == pytest.approx(0.5)
    assert told.in_time == Share(1, 1)


def test_in_time_is_the_deadline_and_its_grace() -> None:
    """An answer 19 ms after the deadline is in time, one 21 ms after it isn't, however it ended."""
    calls = [call(101, answered=101.819), call(102, answered=102.821, outcome="deadline_exceeded")]
    assert figures(calls).in_time == Share(1, 2)


def test_failures_are_counted_by_outcome() -> None:
    """Each failed call counts under its outcome."""
    calls = [call(101), call(102, outcome="lost"), call(103, outcome="lost")]
    told = figures(calls)
    assert told.failed == Counter(lost=2)
    assert told.succeeded == Share(1, 3)


def test_outage_is_the_longest_time_without_a_success() -> None:
    """The outage is between two successes, or a success and the edge of the load, by class."""
    calls = [call(102), call(103), call(105, reads=False), call(104, outcome="lost")]
    told = figures(calls)
    assert told.read_outage == pytest.approx(110 - 103.01)
    assert told.write_outage == pytest.approx(5.01)


def test_outage_is_of_what_was_struck() -> None:
    """Successes on other shards hide no outage, and each strike's is taken by itself."""
    calls = [call(101), call(105, THERE), call(109)]
    assert figures(calls, Strike("x", SHARD, 101)).read_outage == pytest.approx(8)


def test_others_are_counted_from_the_strike_on() -> None:
    """Failures elsewhere count against the other shards after the strike only."""
    strike = Strike("killed", SHARD, 104)
    calls = [call(103, THERE, "lost"), call(105, THERE), call(106, THERE, "lost"), call(106)]
    assert figures(calls, strike).others == Share(1, 2)
    assert figures(calls, Strike("all", (range(16_384),), 104)).others is None


def test_reads_are_counted_at_once_and_later() -> None:
    """Reads of struck keys count in the first second, and then until the failover is over."""
    strike = Strike("killed", SHARD, 104, reads_survive=True, failed_over=107)
    calls = [call(104.5, outcome="lost"), call(104.6), call(106), call(108, outcome="lost")]
    told = figures(calls, strike)
    assert (told.reads_at_once, told.reads_later) == (Share(1, 2), Share(1, 1))


def test_recovery_is_when_the_last_write_failed() -> None:
    """Writes have recovered when none fails any more, not when the first succeeds."""
    strike = Strike("killed", SHARD, 104, failed_over=106)
    calls = [
        call(105, outcome="lost", reads=False),
        call(106.5, reads=False),
        call(106.7, outcome="lost", reads=False),
        call(107, reads=False),
        call(109, THERE, "lost", reads=False),
    ]
    assert figures(calls, strike).writes_recovered == pytest.approx(0.7)
    assert figures(calls[:2], strike).writes_recovered == 0
    assert figures(calls, Strike("cut", SHARD, 104)).writes_recovered is None


def test_recovery_is_the_worst_of_all_strikes() -> None:
    """With several strikes each has its time until the next, and the slowest recovery counts."""
    first = Strike("killed", SHARD, 102, failed_over=103)
    second = Strike("killed", SHARD, 106, failed_over=107)
    calls = [
        call(103.4, outcome="lost", reads=False),
        call(105, reads=False),
        call(107.1, outcome="lost", reads=False),
        call(108, reads=False),
    ]
    assert figures(calls, first, second).writes_recovered == pytest.approx(0.4)


def test_recovery_that_does_not_come_is_infinite() -> None:
    """Where writes still fail at the end, nobody knows when they would have ceased to."""
    strike = Strike("killed", SHARD, 104, failed_over=106)
    calls = [call(107, reads=False), call(109, outcome="lost", reads=False)]
    assert figures(calls, strike).writes_recovered == float("inf")


@pytest.mark.parametrize(("share", "value"), [(0.0, 0), (0.5, 5), (0.999, 9), (1.0, 9)])
def test_percentile(share: float, value: float) -> None:
    """A percentile is one of the values, the greatest at the most."""
    assert percentile(reversed(range(10)), share) == value
    assert percentile([], share) == 0


def test_share_never_rounds_up_to_all() -> None:
    """A hundred per cent means all."""
    assert str(Share(7, 7)) == "100%"
    assert str(Share(99_999, 100_000)) != "100%"
