"""What opens a circuit beyond failures in a row: rates over the last calls, or the last seconds."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from fractions import Fraction

import pytest

from flowcache.resilience.breaker import (
    Breaker,
    BreakerSettings,
    State,
    Transition,
    Unit,
    Window,
)
from flowcache.resilience.breaker.windows import BUCKETS, CallWindow, Tally, TimeWindow
from tests.unit.resilience.circuits import admitted, fail, ignore, reasons, succeed

SLOW, QUICK = 5.0, 0.1


def rated(
    size: int = 5, unit: Unit = Unit.CALLS, *, failures: int = 0, min_calls: int = 5
) -> Breaker:
    """Return a circuit that opens at half of the calls failed, or longer than four seconds."""
    settings = BreakerSettings(
        failures=failures,
        window=Window(size, unit),
        min_calls=min_calls,
        failure_rate=0.5,
        slow_seconds=4.0,
        slow_rate=0.5,
    )
    return Breaker(settings)


class Listener:
    """Hear a circuit from now on."""

    def __init__(self, breaker: Breaker) -> None:
        self._heard: list[Transition] = []
        breaker._on_transition = self._heard.append

    @property
    def reasons(self) -> list[str]:
        return reasons(self._heard)


class TestFailureRate:
    def test_it_is_not_judged_before_enough_calls(self) -> None:
        """Four failures of four are no rate when five calls are wanted."""
        breaker = rated()
        fail(breaker, times=4)
        assert breaker.state(0.0) is State.CLOSED
        assert breaker.snapshot(0.0).failure_rate == 1.0
        fail(breaker)
        assert breaker.state(0.0) is State.OPEN

    def test_a_success_that_completes_the_sample_may_open(self) -> None:
        """Three failures and two successes are 60 %, whichever came last."""
        breaker = rated()
        fail(breaker, times=3)
        succeed(breaker)
        assert breaker.state(0.0) is State.CLOSED
        succeed(breaker)
        assert breaker.state(0.0) is State.OPEN

    @pytest.mark.parametrize(
        ("rate", "calls", "failed"), [(0.5, 10, 5), (0.07, 100, 7), (0.29, 100, 29), (1.0, 3, 3)]
    )
    def test_the_rate_itself_is_enough(self, rate: float, calls: int, failed: int) -> None:
        """It opens at the rate and not above it, though 0.07 * 100 is more than 7 in floats."""
        for times, expected in ((failed - 1, State.CLOSED), (failed, State.OPEN)):
            window = Window(calls, Unit.CALLS)
            breaker = Breaker(
                BreakerSettings(failures=0, window=window, min_calls=calls, failure_rate=rate)
            )
            fail(breaker, times=times)
            succeed(breaker, times=calls - times)
            assert breaker.state(0.0) is expected

    def test_it_sees_failures_that_never_come_in_a_row(self) -> None:
        """Every second call fails: the row sees nothing, the rate does."""
        breaker = rated(size=20, failures=5, min_calls=10)
        for _ in range(4):
            succeed(breaker)
            fail(breaker)
        assert breaker.state(0.0) is State.CLOSED
        succeed(breaker)
        fail(breaker)
        assert breaker.state(0.0) is State.OPEN

    def test_ignored_calls_are_not_in_the_sample(self) -> None:
        """A client's mistakes neither fill the sample nor dilute the rate."""
        breaker = rated()
        fail(breaker, times=4)
        ignore(breaker, times=100)
        assert breaker.snapshot(0.0).calls == 4
        fail(breaker)
        assert breaker.state(0.0) is State.OPEN

    def test_late_results_are_not_in_the_sample(self) -> None:
        """What was under way when the circuit opened says nothing about the time after."""
        breaker = rated()
        stragglers = [admitted(breaker) for _ in range(10)]
        fail(breaker, times=5)
        succeed(breaker, 10.0)
        for permit in stragglers:
            breaker.fail(permit, 10.0)
        assert breaker.snapshot(10.0).calls == 0
        assert breaker.state(10.0) is State.CLOSED

    def test_a_recovered_circuit_has_an_empty_sample(self) -> None:
        """The failures that opened it are not held against it when it is closed again."""
        breaker = rated()
        fail(breaker, times=5)
        succeed(breaker, 10.0)
        assert breaker.snapshot(10.0).calls == 0
        fail(breaker, 10.0, times=4)
        assert breaker.state(10.0) is State.CLOSED


