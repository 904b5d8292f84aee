"""A rate limit that a fleet has in common, without a round trip a call.

Each process has a bucket of its own, and decides by it at once. In the background, at most every
`_PERIOD` seconds and only while there are calls, it tells Redis how many tokens it took and learns
when all that *everybody* took will have been earned; its own bucket is set to that. So:

- no call waits for the limiter, and a busy client costs Redis 20 commands a second a process;
- what was taken is counted even where it should not have been had: in the long run the fleet
  keeps to the rate exactly;
- the weakness: between two reports the processes don't see each other. Each may let through a
  burst of its own before it hears of the others; that is owed, and all wait until it is earned.

Redis does not answer: each process goes on by its own bucket. So the limit fails neither open nor
closed: a client gets at most its rate from each process.
"""

from __future__ import annotations

import asyncio

from flowcache.errors import Failure
from flowcache.executing import Executor
from flowcache.ports import RESERVED_PREFIX, TAKE, Clock, Command
from flowcache.ratelimit.buckets import Bucket, Rate

__all__ = ["SharedBucket"]

_PERIOD = 0.05
"""Seconds between two reports of a client: what the fleet may be late to notice."""

_TIMEOUT = 0.25
"""Seconds that Redis has to take a report."""


class SharedBucket:
    """The bucket of client ``name`` in this process, and its part in that of the fleet."""

    __slots__ = ("_bucket", "_clock", "_key", "_next", "_report", "_store", "_taken")

    def __init__(self, name: str, rate: Rate, store: Executor, clock: Clock) -> None:
        self._bucket = Bucket(rate)
        self._key = RESERVED_PREFIX + b"rate:" + name.encode()
        self._store = store
        self._clock = clock
        self._taken = 0
        """Tokens that Redis has not been told of."""
        self._next = float("-inf")
        self._report: asyncio.Task[None] | None = None

    def take(self, now: float) -> float:
        """Take one token; see `Limiter.take`. Needs a running event loop."""
        wait = self._bucket.take(now)
        if not wait:
            self._taken += 1
        if self._taken and self._report is None and now >= self._next:
            self._next = now + _PERIOD
            self._report = asyncio.create_task(self._tell())
        return wait

    async def _tell(self) -> None:
        bucket = self._bucket
        taken, self._taken = self._taken, 0
        command = Command(
            (TAKE, self._key, b"%.3f" % (bucket.interval * 1e6), b"%d" % taken), writes=True
        )
        try:
            done = await self._store.execute(command, self._clock() + _TIMEOUT)
        except Failure:
            return  # they may have been counted: told again, they might be counted twice
        finally:
            self._report = None
        if isinstance(done.reply, int):
            # What was taken meanwhile comes on top.
            bucket.correct(self._clock() + done.reply / 1e6 + self._taken * bucket.interval)

    async def close(self) -> None:
        """End what is under way."""
        if self._report is not None:
            self._report.cancel()
            await asyncio.gather(self._report, return_exceptions=True)
