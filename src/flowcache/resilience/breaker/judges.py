"""What makes of results a reason to change state.

A judge hears the results of one generation of a circuit, in the order in which they come in, and is
then thrown away, so that nothing it counted outlives its generation. To add a way of tripping,
write another one and have `judge_of_calls` build it.

**Slow calls.** A call is slow if it took longer than ``slow_seconds``, whatever came of it: the
slow call rate is the share of callers who were kept waiting. So a timeout is a failure and slow,
while a refused connection is a failure and quick; and an outage in which a third of the calls time
out and another third are merely slow is seen as the one that it is.

**A success may trip.** Rates are judged after each result. The call that makes ``min_calls`` full
may be a good one, and a window of time may lose its good calls first.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

from flowcache.resilience.breaker.records import Reason
from flowcache.resilience.breaker.settings import BreakerSettings, Unit
from flowcache.resilience.breaker.windows import NO_CALLS, Tally, window_of

__all__ = ["UNJUDGED", "Judge", "judge_of_calls", "judge_of_probes"]


class Judge(Protocol):
    """One that hears results and says when it is enough."""

    @property
    def failures(self) -> int:
        """Failures in a row, where somebody counts them."""

    def succeeded(self, now: float, seconds: float) -> Reason | None:
        """Note a success that took ``seconds``; return why the circuit has to move, if it has."""

    def failed(self, now: float, seconds: float) -> Reason | None:
        """Note a failure that took ``seconds``; return why the circuit has to move, if it has."""

    def tally(self, now: float) -> Tally:
        """Return the results that rates are taken of. Changes nothing."""


def judge_of_calls(settings: BreakerSettings) -> Judge:
    """Return who judges a closed circuit."""
    if settings.window is None:
        return _Row(settings.failures) if settings.failures else UNJUDGED
    rates = _Rates(settings)
    return _RowAndRates(_Row(settings.failures), rates) if settings.failures else rates


def judge_of_probes(settings: BreakerSettings) -> Judge:
    """Return who judges a half-open one."""
    return _Probes(settings)


class _Unjudged:
    """Hear everything and say nothing: for a circuit whose results are not to count."""

    __slots__ = ()

    failures: Final = 0

    def succeeded(self, _now: float, _seconds: float) -> None:
        """Drop a success."""

    def failed(self, _now: float, _seconds: float) -> None:
        """Drop a failure."""

    def tally(self, _now: float) -> Tally:
        return NO_CALLS


UNJUDGED: Final = _Unjudged()


class _Row:
    """Trip after so many failures in a row."""

    __slots__ = ("_limit", "failures")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.failures = 0

    def succeeded(self, _now: float, _seconds: float) -> None:
        """End the row."""
        self.failures = 0

    def failed(self, _now: float, _seconds: float) -> Reason | None:
        self.failures += 1
        return Reason.CONSECUTIVE_FAILURES if self.failures >= self._limit else None

    def tally(self, _now: float) -> Tally:
        return NO_CALLS


class _Rates:
    """Trip when too large a share of the calls in a window fail or are slow."""

    __slots__ = ("_failure_rate", "_min_calls", "_slow_rate", "_slow_seconds", "_window")

    failures: Final = 0

    def __init__(self, settings: BreakerSettings) -> None:
        window = settings.window
        assert window is not None
        self._window = window_of(window)
        # A ring of 10 calls never holds 20: it is judged when it is full.
        self._min_calls = (
            min(settings.min_calls, window.size)
            if window.unit is Unit.CALLS
            else settings.min_calls
        )
        self._failure_rate = settings.failure_rate
        self._slow_seconds, self._slow_rate = _slowness(settings)

    def succeeded(self, now: float, seconds: float) -> Reason | None:
        self._window.add(now, False, seconds > self._slow_seconds)
        return self._verdict()

    def failed(self, now: float, seconds: float) -> Reason | None:
        self._window.add(now, True, seconds > self._slow_seconds)
        return self._verdict()

    def _verdict(self) -> Reason | None:
        window = self._window
        calls = window.calls
        if calls < self._min_calls:
            return None
        # Divided, not multiplied: 7 of 100 is exactly the 0.07 that somebody wrote, 0.07 * 100
        # is more than 7.
        if window.failed / calls >= self._failure_rate:
            return Reason.FAILURE_RATE
        if window.slow / calls >= self._slow_rate:
            return Reason.SLOW_CALL_RATE
        return None

    def tally(self, now: float) -> Tally:
        return self._window.tally(now)


class _RowAndRates:
    """Hear two judges. The row has the first word."""

    __slots__ = ("_rates", "_row")

    def __init__(self, row: _Row, rates: _Rates) -> None:
        self._row = row
        self._rates = rates

    @property
    def failures(self) -> int:
        return self._row.failures

    def succeeded(self, now: float, seconds: float) -> Reason | None:
        self._row.succeeded(now, seconds)
        return self._rates.succeeded(now, seconds)

    def failed(self, now: float, seconds: float) -> Reason | None:
        # A row that trips ends the generation: what the rates did not hear is thrown away anyway.
        return self._row.failed(now, seconds) or self._rates.failed(now, seconds)

    def tally(self, now: float) -> Tally:
        return self._rates.tally(now)


class _Probes:
    """Decide by the rates of so many probes, as soon as those still to come can't change it."""

    __slots__ = ("_calls", "_failed", "_failure_rate", "_probes", "_slow", "_slow_rate", "_slowly")

    failures: Final = 0

    def __init__(self, settings: BreakerSettings) -> None:
        self._probes = settings.probes
        self._failure_rate = settings.failure_rate
        self._slowly, self._slow_rate = _slowness(settings)
        self._calls = self._failed = self._slow = 0

    def succeeded(self, _now: float, seconds: float) -> Reason | None:
        return self._add(False, seconds > self._slowly)

    def failed(self, _now: float, seconds: float) -> Reason | None:
        return self._add(True, seconds > self._slowly)

    def _add(self, failed: bool, slow: bool) -> Reason | None:
        self._calls += 1
        self._failed += failed
        self._slow += slow
        probes = self._probes
        if self._failed / probes >= self._failure_rate:
            return Reason.PROBE_FAILED
        if self._slow / probes >= self._slow_rate:
            return Reason.PROBE_SLOW
        to_come = probes - self._calls
        at_worst = (self._failed + to_come) / probes, (self._slow + to_come) / probes
        if at_worst[0] < self._failure_rate and at_worst[1] < self._slow_rate:
            return Reason.PROBE_SUCCEEDED
        return None

    def tally(self, _now: float) -> Tally:
        return Tally(self._calls, self._failed, self._slow)


def _slowness(settings: BreakerSettings) -> tuple[float, float]:
    """Return from how many seconds on a call is slow, and which share of them is too many."""
    if settings.slow_seconds is None:
        return math.inf, math.inf
    return settings.slow_seconds, settings.slow_rate
