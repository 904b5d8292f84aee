"""Turns for work that is dear though legal: a bounded part of each turn of the loop, by client.

Decoding a large body or encoding a large answer takes up to some milliseconds and can't be
interrupted. So between two looks at the sockets only one such piece is done, or a few small ones.
Clients are served round robin (`fair_queue`): one that sends a hundred large bodies delays its own,
and another client's by one piece. Whoever would wait too long, by the pace of late, is told so at
once.

Nothing here is about HTTP. How much those who wait may hold is not decided here (`room`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from flowcache.fair_queue import FairQueue, Turn

__all__ = ["FairTurns"]

_A_TURN: Final = 2048
"""The weight (`contract.bounds.weight`) that is begun in one turn: half a millisecond of work."""
_NEWS: Final = 0.1
"""How much the last turn counts in the pace."""


class FairTurns:
    """Give out turns: pieces of ``a_turn`` in each turn of the loop, or one that is heavier."""

    __slots__ = ("_a_turn", "_began", "_clock", "_given", "_left", "_pace", "_queue")

    def __init__(self, clock: Callable[[], float], a_turn: int = _A_TURN) -> None:
        self._clock = clock
        self._a_turn = a_turn
        self._left = a_turn
        """What may still be begun in this turn of the loop; all of it: nobody has had any."""
        self._given = 0
        """How many pieces have been begun in this turn."""
        self._began = 0.0
        self._pace = 0.0
        """Seconds from one piece to the next, of late: with all that is done in between."""
        self._queue = FairQueue()

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return len(self._queue)

    def has_turn(self, weight: int) -> bool:
        """Tell whether a piece of work may be done at once; then it is done at once."""
        if self._left <= 0 or self._queue:
            return False
        if not self._given:
            self._began = self._clock()
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._begin(weight)
        return True

    async def wait(self, client: str, deadline: float, weight: int) -> bool:
        """Return True when it is this call's turn, False when it won't come by ``deadline``.

        After True the caller does its work without waiting for anything.
        """
        loop = asyncio.get_running_loop()
        if self.has_turn(weight):
            return True
        if self._clock() + self._queue.ahead_of(client) * self._pace >= deadline:
            return False
        turn = Turn(deadline, weight, loop.create_future())
        self._queue.add(client, turn)
        return await turn.future

    def _begin(self, weight: int) -> None:
        self._left -= weight
        self._given += 1

    def _next_turn(self) -> None:
        now = self._clock()
        self._pace += ((now - self._began) / self._given - self._pace) * _NEWS
        self._began, self._given, self._left = now, 0, self._a_turn
        self._queue.drop_late(now)
        while self._queue and self._left > 0:
            turn = self._queue.pop()
            turn.future.set_result(True)
            self._begin(turn.weight)
        if self._given:
            asyncio.get_running_loop().call_soon(self._next_turn)
