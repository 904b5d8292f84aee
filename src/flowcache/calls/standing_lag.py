"""Refuse some calls early while the event loop is too slow to answer all of them in time.

A call passes through the loop some four times: it is read, it is run, its reply is read, its answer
is written. When each turn takes a quarter of the deadline, a call that is begun ends too late,
whatever Redis does. As in CoDel (Nichols and Jacobson, "Controlling Queue Delay", 2012), a long
turn alone is no overload: a pause that is over needs no refusals. A lag that stands is.

Refusing is not free: a call that is refused was read, and its answer is written. A worker that
refused everybody would answer nobody. So a share of the calls is refused, which grows with each
late beat of the watch and shrinks with each one in time.
"""

from __future__ import annotations

from typing import Final

from flowcache.loop_watch import PERIOD

__all__ = ["StandingLag"]

_TURNS: Final = 4
"""How many turns of the loop a call needs."""
_STANDS: Final = 0.5
"""Seconds for which each beat has to be late before calls are refused."""
_MOST: Final = 0.9
"""The greatest share of calls to refuse: some calls have to show whether it still is too slow."""
_GROWTH: Final = 0.25
"""How much of the way to `_MOST` the share goes with each late beat."""
_DECAY: Final = 0.95
"""What is left of the share after each beat in time: a half after a quarter of a second."""
_NONE: Final = 0.02
"""A share below which nobody is refused."""


class StandingLag:
    """Decide which share of the calls to refuse, by the lag of each beat of a `LoopWatch`.

    ``deadline`` is in seconds, and that of a call without one of its own.
    """

    __slots__ = ("_bearable", "_due", "_late_for", "_was_late", "share")

    def __init__(self, deadline: float) -> None:
        self._bearable = deadline / _TURNS
        self._was_late = False
        self._late_for = 0.0
        self._due = 0.0
        self.share = 0.0
        """The share of calls to refuse now; 0 as a rule."""

    def record(self, lag: float) -> None:
        """Hear by how many seconds a beat was late."""
        if lag < self._bearable:
            self._was_late, self._late_for = False, 0.0
            share = self.share * _DECAY
            self.share = share if share >= _NONE else 0.0
            return
        if self._was_late:  # else it may have been one pause, however long
            self._late_for += PERIOD + lag
        self._was_late = True
        if self._late_for >= _STANDS:
            self.share += (_MOST - self.share) * _GROWTH

    def refuses(self) -> bool:
        """Tell whether to refuse this call; evenly spread, not by chance."""
        self._due += self.share
        if self._due < 1:
            return False
        self._due -= 1
        return True