class TestSlowCalls:
    def test_answers_that_take_too_long_open(self) -> None:
        """Three of five slower than four seconds: every call succeeded, and nobody could wait."""
        breaker = rated()
        told = Listener(breaker)
        for seconds in (SLOW, QUICK, SLOW, QUICK, SLOW):
            succeed(breaker, seconds=seconds)
        assert told.reasons == ["slow call rate"]

    def test_the_limit_itself_is_not_slow(self) -> None:
        """Slow is longer than ``slow_seconds``."""
        breaker = rated()
        succeed(breaker, seconds=4.0, times=5)
        assert breaker.snapshot(0.0).slow_rate == 0.0
        succeed(breaker, seconds=math.nextafter(4.0, 5.0), times=3)
        assert breaker.state(0.0) is State.OPEN

    def test_a_timeout_is_slow_as_well_as_failed(self) -> None:
        """Two of five time out and one is slow: neither rate alone would see it as 60 %."""
        breaker = rated()
        told = Listener(breaker)
        fail(breaker, seconds=SLOW, times=2)
        succeed(breaker, seconds=QUICK, times=2)
        succeed(breaker, seconds=SLOW)
        assert told.reasons == ["slow call rate"]

    def test_a_refused_connection_is_not_slow(self) -> None:
        """A failure that kept nobody waiting counts as a failure only."""
        breaker = rated()
        fail(breaker, seconds=QUICK, times=2)
        succeed(breaker, seconds=SLOW, times=2)
        snapshot = breaker.snapshot(0.0)
        assert (snapshot.failure_rate, snapshot.slow_rate) == (0.5, 0.5)
        succeed(breaker, seconds=QUICK)
        assert breaker.state(0.0) is State.CLOSED

    def test_a_failure_is_the_first_reason(self) -> None:
        """When both rates are too high, Redis not answering is the worse news."""
        breaker = rated()
        told = Listener(breaker)
        fail(breaker, seconds=SLOW, times=5)
        assert told.reasons == ["failure rate"]

    def test_the_rate_itself_is_enough(self) -> None:
        """It opens at the rate and not above it: five of ten are half."""
        for slow, expected in ((4, State.CLOSED), (5, State.OPEN)):
            breaker = rated(size=10, min_calls=10)
            succeed(breaker, seconds=SLOW, times=slow)
            succeed(breaker, seconds=QUICK, times=10 - slow)
            assert breaker.state(0.0) is expected

    def test_unset_nothing_is_slow(self) -> None:
        """Without ``slow_seconds`` an hour is as good as a millisecond."""
        breaker = Breaker(BreakerSettings(window=Window(5, Unit.CALLS), slow_rate=0.01))
        succeed(breaker, seconds=3600.0, times=5)
        assert breaker.state(0.0) is State.CLOSED
        assert breaker.snapshot(0.0).slow_rate == 0.0


class TestWhicheverComesFirst:
    def test_the_row_is_named_when_the_row_trips(self) -> None:
        """Five in a row within a large sample."""
        breaker = rated(size=100, failures=5, min_calls=50)
        told = Listener(breaker)
        succeed(breaker, times=20)
        fail(breaker, times=5)
        assert told.reasons == ["consecutive failures"]

    def test_the_row_is_named_when_both_trip_at_once(self) -> None:
        """One reason is told, and once."""
        breaker = rated(failures=5)
        told = Listener(breaker)
        fail(breaker, times=5)
        assert told.reasons == ["consecutive failures"]

    def test_the_sample_hears_what_the_row_hears(self) -> None:
        """Both count every result, whoever has the first word."""
        breaker = rated(size=10, failures=3, min_calls=10)
        fail(breaker, times=2)
        succeed(breaker)
        snapshot = breaker.snapshot(0.0)
        assert (snapshot.failures, snapshot.calls) == (0, 3)
        assert snapshot.failure_rate == pytest.approx(2 / 3)

    def test_the_row_may_be_off(self) -> None:
        """With ``failures = 0`` only the rates count."""
        breaker = rated(size=100, min_calls=100)
        fail(breaker, times=99)
        assert breaker.state(0.0) is State.CLOSED
        assert breaker.snapshot(0.0).failures == 0
        fail(breaker)
        assert breaker.state(0.0) is State.OPEN

    def test_everything_may_be_off(self) -> None:
        """Nothing opens a circuit that has nothing to judge by."""
        breaker = Breaker(BreakerSettings(failures=0))
        fail(breaker, times=1000)
        assert breaker.state(0.0) is State.CLOSED


class TestCallsWindow:
    def test_the_oldest_call_falls_out(self) -> None:
        """Of five calls, each new one takes the place of the oldest."""
        breaker = rated()
        fail(breaker, times=2)
        succeed(breaker, times=3)
        assert breaker.snapshot(0.0).failure_rate == 0.4
        succeed(breaker)
        assert breaker.snapshot(0.0).failure_rate == 0.2
        succeed(breaker)
        assert breaker.snapshot(0.0).failure_rate == 0.0
        assert breaker.snapshot(0.0).calls == 5

    def test_calls_have_no_age(self) -> None:
        """The last five are the last five, a day later, too."""
        breaker = rated()
        fail(breaker, 0.0, times=2)
        succeed(breaker, 86_400.0, times=2)
        fail(breaker, 86_400.0)
        assert breaker.state(86_400.0) is State.OPEN

    def test_a_window_smaller_than_the_least_calls_is_judged_when_full(self) -> None:
        """A ring of three never holds five: it would never be judged."""
        breaker = rated(size=3, min_calls=5)
        fail(breaker, times=2)
        assert breaker.state(0.0) is State.CLOSED
        fail(breaker)
        assert breaker.state(0.0) is State.OPEN

    def test_the_sums_are_those_of_the_ring(self) -> None:
        """After any number of calls: exactly the last ones, whatever they were."""
        window = CallWindow(4)
        kinds = list(itertools.product([False, True], repeat=2))
        history: list[tuple[bool, bool]] = []
        for failed, slow in itertools.islice(itertools.cycle(kinds + kinds[::-1]), 50):
            window.add(0.0, failed, slow)
            history.append((failed, slow))
            last = history[-4:]
            assert window.tally(0.0) == Tally(
                len(last), sum(failed for failed, _ in last), sum(slow for _, slow in last)
            )


