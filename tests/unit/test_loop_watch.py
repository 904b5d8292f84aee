"""The watch of the event loop: what it measures, and a clock that stands still with the loop."""

from __future__ import annotations

import asyncio
from time import monotonic, sleep

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from flowcache.loop_watch import PERIOD, TOLERANCE, LoopWatch


class HandWatch(LoopWatch):
    """A watch whose clock and beats are moved by hand."""

    __slots__ = ("lags", "now")

    def __init__(self) -> None:
        self.now = 100.0
        self.lags: list[float] = []
        super().__init__(lambda: self.now, self.lags.append)

    def beat(self, after: float) -> None:
        self.now += after
        assert self._timer is not None
        self._timer.cancel()
        self._beat()


@pytest.fixture
async def watch() -> HandWatch:
    watch = HandWatch()
    watch.start()
    return watch


async def test_beats_in_time_lose_nothing(watch: HandWatch) -> None:
    """While the loop turns, the second clock runs as the first does."""
    for _ in range(100):
        watch.beat(PERIOD)
    assert watch.listened() == pytest.approx(watch.now)
    assert watch.lost == 0
    assert max(watch.lags) == pytest.approx(0, abs=1e-9)


async def test_a_small_lag_is_measured_and_forgiven(watch: HandWatch) -> None:
    """A loop that is late by a few milliseconds sees replies soon enough: it loses nothing."""
    watch.beat(PERIOD + TOLERANCE)
    assert watch.lags == [pytest.approx(TOLERANCE)]
    assert watch.listened() == pytest.approx(watch.now)


async def test_a_pause_counts_for_little(watch: HandWatch) -> None:
    """However long the loop was held up, it counts as one period and the tolerance at most."""
    before = watch.listened()
    watch.beat(5.0)
    assert watch.listened() - before == pytest.approx(PERIOD + TOLERANCE)
    assert watch.lost == pytest.approx(5.0 - PERIOD - TOLERANCE)
    assert watch.lag == watch.longest == pytest.approx(5.0 - PERIOD)
    watch.beat(PERIOD)
    assert watch.lag == pytest.approx(0, abs=1e-9)
    assert watch.longest == pytest.approx(5.0 - PERIOD)


async def test_it_stands_still_before_the_late_beat_fires(watch: HandWatch) -> None:
    """Whoever asks inside of a long turn, or before the watch had its turn, is told the truth."""
    before = watch.listened()
    watch.now += 5.0
    inside = watch.listened()
    assert inside - before == pytest.approx(PERIOD + TOLERANCE)
    watch.beat(1.0)
    assert watch.listened() == pytest.approx(inside)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10)), max_size=30))
def test_it_never_runs_back_and_never_faster(steps: list[tuple[bool, float]]) -> None:
    """Over any history it goes forward, and no faster than the clock it is made of."""

    async def live() -> None:
        watch = HandWatch()
        watch.start()
        try:
            for beats, seconds in steps:
                now, heard = watch.now, watch.listened()
                if beats:
                    watch.beat(seconds)
                else:
                    watch.now += seconds
                passed = watch.listened() - heard
                assert -1e-9 <= passed <= watch.now - now + 1e-9
        finally:
            watch.close()

    asyncio.run(live())


async def test_unwatched_it_is_the_clock() -> None:
    """Before its start and after its end nothing is lost; what was lost stays lost."""
    watch = HandWatch()
    watch.now += 1000
    assert watch.listened() == watch.now
    watch.start()
    watch.now += 5
    before = watch.listened()
    watch.close()
    assert watch.listened() == pytest.approx(before)
    watch.now += 1000
    assert watch.listened() == pytest.approx(before + 1000)
    watch.close()


async def test_a_log_line_a_minute(watch: HandWatch) -> None:
    """A loop that lags is reported at once, then once a minute, with what came between."""
    with capture_logs() as lines:
        for _ in range(10):
            watch.beat(1.0)
        watch.beat(3.0)
        for _ in range(57):
            watch.beat(1.0)
    assert [line["event"] for line in lines] == ["event_loop_lagged"] * 2
    assert dict(lines[0]) == {
        "event": "event_loop_lagged",
        "log_level": "warning",
        "lag_ms": 980,
        "longest_ms": 980,
        "times": 1,
        "lost_seconds": 0.95,
    }
    assert lines[1]["longest_ms"] == 2980
    assert lines[1]["times"] > 50


async def test_no_log_line_for_a_small_lag(watch: HandWatch) -> None:
    """What no caller feels is not logged."""
    with capture_logs() as lines:
        for _ in range(100):
            watch.beat(PERIOD + 0.09)
    assert lines == []


async def test_a_real_loop_that_is_blocked() -> None:
    """A callback that blocks a real loop is seen, and costs the second clock next to nothing."""
    watch = LoopWatch(monotonic)
    watch.start()
    began, heard = monotonic(), watch.listened()
    sleep(0.4)  # noqa: ASYNC251 - to block the loop is the point
    await asyncio.sleep(0.001)
    took, listened = monotonic() - began, watch.listened() - heard
    watch.close()
    assert took >= 0.4
    assert took - listened >= 0.4 - PERIOD - TOLERANCE - 0.001
    assert watch.longest >= 0.4 - PERIOD - 0.001
