"""A history in numbers. Pure; every figure says what it counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chaos.history import Call, Strike, holds

__all__ = ["GRACE", "Figures", "Share", "measure", "percentile"]

GRACE = 0.02
"""Seconds beyond the deadline in which an answer is still in time."""
AT_ONCE = 1.0
"""Seconds after a primary's death in which its reads have to come back."""


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many."""

    part: int
    whole: int

    @classmethod
    def of(cls, calls: Iterable[Call], has: Callable[[Call], bool]) -> Share:
        """Count the calls that have something."""
        having = [has(call) for call in calls]
        return cls(sum(having), len(having))

    @property
    def value(self) -> float:
        """The share, 0 to 1; 1 where there was nothing to fail."""
        return self.part / self.whole if self.whole else 1.0

    def __str__(self) -> str:
        return f"{self.value:.2%}" if self.part < self.whole else "100%"


@dataclass(frozen=True, slots=True)
class Figures:
    """One scenario in numbers. Times are in seconds."""

    calls: int
    succeeded: Share
    in_time: Share
    """Answered, well or not, within the deadline and `GRACE`."""
    p999: float
    """The latency that one call of a thousand exceeds, from when it should have left, without what
    the generator itself was late."""
    worst: float
    generator_late: float
    """The 99.9th percentile of how late the generator was to send."""
    generator_lag: float
    """The same of how late its event loop woke up, which it then is in noticing answers too."""
    failed: Counter[str]
    """Calls that did not succeed, by outcome."""
    read_outage: float
    """The longest time without a successful read of any key of those struck together."""
    write_outage: float
    """The same of writes."""
    others: Share | None
    """Calls that succeeded on the shards that were not struck, from each strike on."""
    reads_at_once: Share | None
    """Reads of struck keys that succeeded, of those sent within `AT_ONCE` after the strike."""
    reads_later: Share | None
    """The same of those sent thereafter, until the servers had failed over."""
    stale: int
    """Reads that said that they may be old."""
    writes_recovered: float | None
    """How long after the servers' own failover the last write to a struck key was sent that
    failed; the worst of all strikes, infinity where writes still failed at the end."""


def measure(
    calls: Sequence[Call],
    lags: Sequence[float],
    *,
    began: float,
    ended: float,
    deadline: float,
    strikes: Sequence[Strike] = (),
) -> Figures:
    """Compute the figures of one scenario."""
    latencies = [call.latency for call in calls]
    windows = _windows(strikes, ended)
    partial = [window for window in windows if _is_partial(window.strike)]
    survivable = [window for window in windows if window.strike.reads_survive]
    return Figures(
        calls=len(calls),
        succeeded=Share.of(calls, _ok),
        in_time=Share.of(calls, lambda call: call.latency <= deadline + GRACE),
        p999=percentile(latencies, 0.999),
        worst=max(latencies, default=0.0),
        generator_late=percentile([call.lateness for call in calls], 0.999),
        generator_lag=percentile(lags, 0.999),
        failed=Counter(call.outcome for call in calls if not call.ok),
        read_outage=_longest(strikes, [call for call in calls if call.reads], began, ended),
        write_outage=_longest(strikes, [call for call in calls if not call.reads], began, ended),
        others=_pooled(partial, calls, _is_of_others),
        reads_at_once=_pooled(survivable, calls, _is_read_at_once),
        reads_later=_pooled(survivable, calls, _is_read_later),
        stale=sum(call.stale for call in calls),
        writes_recovered=_recovery(windows, calls),
    )


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that ``share`` of them do not exceed; 0 where there are none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


@dataclass(frozen=True, slots=True)
class _Window:
    """A strike, and when the next one or the end of the load came."""

    strike: Strike
    until: float

    def has(self, call: Call) -> bool:
        return self.strike.at <= call.woken < self.until


def _windows(strikes: Sequence[Strike], ended: float) -> list[_Window]:
    return [_Window(strike, after.at) for strike, after in pairwise(strikes)] + [
        _Window(strike, ended) for strike in strikes[-1:]
    ]


def _ok(call: Call) -> bool:
    return call.ok


def _is_partial(strike: Strike) -> bool:
    return sum(map(len, strike.slots)) < 16_384


def _is_of_others(window: _Window, call: Call) -> bool:
    return window.has(call) and not holds(window.strike.slots, call.key)


def _is_read_at_once(window: _Window, call: Call) -> bool:
    return _is_struck_read(window, call) and call.woken < window.strike.at + AT_ONCE


def _is_read_later(window: _Window, call: Call) -> bool:
    over = window.strike.failed_over or window.until
    return _is_struck_read(window, call) and window.strike.at + AT_ONCE <= call.woken <= over


def _is_struck_read(window: _Window, call: Call) -> bool:
    return call.reads and window.has(call) and holds(window.strike.slots, call.key)


def _pooled(
    windows: Sequence[_Window], calls: Sequence[Call], belongs: Callable[[_Window, Call], bool]
) -> Share | None:
    if not windows:
        return None
    return Share.of((call for window in windows for call in calls if belongs(window, call)), _ok)


def _longest(strikes: Sequence[Strike], calls: Sequence[Call], began: float, ended: float) -> float:
    """Return the longest outage of all that was struck, each by itself."""
    struck = [[call for call in calls if holds(strike.slots, call.key)] for strike in strikes]
    return max(_outage(each, began, ended) for each in struck or [list(calls)])


def _outage(calls: Iterable[Call], began: float, ended: float) -> float:
    """Return the longest time without a success."""
    times = sorted(call.answered for call in calls if call.ok)
    edges = [began, *times, ended]
    return max(max(0.0, after - before) for before, after in pairwise(edges))


def _recovery(windows: Sequence[_Window], calls: Sequence[Call]) -> float | None:
    """Return how long after a failover the last write was sent that failed; the worst of all."""
    writes = [call for call in calls if not call.reads]
    delays = [
        _last_failure(over, [call for call in writes if _is_after(window, over, call)])
        for window in windows
        if (over := window.strike.failed_over) is not None
    ]
    return max(delays, default=None)


def _is_after(window: _Window, over: float, call: Call) -> bool:
    return over <= call.woken < window.until and holds(window.strike.slots, call.key)


def _last_failure(over: float, writes: Sequence[Call]) -> float:
    """Return when the last write failed, infinity when none succeeded thereafter."""
    failed = max((call.woken for call in writes if not call.ok), default=over)
    is_over = failed == over or any(call.ok and call.woken > failed for call in writes)
    return failed - over if is_over else float("inf")
