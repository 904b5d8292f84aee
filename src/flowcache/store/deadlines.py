"""One timer for all the replies that are waited for.

A timer a request costs more than the request's own work, so deadlines are put in buckets of
`TICK` and one timer wakes for the next bucket: a hashed timing wheel (Varghese and Lauck, 1987)
whose wheel is a heap of the buckets in use, since there are few. A deadline is met late by up to
a tick and a millisecond, never early.

There are two such wheels: one for the deadlines, on the clock that callers go by, and one for the
moments from which on a reply is called slow, on a clock that stands still while the loop does
(`LoopWatch.listened`).

A loop looks at its timers before its sockets. So a sweep that comes late first lets the loop read
what came in the meantime: a reply that lies in a socket is handed to its caller, however late it
is. Where replies are called slow it waits a little longer: a command may have left only when the
loop went on.

A `Waiter` drops its listener when the reply comes, so that a bucket that still lies ahead keeps
no call and no reply alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from math import ceil
from typing import Any

import structlog

from flowcache.ports import Clock
from flowcache.store.replies import EXPIRED, SlowReply

__all__ = ["TICK", "AwaitedReply", "Deadlines", "Listener", "Waiter"]

_log = structlog.get_logger(__name__)

TICK = 0.005
"""Seconds."""

_GRACE = 2
"""How many times a late sweep is put off.

Once is not enough: uvloop takes a delay of 0 for ``call_soon``, and runs what is ready in the same
turn as its timers, before it reads the sockets.
"""
_PER_SECOND = round(1 / TICK)


class Listener:
    """Something that waits for a reply."""

    __slots__ = ()

    def hear(self, result: object) -> None:
        """Take the reply, or the `Fault` that came in its place. Called once.

        It is called while the replies of a whole read are handed out, and must not wait.
        """
        raise NotImplementedError

    def fail(self, bug: Exception) -> None:
        """Hear what `hear` raised: whoever waits behind it must not wait for ever."""

    def is_gone(self) -> bool:
        """Tell whether nobody wants to know any more."""
        return False


class AwaitedReply(Listener):
    """A coroutine that waits for a reply: ``future`` is what it awaits."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future

    def hear(self, result: object) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def is_gone(self) -> bool:
        return self.future.done()


class Waiter:
    """A place in the queue of replies. ``listener`` is None once it has heard, or nobody waits."""

    __slots__ = ("listener", "since")

    def __init__(self, listener: Listener | None, since: float) -> None:
        self.listener = listener
        self.since = since

    def answer(self, result: object) -> None:
        """Hand ``result`` to the listener, unless it has been answered.

        What a listener raises is a bug, and must not keep others from their replies.
        """
        listener = self.listener
        if listener is not None:
            self.listener = None
            try:
                listener.hear(result)
            except Exception as bug:
                _log.error("a bug", exc_info=bug)
                with suppress(Exception):
                    listener.fail(bug)

    def expire(self, _: asyncio.AbstractEventLoop) -> None:
        """Tell the listener that its deadline has passed."""
        self.answer(EXPIRED)

    def tell_slow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell the listener that it takes long, and hand it a future for the reply."""
        listener = self.listener
        if listener is not None and not listener.is_gone():
            rest = loop.create_future()
            self.answer(SlowReply(rest))
            self.listener = AwaitedReply(rest)


class Deadlines:
    """Do something about each waiter when its moment has passed: `Waiter.expire` as a rule.

    ``pause`` are the seconds by which a late sweep is put off each time: 0 is a turn of the loop.
    """

    __slots__ = ("_act", "_buckets", "_clock", "_loop", "_order", "_pause", "_timer")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        act: Callable[[Waiter, asyncio.AbstractEventLoop], None] = Waiter.expire,
        pause: float = 0.0,
    ) -> None:
        self._pause = pause
        self._loop = loop
        self._clock = clock
        self._act = act
        self._buckets: dict[int, list[Waiter]] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, waiter: Waiter, deadline: float) -> None:
        """Watch ``waiter`` until ``deadline`` (seconds of the clock)."""
        tick = int(deadline * _PER_SECOND) + 1
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket.append(waiter)
            return
        self._buckets[tick] = [waiter]
        heappush(self._order, tick)
        if self._order[0] == tick:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = self._order[0] * TICK - self._clock()
        # Up to the next millisecond: uvloop's timers know no less, and what rounds to 0 would wake
        # at once, again and again until the moment has come.
        self._timer = self._loop.call_later(ceil(max(0.0, delay) * 1000) / 1000, self._sweep)

    def _sweep(self, grace: int = _GRACE) -> None:
        self._timer = None
        now = int(self._clock() * _PER_SECOND)
        if self._order[0] < now and grace:
            self._timer = self._loop.call_later(self._pause, self._sweep, grace - 1)
            return
        while self._order and self._order[0] <= now:
            for waiter in self._buckets.pop(heappop(self._order)):
                if waiter.listener is not None:
                    self._act(waiter, self._loop)
        if self._order:
            self._arm()

    def close(self) -> None:
        """Stop the timer; it is done about whoever still waits as if the moment had passed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for bucket in self._buckets.values():
            for waiter in bucket:
                self._act(waiter, self._loop)
        self._buckets.clear()
        self._order.clear()
