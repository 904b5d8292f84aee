"""Turns for work that is dear though legal: one piece in each turn of the loop, client by client.

Decoding a large body or encoding a large answer takes up to some milliseconds and can't be
interrupted. So only one such piece is done between two looks at the sockets. Each client has a
queue of its own, and the queues are served round robin (Nagle, RFC 970): a client that sends a
hundred large bodies delays its own, and another client's by one turn. When too many wait, the
longest queue loses its newest.

Nothing here is about HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["FairTurns"]

_MOST_WAITING = 64
"""So many calls wait at most, with their bodies or replies: 16 MiB with the default limits."""


class FairTurns:
    """Give out turns, one in each turn of the loop."""

    __slots__ = ("_clock", "_is_taken", "_most", "_queues", "waiting")

    def __init__(self, clock: Callable[[], float], most: int = _MOST_WAITING) -> None:
        self._clock = clock
        self._most = most
        self._is_taken = False
        """Whether somebody has had this turn of the loop."""
        self._queues: dict[str, deque[tuple[float, asyncio.Future[bool]]]] = {}
        """The clients that wait, in the order in which they are served; none is empty."""
        self.waiting = 0

    async def wait(self, client: str, deadline: float) -> bool:
        """Return True when it is this call's turn, False when it won't come by ``deadline``.

        After True the caller does its work without waiting for anything.
        """
        loop = asyncio.get_running_loop()
        if not self._is_taken:
            self._is_taken = True
            loop.call_soon(self._next_turn)
            return True
        if self.waiting >= self._most and not self._make_room(client):
            return False
        turn: asyncio.Future[bool] = loop.create_future()
        self._queues.setdefault(client, deque()).append((deadline, turn))
        self.waiting += 1
        return await turn

    def _make_room(self, client: str) -> bool:
        """Take the newest call out of the longest queue, unless that is this client's own."""
        longest = max(self._queues.values(), key=len)
        if len(longest) <= len(self._queues.get(client, ())):
            return False
        _, turn = longest.pop()
        self.waiting -= 1
        _tell(turn, False)
        self._queues = {name: queue for name, queue in self._queues.items() if queue}
        return True

    def _next_turn(self) -> None:
        self._drop_late(self._clock())
        self._is_taken = bool(self._queues)
        if not self._queues:
            return
        client = next(iter(self._queues))
        queue = self._queues.pop(client)
        _, turn = queue.popleft()
        self.waiting -= 1
        if queue:
            self._queues[client] = queue  # behind all others
        _tell(turn, True)
        asyncio.get_running_loop().call_soon(self._next_turn)

    def _drop_late(self, now: float) -> None:
        """Take out the calls whose deadline is over, and those that were cancelled."""
        for client, queue in list(self._queues.items()):
            for deadline, turn in queue:
                if deadline <= now:
                    _tell(turn, False)
            kept = deque(each for each in queue if not each[1].done())
            self.waiting -= len(queue) - len(kept)
            if kept:
                self._queues[client] = kept
            else:
                del self._queues[client]


def _tell(turn: asyncio.Future[bool], came: bool) -> None:
    if not turn.done():  # the call may have been cancelled
        turn.set_result(came)
