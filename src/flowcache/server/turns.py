"""A turnstile: what needs no credential takes a bounded part of each turn of the event loop.

Without one, four thousand connections that ask for anything, be it a page that does not exist, have
all of it done in one turn, and every data action waits for that. With one, the first few of them
are answered in each turn, in the order they came; a data action waits for these few only. Whoever
waits here keeps a connection, and a connection asks for one thing at a time, so
`http.max_connections` bounds how many wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

__all__ = ["Turnstile"]

_A_TURN = 16
"""Answers without a credential that are made in one turn: less than a millisecond of work."""


class Turnstile:
    """Let ``most`` through in each turn of the loop; the others wait, first come first served."""

    __slots__ = ("_most", "_passed", "_waiting")

    def __init__(self, most: int = _A_TURN) -> None:
        self._most = most
        self._passed = 0
        """How many have passed in this turn."""
        self._waiting: deque[Callable[[], object] | asyncio.Future[None]] = deque()

    def enter(self, go: Callable[[], object]) -> None:
        """Call ``go``: at once if there is room in this turn, or else in a later one."""
        if self._has_room():
            go()
        else:
            self._waiting.append(go)

    async def wait(self) -> None:
        """Return in a turn that has room."""
        if not self._has_room():
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn

    def _has_room(self) -> bool:
        if self._waiting or self._passed >= self._most:
            return False
        if not self._passed:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._passed += 1
        return True

    def _next_turn(self) -> None:
        passing: deque[Callable[[], object]] = deque()
        while self._waiting and len(passing) < self._most:
            each = self._waiting.popleft()
            if not isinstance(each, asyncio.Future):
                passing.append(each)
            elif not each.done():  # whoever was cancelled takes nobody's place
                passing.append(partial(each.set_result, None))
        self._passed = len(passing)
        if passing:
            # First of all: whatever the callbacks below do, those behind them get their turn.
            asyncio.get_running_loop().call_soon(self._next_turn)
        try:
            while passing:
                passing.popleft()()
        finally:
            self._waiting.extendleft(reversed(passing))
