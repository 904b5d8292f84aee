"""A stream in Redis: an entry a record, its JSON in the field ``record``.

A batch is appended by one script, all or nothing: pipelined commands of which one fails in the
middle would leave a writer's records out of order. The stream is bounded: who does not read it in
time misses what was cut off.
"""

from __future__ import annotations

from flowcache.delivery.batch import Batch
from flowcache.delivery.settings import Stream
from flowcache.errors import DeadlineExceeded, Failure, RedisUnavailable
from flowcache.outbound.judging import NotNow, Refused
from flowcache.ports import APPEND, Clock, Command
from flowcache.store.redis_store import RedisStore

__all__ = ["StreamDestination"]


class StreamDestination:
    """Append to ``settings``' stream; Redis has so many ``seconds`` for a batch."""

    def __init__(self, settings: Stream, seconds: float, clock: Clock) -> None:
        self._store = RedisStore(settings.store, clock)
        self._key = settings.key
        self._most = b"%d" % settings.most
        self._seconds = seconds
        self._clock = clock
        self._started = False

    async def send(self, batch: Batch) -> None:
        """Append a batch; see `Destination.send`."""
        if not self._started:
            await self._store.start()
            self._started = True
        command = Command(APPEND, self._key, (self._most, b"record", *batch.lines), writes=True)
        try:
            await self._store.execute(command, self._clock() + self._seconds)
        except (RedisUnavailable, DeadlineExceeded) as fault:
            raise NotNow(fault.message) from None
        except Failure as fault:  # another type under the key, or a user that may not
            raise Refused(fault.message) from None

    async def close(self) -> None:
        """Close the links."""
        if self._started:
            await self._store.close()