class TestSecondsWindow:
    def test_old_calls_fall_out(self) -> None:
        """Failures of more than the window ago are forgotten."""
        breaker = rated(size=20, unit=Unit.SECONDS)
        fail(breaker, 0.0, times=4)
        assert breaker.snapshot(17.9).calls == 4
        assert breaker.snapshot(20.0).calls == 0
        fail(breaker, 20.0)
        assert breaker.state(20.0) is State.CLOSED
        assert breaker.snapshot(20.0).calls == 1

    def test_it_is_judged_over_several_stretches(self) -> None:
        """Three good seconds and three bad ones, one call each: half of six."""
        breaker = rated(size=20, unit=Unit.SECONDS)
        for now in (0.0, 1.0, 2.0):
            succeed(breaker, now)
        for now in (3.0, 4.0):
            fail(breaker, now)
            assert breaker.state(now) is State.CLOSED
        fail(breaker, 5.0)
        assert breaker.state(5.0) is State.OPEN

    def test_a_tenth_falls_out_at_a_time(self) -> None:
        """One call a bucket: as each stretch ends, one call goes."""
        window = TimeWindow(10.0)
        for second in range(BUCKETS):
            window.add(second + 0.5, True, False)
        assert window.tally(9.5) == Tally(10, 10, 0)
        for second in range(BUCKETS):
            assert window.tally(10.0 + second).calls == BUCKETS - 1 - second
        assert window.tally(1e9).calls == 0

    def test_the_sums_are_those_of_the_buckets(self) -> None:
        """What `add` keeps and what `tally` counts anew is the same, after pauses of any length."""
        window = TimeWindow(10.0)
        history: list[float] = []
        now = 0.0
        for step in itertools.islice(itertools.cycle([0.0, 0.3, 1.0, 4.0, 9.5, 0.1, 12.0]), 100):
            now += step
            window.add(now, len(history) % 3 == 0, len(history) % 2 == 0)
            history.append(now)
            kept = [at for at in history if now // 1.0 - at // 1.0 < BUCKETS]
            first = len(history) - len(kept)
            assert window.tally(now) == Tally(
                len(kept),
                sum(number % 3 == 0 for number in range(first, len(history))),
                sum(number % 2 == 0 for number in range(first, len(history))),
            )
            assert (window.calls, window.failed, window.slow) == window.tally(now)

    def test_a_clock_before_zero_is_as_good_as_any(self) -> None:
        """Monotonic seconds may begin anywhere."""
        window = TimeWindow(10.0)
        window.add(-25.5, True, False)
        window.add(-24.5, False, True)
        assert window.tally(-24.5) == Tally(2, 1, 1)
        assert window.tally(-15.5) == Tally(1, 0, 1)

    def test_a_moment_from_before_counts_for_the_newest_stretch(self) -> None:
        """A caller that read the clock, and was overtaken, is counted and harms nobody."""
        window = TimeWindow(10.0)
        window.add(100.0, False, False)
        window.add(3.0, True, False)
        assert window.tally(100.0) == Tally(2, 1, 0)
        assert window.tally(3.0) == Tally(2, 1, 0)

    def test_looking_far_ahead_changes_nothing(self) -> None:
        """An inspector's look doesn't age the window."""
        window = TimeWindow(10.0)
        window.add(0.0, True, True)
        window.tally(1e6)
        assert window.tally(0.0) == Tally(1, 1, 1)


@pytest.mark.parametrize("window", [CallWindow(1000), TimeWindow(60.0)])
def test_memory_is_bounded(window: CallWindow | TimeWindow) -> None:
    """A hundred thousand calls leave a window no larger than a thousand did."""

    def run(calls: int) -> None:
        for number in range(calls):
            window.add(number / 100, number % 7 == 0, number % 5 == 0)

    run(1000)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        run(100_000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2048


def test_rates_are_exact_fractions() -> None:
    """Any share that can be written as a decimal is met exactly: k of n is k / n."""
    for calls in range(1, 60):
        for failed in range(1, calls + 1):
            rate = float(Fraction(failed, calls))
            settings = BreakerSettings(
                failures=0,
                window=Window(calls, Unit.CALLS),
                min_calls=calls,
                failure_rate=rate,
            )
            breaker = Breaker(settings)
            succeed(breaker, times=calls - failed)
            fail(breaker, times=failed)
            assert breaker.state(0.0) is State.OPEN, (failed, calls)
