"""The last calls of a circuit, counted: by number or by time, in bounded memory.

Adding a call costs the same however long the window is: what a call brings is added to the sums,
and what falls out is taken off. Nothing is allocated.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, Protocol

from flowcache.resilience.breaker.settings import Unit, Window

__all__ = ["BUCKETS", "NO_CALLS", "CallWindow", "SlidingWindow", "Tally", "TimeWindow", "window_of"]

BUCKETS: Final = 10
"""A window of time forgets a tenth of itself at a time."""


class Tally(NamedTuple):
    """Count calls, and how many of them failed and were slow. One call may be both."""

    calls: int
    failed: int
    slow: int


NO_CALLS: Final = Tally(0, 0, 0)


class SlidingWindow(Protocol):
    """The last calls, whatever "last" means."""

    calls: int
    failed: int
    slow: int

    def add(self, now: float, failed: bool, slow: bool) -> None:
        """Count one call, and forget those that fall out. The three sums are true afterwards."""

    def tally(self, now: float) -> Tally:
        """Return the sums as of ``now``. Changes nothing."""


def window_of(window: Window) -> SlidingWindow:
    """Return an empty window of the given kind."""
    return CallWindow(window.size) if window.unit is Unit.CALLS else TimeWindow(window.size)


class CallWindow:
    """The last ``size`` calls: a ring with a byte for each."""

    __slots__ = ("_next", "_ring", "_size", "calls", "failed", "slow")

    def __init__(self, size: int) -> None:
        self._ring = bytearray(size)  # bit 0: failed, bit 1: slow; zero where nothing is yet
        self._size = size
        self._next = 0
        self.calls = self.failed = self.slow = 0

    def add(self, _now: float, failed: bool, slow: bool) -> None:
        """Count one call in place of the oldest."""
        place = self._next
        oldest = self._ring[place]
        self._ring[place] = failed | slow << 1
        self._next = (place + 1) % self._size
        if self.calls < self._size:
            self.calls += 1
        self.failed += failed - (oldest & 1)
        self.slow += slow - (oldest >> 1)

    def tally(self, _now: float) -> Tally:
        """Return the sums: the last calls are the last however long ago they were."""
        return Tally(self.calls, self.failed, self.slow)


class TimeWindow:
    """The calls of the last ``seconds``: a ring of `BUCKETS` sums.

    Time is cut into stretches of a bucket each, numbered from the clock's zero, and the window is
    the present stretch and those before it: so it is between nine and ten tenths of ``seconds``
    long. A ``now`` that went backwards counts for the newest stretch there is.
    """

    __slots__ = ("_at", "_buckets", "_newest", "_width", "calls", "failed", "slow")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / BUCKETS
        self._buckets = [[0, 0, 0] for _ in range(BUCKETS)]  # calls, failed, slow
        self._at = 0  # where the newest stretch has its bucket
        self._newest = -math.inf
        self.calls = self.failed = self.slow = 0

    def add(self, now: float, failed: bool, slow: bool) -> None:
        """Count one call in the present stretch."""
        stretch = now // self._width
        if stretch > self._newest:
            self._forget(min(stretch - self._newest, BUCKETS))
            self._newest = stretch
        bucket = self._buckets[self._at]
        bucket[0] += 1
        self.calls += 1
        if failed:
            bucket[1] += 1
            self.failed += 1
        if slow:
            bucket[2] += 1
            self.slow += 1

    def _forget(self, stretches: float) -> None:
        for _ in range(int(stretches)):
            self._at = (self._at + 1) % BUCKETS
            bucket = self._buckets[self._at]
            self.calls -= bucket[0]
            self.failed -= bucket[1]
            self.slow -= bucket[2]
            bucket[:] = (0, 0, 0)

    def tally(self, now: float) -> Tally:
        """Return the sums of the stretches that are not over long enough."""
        gone = max(0.0, now // self._width - self._newest)
        kept = range(self._at, self._at - BUCKETS + int(min(gone, BUCKETS)), -1)
        return Tally(*map(sum, zip(NO_CALLS, *(self._buckets[at] for at in kept), strict=True)))
