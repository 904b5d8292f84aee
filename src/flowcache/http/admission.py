"""Admission: whether this worker has room for one more call.

A call asks for room before anything is spent on it, and holds a place while it waits for Redis.
Nothing waits between the two, so the check and the place are one step.
"""

from __future__ import annotations

from flowcache.errors import Overloaded

__all__ = ["Admission"]


class Admission:
    """Count the calls at work, and refuse those past ``max_in_flight``."""

    __slots__ = ("_max_in_flight", "at_work", "refusals")

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self.at_work = 0
        """Calls that wait for Redis."""
        self.refusals = 0
        """Calls that were answered with `Overloaded`, whatever there was no room for."""

    def require_room(self) -> None:
        """Return if one more call may begin.

        Raises:
            Overloaded: no more calls may be at work.
        """
        if self.at_work >= self._max_in_flight:
            raise Overloaded("flowcache has too many calls at work; this call was not begun.")

    def enter(self) -> None:
        """Take a place. Whoever takes one calls `leave` at the end, whatever happens."""
        self.at_work += 1

    def leave(self) -> None:
        """Give the place back."""
        self.at_work -= 1
