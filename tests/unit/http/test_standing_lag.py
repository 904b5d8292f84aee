"""When the event loop is too slow for all calls, a share of them is refused, and only then."""

from __future__ import annotations

import asyncio
from time import monotonic, sleep

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache.calls.admission import Admission
from flowcache.calls.standing_lag import StandingLag
from flowcache.errors import Overloaded
from flowcache.loop_watch import LoopWatch

DEADLINE = 0.8
LATE = 0.25
"""Seconds: four such turns are longer than the deadline."""


def refused(lag: StandingLag, calls: int = 1000) -> float:
    """Return the share of so many calls that is refused."""
    return sum(lag.refuses() for _ in range(calls)) / calls


def lagging(beats: int = 50) -> StandingLag:
    lag = StandingLag(DEADLINE)
    for _ in range(beats):
        lag.record(LATE)
    return lag


def test_a_loop_in_time_refuses_nobody() -> None:
    """Nor does one whose lag leaves time enough for every call."""
    lag = StandingLag(DEADLINE)
    for seconds in [0.0, 0.01, 0.19] * 100:
        lag.record(seconds)
    assert refused(lag) == 0


@pytest.mark.parametrize("pause", [0.3, 5.0, 3600.0])
def test_one_pause_is_no_overload(pause: float) -> None:
    """A worker that was stopped, and goes on, answers everybody; one in ten beats is no matter."""
    lag = StandingLag(DEADLINE)
    for _ in range(100):
        lag.record(pause)
        for _ in range(9):
            lag.record(0.001)
    assert refused(lag) == 0


def test_a_standing_lag_refuses_more_and_more() -> None:
    """The share grows while the lag stands, and some are always let through."""
    assert refused(lagging(2)) == 0
    shares = [refused(lagging(beats)) for beats in range(3, 50)]
    assert shares == sorted(shares)
    assert 0.1 < shares[0] < 0.4
    assert 0.85 < shares[-1] < 0.95


def test_it_ends_with_the_lag() -> None:
    """When the loop is in time again, refusals end within some seconds."""
    lag = lagging()
    for _ in range(100):
        lag.record(0.0)
    assert lag.share == 0
    assert refused(lag) == 0


@given(st.lists(st.floats(0, 100), max_size=200))
def test_never_all(lags: list[float]) -> None:
    """Whatever the loop does, a tenth of the calls gets in."""
    lag = StandingLag(DEADLINE)
    for seconds in lags:
        lag.record(seconds)
        assert 0 <= lag.share <= 0.9
    assert refused(lag) <= 0.91


def test_a_refused_call_takes_no_place() -> None:
    """It is refused before anything is spent on it, and says so."""
    admission = Admission(10, lag=lagging())
    first = admission.enter("flow")
    refusals = 0
    for _ in range(100):
        try:
            admission.leave(admission.enter("flow"))
        except Overloaded:
            refusals += 1
    assert 80 < refusals < 95
    admission.leave(first)
    assert admission.at_work == 0


async def test_on_a_real_loop() -> None:
    """A loop each of whose turns takes too long has calls refused, and not any more afterwards."""
    lag = StandingLag(0.1)
    watch = LoopWatch(monotonic, lag.record)
    watch.start()
    while not lag.share:
        sleep(0.05)  # noqa: ASYNC251 - to hold up the loop is the point
        await asyncio.sleep(0)
    while lag.share:  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0.01)
    watch.close()
    assert watch.longest >= 0.025
