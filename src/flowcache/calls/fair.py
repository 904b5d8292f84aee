"""Turns for work that is dear though legal: a bounded part of each turn of the loop, by client.

Decoding a large body or encoding a large answer takes up to some milliseconds and can't be
interrupted. So between two looks at the sockets only one such piece is done, or a few small ones.
Each client has a queue of its own, and the queues are served round robin (Nagle, RFC 970): a client
that sends a hundred large bodies delays its own, and another client's by one piece. Whoever would
wait too long, by the pace of late, is told so at once.

Nothing here is about HTTP. How much those who wait may hold is not decided here (`room`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["FairTurns"]

_A_TURN: Final = 2048
"""The weight (`contract.bounds.weight`) that is begun in one turn: half a millisecond of work."""
_NEWS: Final = 0.1
"""How much the last turn counts in the pace."""


class FairTurns:
    """Give out turns: pieces of ``a_turn`` in each turn of the loop, or one that is heavier."""

    __slots__ = ("_a_turn", "_began", "_clock", "_given", "_left", "_pace", "_queues", "waiting")

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
        self._queues: dict[str, deque[tuple[float, int, asyncio.Future[bool]]]] = {}
        """The clients that wait, in the order in which they are served; none is empty."""
        self.waiting = 0

    async def wait(self, client: str, deadline: float, weight: int) -> bool:
        """Return True when it is this call's turn, False when it won't come by ``deadline``.

        After True the caller does its work without waiting for anything.
        """
        loop = asyncio.get_running_loop()
        if self._left > 0 and not self._queues:
            if not self._given:
                self._began = self._clock()
                loop.call_soon(self._next_turn)
            self._begin(weight)
            return True
        queue = self._queues.get(client, ())
        clients = len(self._queues) + (not queue)
        before = min(self.waiting, (len(queue) + 1) * clients)
        if self._clock() + before * self._pace >= deadline:
            return False
        turn: asyncio.Future[bool] = loop.create_future()
        self._queues.setdefault(client, deque()).append((deadline, weight, turn))
        self.waiting += 1
        return await turn

    def _begin(self, weight: int) -> None:
        self._left -= weight
        self._given += 1

    def _next_turn(self) -> None:
        now = self._clock()
        self._pace += ((now - self._began) / self._given - self._pace) * _NEWS
        self._began, self._given, self._left = now, 0, self._a_turn
        self._drop_late(now)
        while self._queues and self._left > 0:
            client = next(iter(self._queues))
            queue = self._queues.pop(client)
            _, weight, turn = queue.popleft()
            self.waiting -= 1
            if queue:
                self._queues[client] = queue  # behind all others
            turn.set_result(True)
            self._begin(weight)
        if self._given:
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _drop_late(self, now: float) -> None:
        """Take out the calls whose deadline is over, and those that were cancelled."""
        for client, queue in list(self._queues.items()):
            for deadline, _, turn in queue:
                if deadline <= now and not turn.done():
                    turn.set_result(False)
            kept = deque(each for each in queue if not each[2].done())
            self.waiting -= len(queue) - len(kept)
            if kept:
                self._queues[client] = kept
            else:
                del self._queues[client]
