"""A queue of waiting calls that serves clients round robin (Nagle, RFC 970).

Each client has a queue of its own, and the next call is of the client that was served longest ago.
So a client that has a hundred calls in the queue delays its own, and another client's by one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import NamedTuple

__all__ = ["FairPlaces", "FairQueue", "Turn"]


class Turn(NamedTuple):
    """A call that waits. ``future`` is True when it is its turn, False when that comes too late.

    ``weight`` is how much it will do, in units of whoever serves the queue.
    """

    deadline: float
    weight: int
    future: asyncio.Future[bool]


class FairQueue:
    """Turns by client. Its length is how many there are."""

    __slots__ = ("_length", "_queues")

    def __init__(self) -> None:
        self._queues: dict[str, deque[Turn]] = {}
        """The clients that wait, in the order in which they are served; none is empty."""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def ahead_of(self, client: str) -> int:
        """Return how many turns at most are served before one that ``client`` would add now."""
        queue = self._queues.get(client, ())
        clients = len(self._queues) + (not queue)
        return min(self._length, (len(queue) + 1) * clients)

    def of(self, client: str) -> int:
        """Return how many turns a client waits for."""
        return len(self._queues.get(client, ()))

    def add(self, client: str, turn: Turn) -> None:
        """Add a turn behind the others of ``client``."""
        self._queues.setdefault(client, deque()).append(turn)
        self._length += 1

    def pop(self) -> Turn:
        """Take out the next turn; there has to be one."""
        client = next(iter(self._queues))
        queue = self._queues.pop(client)
        turn = queue.popleft()
        self._length -= 1
        if queue:
            self._queues[client] = queue  # behind all others
        return turn

    def drop_late(self, now: float) -> None:
        """Take out the turns whose deadline is over, and those of calls that were cancelled."""
        for client, queue in list(self._queues.items()):
            for deadline, _, future in queue:
                if deadline <= now and not future.done():
                    future.set_result(False)
            kept = deque(turn for turn in queue if not turn.future.done())
            self._length -= len(queue) - len(kept)
            if kept:
                self._queues[client] = kept
            else:
                del self._queues[client]


class FairPlaces:
    """So many places for calls that do something at once; the others wait, served round robin."""

    __slots__ = ("_free", "_queue")

    def __init__(self, most: int) -> None:
        self._free = most
        self._queue = FairQueue()

    def take(self) -> bool:
        """Take a place, to be given back, if there is one."""
        if self._free:  # then nobody waits
            self._free -= 1
            return True
        return False

    def waiting(self, client: str) -> int:
        """Return how many calls of a client wait."""
        return self._queue.of(client)

    async def wait(self, client: str) -> None:
        """Take a place when it is this call's turn. Whoever gives up is cancelled, and has none."""
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.add(client, Turn(inf, 1, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the place came in the same turn of the loop
                self.give()
            raise

    def give(self) -> None:
        """Give a place back: to the next that waits, if one does."""
        while self._queue:
            turn = self._queue.pop().future
            if not turn.done():
                turn.set_result(True)
                return
        self._free += 1
