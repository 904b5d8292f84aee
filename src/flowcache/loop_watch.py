"""Watch the event loop: how late it is, and a clock that stands still while it does not turn.

A loop that is held up (a long decode, a garbage collection, a process that was stopped) uses up
its callers' deadlines by itself. Whoever judges Redis must leave that time out. So there are two
clocks: the clock of the host, which deadlines and promises to callers go by, and
`LoopWatch.listened`, which replies are judged by: timeouts, slow calls, hedges, overdue replies.

One timer fires every `PERIOD`. How late it is, is the loop's lag. A beat that is late by up to
`TOLERANCE` costs nothing: the loop still looked at its sockets often enough to see a reply soon
after it came. What goes beyond is time in which nobody listened, and the second clock stands still
for it, from the moment at which the beat is overdue. So it is continuous, it never runs back, and
one pause counts as `PERIOD` + `TOLERANCE` at most, however long it was.

Known weakness: the watch can't tell a loop that was held up from a host whose clock went on while
everything was frozen, Redis included. In both cases nobody can blame Redis, and nobody does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

import structlog

__all__ = ["PERIOD", "TOLERANCE", "LoopWatch"]

PERIOD: Final = 0.02
"""Seconds between two beats."""
TOLERANCE: Final = 0.03
"""Seconds by which a beat may be late before the loop counts as held up."""

_LOGGED_FROM: Final = 0.1
"""Seconds of lag that are worth a log line."""
_LOG_INTERVAL: Final = 60.0
"""Seconds between two log lines."""

_log = structlog.get_logger(__name__)


class LoopWatch:
    """Measure the lag of the running event loop. One for each worker.

    ``clock`` returns monotonic seconds. ``record`` is called with the lag of each beat in seconds.
    Before `start` and after `close`, `listened` runs as ``clock`` does.
    """

    __slots__ = (
        "_clock",
        "_due",
        "_limit",
        "_logged_at",
        "_longest_unlogged",
        "_record",
        "_timer",
        "_times_unlogged",
        "lag",
        "longest",
        "lost",
    )

    def __init__(
        self, clock: Callable[[], float], record: Callable[[float], None] = lambda lag: None
    ) -> None:
        self._clock = clock
        self._record = record
        self.lag = 0.0
        """Seconds by which the last beat was late."""
        self.longest = 0.0
        """Seconds by which the latest of all beats was late."""
        self.lost = 0.0
        """Seconds in which nobody listened, since the start."""
        self._due = inf
        self._limit = inf
        """From when on the present turn of the loop counts as lost."""
        self._timer: asyncio.TimerHandle | None = None
        self._logged_at = -inf
        self._times_unlogged = 0
        self._longest_unlogged = 0.0

    def listened(self) -> float:
        """Return monotonic seconds without those in which the loop did not turn."""
        now = self._clock()
        limit = self._limit
        return (now if now < limit else limit) - self.lost

    def start(self) -> None:
        """Begin to watch the running loop."""
        self._wait(self._clock())

    def close(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.lost += max(0.0, self._clock() - self._limit)
        self._due = self._limit = inf

    def _wait(self, now: float) -> None:
        self._due = now + PERIOD
        self._limit = self._due + TOLERANCE
        self._timer = asyncio.get_running_loop().call_later(PERIOD, self._beat)

    def _beat(self) -> None:
        now = self._clock()
        lag = max(0.0, now - self._due)
        self.lag = lag
        self.longest = max(self.longest, lag)
        self.lost += max(0.0, now - self._limit)
        self._wait(now)
        self._record(lag)
        if lag >= _LOGGED_FROM:
            self._report(now, lag)

    def _report(self, now: float, lag: float) -> None:
        self._times_unlogged += 1
        self._longest_unlogged = max(self._longest_unlogged, lag)
        if now - self._logged_at < _LOG_INTERVAL:
            return
        self._logged_at = now
        _log.warning(
            "event_loop_lagged",
            lag_ms=round(lag * 1000),
            longest_ms=round(self._longest_unlogged * 1000),
            times=self._times_unlogged,
            lost_seconds=round(self.lost, 3),
        )
        self._times_unlogged, self._longest_unlogged = 0, 0.0
